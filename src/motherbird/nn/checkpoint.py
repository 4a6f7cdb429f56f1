"""Hugging Face directories, both ways: read, check, write.

Only safetensors are read. Nothing that a directory holds is ever executed.
"""

import json
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, Protocol, TypeVar, cast

import safetensors
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..core import hf_config, hub
from ..core import tokenizer as tokenizers
from ..core.config import EncoderConfig
from ..core.tokenizer import Tokenizer
from ..errors import DamagedError, DivergedError, InputError
from ..files import check_files, new_directory, parse_json, read_json
from .devices import INT8, resolve_device, resolve_dtype
from .quantize import quantize

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
SHARD = r"(\w[\w-]*/)?\w[\w.-]*\.safetensors"  # in the folder or one below it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz", ".h5")
LARGEST_HEADER = 100_000_000  # bytes, as in the format's own specification
HEADS = ("head.", "decoder.", "classifier.")
ENCODER = ("embeddings.", "layers.", "final_norm.")


def read_config(directory: Path) -> dict[str, Any]:
    """config.json as it is.

    Raises:
        InputError: it is missing or no strict JSON.
    """
    file = directory / "config.json"
    if not file.is_file():
        raise InputError("no config.json: this is not a model's folder", str(directory))
    raw = read_json(file)
    if not isinstance(raw, dict):
        raise InputError("not a JSON object", str(file))
    return raw


def weight_files(directory: Path) -> list[Path]:
    """The safetensors files of a directory, one or the shards of its index.

    Raises:
        InputError: there are none, or the index points outside the directory.
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
                raise InputError(f"the index names {name!r}, no file of the folder", str(directory))
            if not (directory / name).is_file():
                raise DamagedError("a shard is missing", str(directory / name), "download it again")
        return [directory / name for name in sorted(set(shards.values()))]
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix in PICKLES)
    if pickles:
        raise InputError(
            f"the weights are in {pickles[0]}, a format that can run code when it is read",
            str(directory),
            "convert it on a machine that you trust: transformers' save_pretrained writes "
            "model.safetensors",
        )
    raise InputError("no model.safetensors", str(directory))


def read_tensors(directory: Path) -> dict[str, Tensor]:
    """Every tensor of a directory, checked: readable, of floating dtype, finite, unchanged.

    Raises:
        InputError, DamagedError: see `weight_files`; damage names the file.
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
                f"not a whole safetensors file ({error})", str(file), "copy or download it again"
            ) from error
        for name, tensor in part.items():
            if name in tensors:
                raise DamagedError(f"tensor {name} stands in two shards", str(file))
            if not tensor.is_floating_point() or tensor.element_size() < 2:
                raise DamagedError(f"tensor {name} is of {tensor.dtype}", str(file))
            if not torch.isfinite(tensor).all():
                raise DamagedError(f"tensor {name} holds NaN or infinity", str(file))
        tensors |= part
    if not tensors:
        raise DamagedError("there is no tensor in it", str(files[0]))
    return tensors


def _check_header(file: Path) -> None:
    """Refuse what the library takes without a word: a name that stands in the header twice."""
    with file.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if length > LARGEST_HEADER:
            raise ValueError(f"its header claims {length:,} bytes")
        parse_json(stream.read(length).decode())


def published_names(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Bring names to the form of a checkpoint with head: ``model.layers...``, ``head.dense...``.

    Read are that form, the bare encoder's (``layers...``), and the research repository's
    (``bert.encoder.layers...``, ``bert.embeddings...``, ``bert.final_norm...``).
    """

    def rename(name: str) -> str:
        name = name.replace("bert.encoder.layers.", "model.layers.")
        name = re.sub(r"^(model\.)?bert\.", "model.", name).replace("model.model.", "model.")
        return f"model.{name}" if name.startswith(ENCODER) else name

    return {rename(name): tensor for name, tensor in tensors.items()}


class Model(Protocol):
    """What `load` and `save` need to know of a model class."""

    architecture: str


M = TypeVar("M", bound=nn.Module)


def load(
    build: Callable[[EncoderConfig, dict[str, Any]], M],
    name_or_dir: str | Path,
    dtype: torch.dtype | str | None,
    device: torch.device | str | None,
    revision: str | None,
) -> M:
    """Build a model from its configuration, parsed and raw, and give it a directory's weights.

    Raises:
        InputError, DamagedError: see `Encoder.load`.
    """
    where = resolve_device(device)
    wanted = resolve_dtype(dtype, where)
    directory = hub.find(name_or_dir, revision)
    raw = read_config(directory)
    config = hf_config.read(raw, str(directory / "config.json"))
    with torch.device("meta"):
        model = build(config, raw)
    tensors = _select(model, published_names(read_tensors(directory)), config, str(directory))
    stored = torch.float16 if not tensors else next(iter(tensors.values())).dtype
    for tensor in tensors.values():
        stored = torch.promote_types(stored, tensor.dtype)
    tensors = {name: tensor.to(where, wanted or stored) for name, tensor in tensors.items()}
    model.load_state_dict(tensors, assign=True)
    _encoder(model).tokenizer = _tokenizer_of(directory, config)
    model.eval()
    if dtype == INT8:
        quantize(_encoder(model))
    return model


def _encoder(model: nn.Module) -> Any:
    return model.get_submodule("model") if "model" in dict(model.named_children()) else model


def _tokenizer_of(directory: Path, config: EncoderConfig) -> Tokenizer | None:
    if not (directory / "tokenizer.json").is_file():
        return None
    tokenizer = tokenizers.load(directory)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {config.vocab_size}",
            str(directory),
            "it belongs to another model",
        )
    return tokenizer


def _select(
    model: nn.Module, tensors: dict[str, Tensor], config: EncoderConfig, where: str
) -> dict[str, Tensor]:
    """The tensors that the model takes, under its names; everything else is checked or refused."""
    wanted = {name: tensor.shape for name, tensor in model.state_dict().items()}
    prefix = "" if _encoder(model) is model else "model."
    copy = tensors.get("decoder.weight")
    if config.tie_word_embeddings and copy is not None:
        if not torch.equal(copy, tensors.get("model.embeddings.tok_embeddings.weight", copy[:0])):
            raise DamagedError("decoder.weight is tied to the embedding and differs from it", where)
    found = {
        prefix + name.removeprefix("model.") if name.startswith("model.") else name: tensor
        for name, tensor in tensors.items()
    }
    missing = sorted(wanted.keys() - found.keys())
    extra = sorted(n for n in found.keys() - wanted.keys() if not n.startswith(HEADS))
    if missing and all(name.startswith(HEADS) for name in missing):
        raise InputError(
            f"the checkpoint has no {cast(Model, model).architecture} head ({_few(missing)})",
            where,
            "load it as Encoder, or fine-tune it first",
        )
    for what, names in (("misses", missing), ("has unknown", extra)):
        if names:
            raise DamagedError(f"the checkpoint {what} tensors: {_few(names)}", where)
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


def own_tokenizer(model: nn.Module) -> Tokenizer:
    """The tokenizer that came with an encoder.

    Raises:
        InputError: none did.
    """
    tokenizer = _encoder(model).tokenizer
    if tokenizer is None:
        raise InputError(
            "the model came without a tokenizer", how="put its tokenizer.json into its folder"
        )
    return cast(Tokenizer, tokenizer)


def save(
    model: nn.Module,
    directory: str | Path,
    *,
    tokenizer: Tokenizer | None = None,
    labels: tuple[str, ...] = (),
    extra: Callable[[Path], None] = lambda directory: None,
) -> None:
    """Write a Hugging Face directory that transformers 4.57 to 5.x and others load.

    Args:
        model: one of our model classes.
        directory: new, empty, or written by motherbird before (then it is replaced).
        tokenizer: to be saved along; None the model's own, if it has one.
        labels: names of a classifier's labels.
        extra: writes further files into the directory before it gets its name.

    Raises:
        OutputExistsError: the directory exists and is not ours.
        DivergedError: a weight is NaN or infinite.
    """
    with new_directory(Path(directory).expanduser(), "model") as fresh:
        write(model, fresh, tokenizer, labels)
        extra(fresh)


def write(
    model: nn.Module,
    directory: Path,
    tokenizer: Tokenizer | None = None,
    labels: tuple[str, ...] = (),
) -> None:
    """Write the files of `save` into a directory that is being made (`files.new_directory`)."""
    encoder = _encoder(model)
    config: EncoderConfig = encoder.config
    tensors = {name: t.detach().cpu().contiguous() for name, t in model.state_dict().items()}
    bad = [name for name, tensor in tensors.items() if not torch.isfinite(tensor).all()]
    if bad:
        raise DivergedError(f"weights hold NaN or infinity: {_few(bad)}", how="nothing was saved")
    architecture = cast(Model, model).architecture
    raw = hf_config.write(config, architecture, next(iter(tensors.values())).dtype, labels)
    (directory / "config.json").write_text(json.dumps(raw, indent=2) + "\n", encoding="utf-8")
    save_file(tensors, directory / WEIGHTS, metadata={"format": "pt"})
    # The library makes it readable by its owner alone; it is no more secret than its neighbours.
    (directory / WEIGHTS).chmod((directory / "config.json").stat().st_mode)
    tokenizer = tokenizer or encoder.tokenizer
    if tokenizer is not None:
        tokenizer.write_files(directory, config.max_position_embeddings)
    (directory / "README.md").write_text(_card(config, architecture, tensors), encoding="utf-8")


def _card(config: EncoderConfig, architecture: str, tensors: dict[str, Tensor]) -> str:
    parameters = sum(tensor.numel() for tensor in tensors.values())
    return (
        "---\nlibrary_name: transformers\ntags: [modernbert, motherbird]\n---\n\n"
        f"# {architecture}\n\n"
        f"{config.num_hidden_layers} layers of {config.hidden_size}, {parameters:,} parameters, "
        f"up to {config.max_position_embeddings:,} tokens. Written by motherbird; loads in "
        "motherbird, transformers and sentence-transformers.\n"
    )
