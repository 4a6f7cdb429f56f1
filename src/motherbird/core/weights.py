"""Reads a Hugging Face directory without torch: config.json, weights and tokenizer.

Weights are read from safetensors only. Nothing in a directory is ever executed.
"""

import logging
import os
import re
import shutil
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import safetensors
from numpy.typing import NDArray

from ..arrays import Float32
from ..errors import DamagedError, HeadError, InputError
from ..files import LFS_POINTER, check_files, parse_json, read_json, read_json_object
from . import hf_config, hub
from . import tokenizer as tokenizers
from .config import EncoderConfig
from .tokenizer import Tokenizer

log = logging.getLogger(__name__)

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
TOKENIZER = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")
SHARD = r"(\w[\w-]*/)?\w[\w.-]*\.safetensors"  # in the directory or one below it
PICKLES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".npy", ".npz", ".h5")
LARGEST_HEADER = 100_000_000  # bytes, as in the specification of the format
HEADS = ("head.", "decoder.", "classifier.", "linear.")  # linear is that of ColBERT
EMBEDDING = "model.embeddings.tok_embeddings.weight"
ENCODER = ("embeddings.", "layers.", "final_norm.")
# Names of dtypes in files: ours, and how the values are read.
DTYPES = {"F64": ("float64", "<f8"), "F32": ("float32", "<f4"), "F16": ("float16", "<f2"),
          "BF16": ("bfloat16", "<u2")}  # fmt: skip


def read_config(directory: Path) -> dict[str, Any]:
    """Read config.json.

    Raises:
        InputError: it is missing, or not strict JSON.
    """
    return read_json_object(_config_file(directory))


def _config_file(directory: Path) -> Path:
    file = directory / "config.json"
    if not file.is_file():
        how = hub.what_it_is(directory) or "use the directory of a model"
        raise InputError("not a model directory (config.json is missing)", str(directory), how)
    return file


def encoder_config(directory: Path) -> EncoderConfig:
    """Read config.json as the configuration of an encoder.

    Raises:
        InputError: see `read_config` and `hf_config.read`.
    """
    return hf_config.read(read_config(directory), str(directory / "config.json"))


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
    if shards := sorted(p.name for p in directory.glob("model-*-of-*.safetensors")):
        what = f"{INDEX} is missing, which names the shards such as {shards[0]}"
        raise InputError(what, str(directory), "download it too")
    pickles = sorted(p.name for p in directory.iterdir() if p.suffix.lower() in PICKLES)
    if pickles:
        raise InputError(
            f"the weights are in {pickles[0]}, a format that can run code when it is read",
            str(directory),
            "convert it on a trusted machine: save_pretrained of transformers writes "
            "model.safetensors",
        )
    if (directory / WEIGHTS).is_dir():
        raise InputError("this is a directory, not a file", str(directory / WEIGHTS), "move it")
    how = hub.what_it_is(directory)
    if not how and (others := sorted(p.name for p in directory.glob("*.safetensors"))):
        how = f"there is {others[0]}: rename it to {WEIGHTS}"
    raise InputError(f"there is no {WEIGHTS}", str(directory), how or "download it too")


class Stored(NamedTuple):
    """A tensor as it is in its file, which is mapped to memory."""

    dtype: str  # "float64", "float32", "float16" or "bfloat16"
    raw: NDArray[Any]  # the values; those of bfloat16 as uint16

    def float32(self) -> Float32[np.ndarray, "..."]:
        """Return the values in float32."""
        if self.dtype == "bfloat16":
            return (self.raw.astype(np.uint32) << np.uint32(16)).view(np.float32)
        return self.raw.astype(np.float32, copy=False)

    def is_finite(self) -> bool:
        """Return whether no value is NaN or infinite."""
        if self.dtype == "bfloat16":
            return not ((self.raw & 0x7F80) == 0x7F80).any()
        return bool(np.isfinite(self.raw).all())


def read_tensors(directory: Path) -> dict[str, Stored]:
    """Read all tensors of a directory, and check that they are finite and of a floating dtype.

    Raises:
        InputError: see `weight_files`.
        DamagedError: a file was changed, or is truncated or invalid.
    """
    files = weight_files(directory)
    check_files(directory, [file.relative_to(directory).as_posix() for file in files])
    tensors: dict[str, Stored] = {}
    for file in files:
        for name, tensor in _read_file(file).items():
            if name in tensors:
                raise DamagedError(f"tensor {name} is in two shards", str(file))
            if not tensor.is_finite():
                raise DamagedError(f"tensor {name} contains NaN or infinity", str(file))
            tensors[name] = tensor
    if not tensors:
        raise DamagedError("the file contains no tensor", str(files[0]))
    return tensors


def _read_file(file: Path) -> dict[str, Stored]:
    header, start = _read_header(file)
    mapped = np.memmap(file, np.uint8, "r")  # once: every map keeps a file open
    tensors = {}
    for name, about in header.items():
        if about["dtype"] not in DTYPES:
            raise DamagedError(f"tensor {name} has dtype {about['dtype']}", str(file))
        dtype, layout = DTYPES[about["dtype"]]
        first, last = (start + offset for offset in about["data_offsets"])
        raw = np.frombuffer(mapped[first:last].data, layout).reshape(about["shape"])
        tensors[name] = Stored(dtype, raw)
    return tensors


def _read_header(file: Path) -> tuple[dict[str, Any], int]:
    """Return the header of a file, checked by the library, and where its data start."""
    with file.open("rb") as stream:
        if stream.read(len(LFS_POINTER)) == LFS_POINTER:
            what = "a Git LFS pointer in place of the file"
            raise DamagedError(what, str(file), "download the files with git lfs pull")
    try:
        with safetensors.safe_open(file, "np"):
            pass
        with file.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            if length > LARGEST_HEADER:
                raise ValueError(f"the header has {length:,} bytes")
            # The library accepts a header in which a name occurs twice; parse_json does not.
            header = parse_json(stream.read(length).decode())
    except (safetensors.SafetensorError, OSError, ValueError, RecursionError) as error:
        raise DamagedError(
            f"not a valid safetensors file ({error})", str(file), "copy or download it again"
        ) from error
    header.pop("__metadata__", None)
    return header, 8 + length


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


def shapes(config: EncoderConfig, head: str | None, labels: int = 0) -> dict[str, tuple[int, ...]]:
    """Return the names and shapes of the tensors of a model.

    Args:
        config: the encoder's configuration.
        head: "MaskedLM", "SequenceClassifier", "TokenClassifier", or None.
        labels: the number of labels of a classifier.
    """
    d, f, v = config.hidden_size, config.intermediate_size, config.vocab_size
    found: dict[str, tuple[int, ...]] = {EMBEDDING: (v, d)}

    def add(name: str, bias: bool, *shape: int) -> None:
        found[f"{name}.weight"] = shape
        if bias:
            found[f"{name}.bias"] = shape[:1]

    add("model.embeddings.norm", config.norm_bias, d)
    add("model.final_norm", config.norm_bias, d)
    for number in range(config.num_hidden_layers):
        at = f"model.layers.{number}"
        if number:
            add(f"{at}.attn_norm", config.norm_bias, d)
        add(f"{at}.mlp_norm", config.norm_bias, d)
        add(f"{at}.attn.Wqkv", config.attention_bias, 3 * d, d)
        add(f"{at}.attn.Wo", config.attention_bias, d, d)
        add(f"{at}.mlp.Wi", config.mlp_bias, 2 * f, d)
        add(f"{at}.mlp.Wo", config.mlp_bias, d, f)
    if head is not None:
        add("head.dense", config.classifier_bias, d, d)
        add("head.norm", config.norm_bias, d)
    if head == "MaskedLM":
        add("decoder", config.decoder_bias, v, d)
        if config.tie_word_embeddings:
            del found["decoder.weight"]
    elif head is not None:
        add("classifier", True, labels, d)
    return found


def select(
    directory: Path, config: EncoderConfig, wanted: dict[str, tuple[int, ...]], model: str
) -> dict[str, Stored]:
    """Read the tensors of a model, and check their names and shapes.

    Args:
        directory: a Hugging Face directory.
        config: the encoder's configuration.
        wanted: the published names of the tensors, and their shapes.
        model: the name of the class that needs them.

    Raises:
        HeadError: the checkpoint has no head of this model.
        InputError: see `weight_files`.
        DamagedError: tensors are missing, unknown, of other shapes or not finite.
    """
    tensors, where = published_names(read_tensors(directory)), str(directory)
    copy = tensors.get("decoder.weight")
    if config.tie_word_embeddings and copy is not None:
        # safetensors.torch.save_model keeps only one of two tied tensors, and it may be this one.
        tensors = {EMBEDDING: copy, **tensors}
        if not np.array_equal(copy.raw, tensors[EMBEDDING].raw):
            raise DamagedError("decoder.weight is tied to the embedding and differs from it", where)
    missing = sorted(wanted.keys() - tensors.keys())
    extra = sorted(n for n in tensors.keys() - wanted.keys() if not n.startswith(HEADS))
    if missing and all(name.startswith(HEADS) for name in missing):
        how = f"load it with Encoder.load, and make a new head: {model}(encoder, ...)"
        raise HeadError(f"the checkpoint has no head of {model} ({few(missing)})", where, how)
    wrapped = any(f".{wrapper}" in f".{name}" for name in tensors for wrapper in WRAPPERS)
    how = "module. and _orig_mod. are of a wrapped part: save what is inside it" if wrapped else ""
    for what, names in (("lacks", missing), ("has unknown", extra)):
        if names:
            raise DamagedError(f"the checkpoint {what} tensors: {few(names)}", where, how)
    wrong = [
        f"{name} is {tensors[name].raw.shape}, not {shape}"
        for name, shape in wanted.items()
        if tensors[name].raw.shape != shape
    ]
    if wrong:
        raise DamagedError(f"shapes differ from config.json: {few(wrong)}", where)
    return {name: tensors[name] for name in wanted}


def few(names: list[str]) -> str:
    """Return the first ten names, and how many more there are."""
    return ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")


def load_tokenizer(
    directory: Path, config: EncoderConfig, split_special_tokens: bool
) -> Tokenizer | None:
    """Load the tokenizer of a model, or None if it has none.

    Logs a warning if config.json states an id of [CLS] or [SEP] that is not a special token.

    Raises:
        InputError: the tokenizer has more entries than the model.
        DamagedError: it cannot be read.
    """
    if not (directory / "tokenizer.json").is_file():
        return None
    tokenizer = tokenizers.load(directory, split_special_tokens)
    if tokenizer.vocab_size > config.vocab_size:
        raise InputError(
            f"the tokenizer has {tokenizer.vocab_size} entries, the model {config.vocab_size}",
            str(directory),
            "it belongs to another model",
        )
    raw, known = read_config(directory), tokenizer.special_ids
    for role in ("cls", "sep"):
        stated = raw.get(f"{role}_token_id")
        # Another special token, such as <eos> in place of [SEP], may be intended.
        if isinstance(stated, int) and role in tokenizer.special and stated not in known:
            what = "the tokenizer's %s is %d, config.json says %d: is it this model's own? (%s)"
            log.warning(what, tokenizer.special[role], tokenizer.id_of(role), stated, directory)
            break
    return tokenizer


State = tuple[int, int]  # of a file: its size, and its time of modification in nanoseconds


def file_states(directory: Path) -> dict[Path, State]:
    """Return the state of each file of a model: configuration, weights and tokenizer.

    Raises:
        InputError: see `read_config` and `weight_files`.
    """
    more = [directory / name for name in (INDEX, *TOKENIZER)]
    files = [_config_file(directory), *filter(Path.is_file, more), *weight_files(directory)]
    return {file: _state(file) for file in files}


def _state(file: Path) -> State:
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def check_unchanged(loaded: dict[Path, State]) -> None:
    """Raise InputError if a file is not as it was when the model was loaded (`file_states`)."""
    for file, state in loaded.items():
        if not file.is_file() or _state(file) != state:
            what = "the file was changed or removed since the model was loaded"
            raise InputError(what, str(file), "load the model again")


def copy_files(directory: Path, loaded: dict[Path, State], to: Path) -> None:
    """Copy the files of a model, as they were when it was loaded, into a new directory.

    Raises:
        InputError: a file was changed or removed since then; see `check_unchanged`.
    """
    check_unchanged(loaded)
    for file, (_, modified) in loaded.items():
        target = to / file.relative_to(directory)
        target.parent.mkdir(exist_ok=True)
        shutil.copyfile(file, target)
        os.utime(target, ns=(modified, modified))  # the copy may replace the file, and is the same
    check_unchanged(loaded)  # while they were copied


def head_tensors(directory: Path) -> set[str]:
    """Return the names of the tensors of a head in a directory, without reading them.

    Raises:
        InputError: see `weight_files`.
        DamagedError: a file is not valid.
    """
    names: set[str] = set()
    for file in weight_files(directory):
        names |= _read_header(file)[0].keys()
    return {name for name in published_names(dict.fromkeys(names)) if name.startswith(HEADS)}
