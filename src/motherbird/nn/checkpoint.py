"""Models from and to Hugging Face directories; `core.weights` reads the files."""

import json
import logging
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from ..core import hf_config, weights
from ..core.arguments import check_path, check_type
from ..core.config import EncoderConfig
from ..core.tokenizer import Tokenizer
from ..core.weights import INDEX, WEIGHTS, Stored, head_tensors, read_config
from ..errors import DivergedError, OutputExistsError
from ..files import new_directory
from .devices import DTYPES, resolve_device, resolve_dtype, warn_if_emulated

if TYPE_CHECKING:
    from .model import Model

log = logging.getLogger(__name__)

M = TypeVar("M", bound=nn.Module)


def load(
    cls: "type[M]",
    directory: Path,
    dtype: torch.dtype | str,
    attention: str,
    device: torch.device | str | None,
    split_special_tokens: bool,
) -> M:
    """Load a `Model` of a class from a local directory; see `Model.load`."""
    target = resolve_device(device)
    wanted = resolve_dtype(dtype, target)
    raw = read_config(directory)
    config = hf_config.read(raw, str(directory / "config.json"))
    with torch.device("meta"):
        model: Any = cast(Any, cls).from_config(config, raw, attention)
    prefix = "model." if model.encoder is model else ""  # of published names
    own = {prefix + name: tuple(t.shape) for name, t in model.state_dict().items()}
    selected = {
        name.removeprefix(prefix): tensor
        for name, tensor in weights.select(directory, config, own, cls.__name__).items()
    }
    stored = reduce(torch.promote_types, (DTYPES[tensor.dtype] for tensor in selected.values()))
    wanted = wanted or stored
    warn_if_emulated(wanted, target)
    tensors = {name: to_torch(tensor).to(target, wanted) for name, tensor in selected.items()}
    model.load_state_dict(tensors, assign=True)
    model.encoder.tokenizer = weights.load_tokenizer(directory, config, split_special_tokens)
    if torch.promote_types(stored, wanted) != wanted:
        model.encoder.rounded_from = stored
    model.eval()
    return model


def to_torch(tensor: Stored) -> Tensor:
    """Copy a tensor of a file to torch."""
    copied = torch.from_numpy(np.array(tensor.raw))
    return copied.view(torch.bfloat16) if tensor.dtype == "bfloat16" else copied


def from_torch(tensor: Tensor) -> Stored:
    """Return the values of a tensor on a CPU, without a copy if it is contiguous."""
    tensor = tensor.contiguous()
    dtype = str(tensor.dtype).removeprefix("torch.")
    raw = tensor.view(torch.uint16) if dtype == "bfloat16" else tensor
    return Stored(dtype, raw.numpy())


def save(
    model: "Model",
    directory: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    write_more: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Write a Hugging Face directory that transformers 5 and other libraries load.

    Args:
        model: the model.
        directory: new, empty, or written by motherbird before; then it is replaced.
        tokenizer: saved with the model; None is the model's own, if it has one.
        write_more: writes further files into the directory before it gets its name.

    Raises:
        OutputExistsError: the directory exists and was not written by motherbird, or has the
            weights of a head that the model does not have.
        DivergedError: a weight is NaN or infinite.
    """
    directory = check_path(directory, "the directory")
    if tokenizer is not None:
        check_type(tokenizer, "tokenizer", Tokenizer, "load it with motherbird.tokenizer")
    exists = (directory / WEIGHTS).is_file() or (directory / INDEX).is_file()
    lost = sorted(head_tensors(directory) - model.state_dict().keys()) if exists else []
    if lost:
        raise OutputExistsError(
            f"the directory has weights of a head that would be lost ({weights.few(lost)})",
            str(directory),
            "save to another directory, or delete this one",
        )
    if model.encoder.rounded_from is not None:
        dtypes = f"{model.encoder.rounded_from}, rounded to {next(model.parameters()).dtype}"
        log.warning("the weights were loaded from %s, and are saved so; to save them as they were, "
                    'load the model with dtype="stored"', dtypes.replace("torch.", ""))  # fmt: skip
    with new_directory(directory, "model") as fresh:
        write(model, fresh, tokenizer)
        write_more(fresh)


def write(model: "Model", directory: Path, tokenizer: Tokenizer | None = None) -> None:
    """Write the files of `save` into a directory that `files.new_directory` has created."""
    config = model.encoder.config
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise DivergedError(
            f"weights are NaN or infinite: {weights.few(bad)}", how="nothing was saved"
        )
    dtype = str(next(iter(tensors.values())).dtype).removeprefix("torch.")
    raw = hf_config.write(config, model.architecture, dtype, model.labels)
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    # The library makes the file readable by its owner alone.
    (directory / WEIGHTS).chmod((directory / "config.json").stat().st_mode)
    tokenizer = tokenizer or model.encoder.tokenizer
    if tokenizer is not None:
        tokenizer.write_files(directory, config.max_position_embeddings)
    card = _card(config, model.architecture, tensors)
    (directory / "README.md").write_text(card, encoding="utf-8")


def _card(config: EncoderConfig, architecture: str, tensors: dict[str, Tensor]) -> str:
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return (
        "---\nlibrary_name: transformers\ntags: [modernbert, motherbird]\n---\n\n"
        f"# {architecture}\n\n"
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {parameters:,} parameters, "
        f"up to {config.max_position_embeddings:,} tokens. Written by motherbird; loads in "
        "motherbird, transformers and sentence-transformers.\n"
    )
