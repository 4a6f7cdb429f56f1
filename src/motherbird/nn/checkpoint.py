"""Read, check and write Hugging Face directories.

Weights are read from safetensors only. Nothing in a directory is ever executed.
"""

import json
import logging
import re
from collections.abc import Callable
from functools import reduce
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar, cast

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core import hf_config
from ..core import tokenizer as tokenizers
from ..core.arguments import check_path, check_type
from ..core.config import EncoderConfig
from ..core.tokenizer import Tokenizer
from ..errors import DamagedError, DivergedError, InputError, OutputExistsError
from ..files import check_files, new_directory, parse_json, read_json, read_json_object
from .devices import INT8, resolve_device, resolve_dtype, warn_if_emulated
from .quantize import quantize

if TYPE_CHECKING:
    from .model import Model

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = r"(\w[\w-]*/)?\w[\w.-]*\.safetensors"  # in the directory or one below it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz", ".h5")
LARGEST_HEADER = 100_000_000  # bytes, as in the specification of the format
HEADS = ("head.", "decoder.", "classifier.")
EMBEDDING = "model.embeddings.tok_embeddings.weight"
ENCODER = ("embeddings.", "layers.", "final_norm.")


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        InputError: it is missing, or not strict JSON.
    """
    file = directory / "config.json"
    if not file.is_file():
        run = f"export the run first: motherbird export {directory} --out DIR"
        how = run if (directory / "run.json").is_file() else "use the directory of a model"
        raise InputError("not a model directory (config.json is missing)", str(directory), how)
    return read_json_object(file)


def weight_files(directory: Path) -> list[Path]:
    """Return the safetensors files of a directory: one file, or the shards of its index.

    Raises:
        InputError: there is none, or the index names a file outside the directory.
        DamagedError: a shard is missing.
    """
    if (directory / WEIGHTS).is_file():
        return [directory / WEIGHTS]
    if (directory / INDEX).is_file():
        raw = read_json(directory / INDEX)
        shards = raw.get("weight_map") if isinstance(raw, dict) else None
        if not isinstance(shards, dict) or not shards:
            raise InputError("the index has no weight_map", str(directory / INDEX))
        for name in shards.values():
            if not isinstance(name, str) or not re.fullmatch(SHARD, name):
                raise InputError(
                    f"the index names {name!r}, which is not a file of this directory",
                    str(directory),
                )
            if not (directory / name).is_file():
                raise DamagedError("a shard is missing", str(directory / name), "download it again")
        return [directory / name for name in sorted(set(shards.values()))]
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise InputError(
            f"the weights are in {pickles[0]}, a format that can run code when it is read",
            str(directory),
            "convert it on a trusted machine: save_pretrained of transformers writes "
            "model.safetensors",
        )
    raise InputError("there is no model.safetensors", str(directory))


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Read all tensors of a directory, and check that they are finite and of a floating dtype.

    Raises:
        InputError: see `weight_files`.
        DamagedError: a file was changed, or is truncated or invalid.
    """
    files = weight_files(directory)
    check_files(directory, [file.relative_to(directory).as_posix() for file in files])
    tensors: dict[str, Tensor] = {}
    for file in files:
        try:
            _check_header(file)
            part = load_file(file)
        except (
            safetensors.SafetensorError,
            OSError,
            ValueError,
            KeyError,
            RecursionError,
        ) as error:
            raise DamagedError(
                f"not a valid safetensors file ({error})", str(file), "copy or download it again"
            ) from error
        for name, tensor in part.items():
            if name in tensors:
                raise DamagedError(f"tensor {name} is in two shards", str(file))
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                raise DamagedError(f"tensor {name} has dtype {tensor.dtype}", str(file))
            if not torch.isfinite(tensor).all():
                raise DamagedError(f"tensor {name} contains NaN or infinity", str(file))
        tensors |= part
    if not tensors:
        raise DamagedError("the file contains no tensor", str(files[0]))
    return tensors


def _check_header(file: Path) -> None:
    """Refuse a header with a duplicate name, which the library accepts."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"the header has {length:,} bytes")
        parse_json(stream.read(length).decode())


V = TypeVar("V")
# What DistributedDataParallel and torch.compile put before the names of the model inside.
WRAPPERS = ("module.", "_orig_mod.")


def published_names(tensors: dict[str, V]) -> dict[str, V]:
    """Rename tensors to the names of a checkpoint with a head (``model.layers...``, ``head...``).

    Accepted are these names, those of a bare encoder (``layers...``), and those of the research
    repository (``bert.encoder.layers...``, ``bert.embeddings...``, ``bert.final_norm...``), each
    also with a prefix of `WRAPPERS` before every name.
    """
    while tensors and (found := [w for w in WRAPPERS if all(n.startswith(w) for n in tensors)]):
        tensors = {name.removeprefix(found[0]): tensor for name, tensor in tensors.items()}

    def rename(name: str) -> str:
        name = name.replace("bert.encoder.layers.", "model.layers.")
        name = re.sub(r"^(model\.)?bert\.", "model.", name).replace("model.model.", "model.")
        return f"model.{name}" if name.startswith(ENCODER) else name

    return {rename(name): tensor for name, tensor in tensors.items()}


def head_tensors(directory: Path) -> set[str]:
    """Return the names of the tensors of a head in a directory, without reading them.

    Raises:
        InputError: see `weight_files`.
        DamagedError: a file is not valid.
    """
    names: set[str] = set()
    for file in weight_files(directory):
        try:
            with safetensors.safe_open(file, "pt") as opened:
                names |= set(opened.keys())
        except (safetensors.SafetensorError, OSError) as error:
            raise DamagedError(f"not a valid safetensors file ({error})", str(file)) from error
    return {name for name in published_names(dict.fromkeys(names)) if name.startswith(HEADS)}


M = TypeVar("M", bound=nn.Module)


def load(
    cls: "type[M]",
    directory: Path,
    *,
    dtype: torch.dtype | str = "auto",
    attention: str = "auto",
    device: torch.device | str | None = None,
    split_special_tokens: bool = False,
) -> M:
    """Load a `Model` of a class from a local directory; see `Model.load`."""
    directory = check_path(directory, "the directory")
    target = resolve_device(device)
    wanted = resolve_dtype(dtype, target)
    raw = read_config(directory)
    config = hf_config.read(raw, str(directory / "config.json"))
    with torch.device("meta"):
        model: Any = cast(Any, cls).from_config(config, raw, attention)
    tensors = _select(model, published_names(read_tensors(directory)), config, str(directory))
    stored = reduce(torch.promote_types, (tensor.dtype for tensor in tensors.values()))
    wanted = wanted or stored
    warn_if_emulated(wanted, target)
    tensors = {name: tensor.to(target, wanted) for name, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    model.encoder.tokenizer = _load_tokenizer(directory, config, split_special_tokens)
    if torch.promote_types(stored, wanted) != wanted:
        model.encoder.rounded_from = stored
    model.eval()
    if dtype == INT8:
        quantize(model.encoder)
    return model


def _load_tokenizer(
    directory: Path, config: EncoderConfig, split_special_tokens: bool
) -> Tokenizer | None:
    if not (directory / "tokenizer.json").is_file():
        return None
    tokenizer = tokenizers.load(directory, split_special_tokens)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {config.vocab_size}",
            str(directory),
            "it belongs to another model",
        )
    return tokenizer


def _select(
    model: "Model", tensors: dict[str, Tensor], config: EncoderConfig, where: str
) -> dict[str, Tensor]:
    """Return the tensors of the model's own parameters, and check that names and shapes match."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    prefix = "" if model.encoder is model else "model."
    copy = tensors.get("decoder.weight")
    if config.tie_word_embeddings and copy is not None:
        # safetensors.torch.save_model keeps only one of two tied tensors, and it may be this one.
        tensors = {EMBEDDING: copy, **tensors}
        if not torch.equal(copy, tensors[EMBEDDING]):
            raise DamagedError("decoder.weight is tied to the embedding and differs from it", where)
    found = {
        prefix + name.removeprefix("model.") if name.startswith("model.") else name: tensor
        for name, tensor in tensors.items()
    }
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(n for n in found.keys() - wanted.keys() if not n.startswith(HEADS))
    if missing and all(name.startswith(HEADS) for name in missing):
        raise InputError(
            f"the checkpoint has no {model.architecture} head ({_few(missing)})",
            where,
            f"load it with Encoder.load, and make a new head: {type(model).__name__}(encoder, ...)",
        )
    wrapped = any(f".{wrapper}" in f".{name}" for name in found for wrapper in WRAPPERS)
    how = "module. and _orig_mod. are of a wrapped part: save what is inside it" if wrapped else ""
    for what, names in (("lacks", missing), ("has unknown", extra)):
        if names:
            raise DamagedError(f"the checkpoint {what} tensors: {_few(names)}", where, how)
    wrong = [
        f"{name} is {tuple(found[name].shape)}, not {tuple(shape)}"
        for name, shape in wanted.items()
        if found[name].shape != shape
    ]
    if wrong:
        raise DamagedError(f"shapes differ from config.json: {_few(wrong)}", where)
    return {name: found[name] for name in wanted}


def _few(names: list[str]) -> str:
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


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
            f"the directory has weights of a head that would be lost ({_few(lost)})",
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
        raise DivergedError(f"weights are NaN or infinite: {_few(bad)}", how="nothing was saved")
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
