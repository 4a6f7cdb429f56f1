"""The modules of a sentence-transformers directory: which there are, and the files of each.

Files of versions 5 and 6 are read. Those that are written have the keys of version 5.3, which both
read.
"""

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from ..core.config import Pooling
from ..core.weights import WEIGHTS, few, read_tensors
from ..errors import DamagedError, InputError
from ..files import read_json, read_json_object
from .dense import Activation, Dense

MODULES, SETTINGS = "modules.json", "config_sentence_transformers.json"
LIMITS = "sentence_bert_config.json"
METADATA = "artifact.metadata"  # of ColBERT's own library
PACKAGES = ("sentence_transformers", "pylate")
TYPE = "sentence_transformers.models."
# The lowest versions that read what is written: a library warns about higher ones.
VERSIONS = {"sentence_transformers": "5.3.0", "transformers": "4.57.6", "pytorch": "2.11.0"}
KINDS = ("Transformer", "Pooling", "Dense", "Normalize")
# The names of the prompt of each kind of text, in the order in which they are looked for.
PROMPT_NAMES = {"query": ("query",), "document": ("document", "passage", "corpus")}
# In the order of KINDS, as words with a space behind each.
_ORDER = re.compile(r"Transformer (Pooling (Dense )*)?(Normalize )?")
_ACTIVATIONS: dict[str, Activation] = {"Identity": "identity", "Tanh": "tanh"}
_FUNCTIONS = {"identity": "torch.nn.modules.linear.Identity",
              "tanh": "torch.nn.modules.activation.Tanh"}  # fmt: skip
_MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens",
          "lasttoken")  # fmt: skip
_POOLINGS: dict[str, Pooling] = {
    "mean": "mean", "mean_tokens": "mean", "cls": "cls", "cls_token": "cls"
}  # fmt: skip

Level = Literal["sentence_embedding", "token_embeddings"]


class Module(NamedTuple):
    """A module: the name of its class, and its directory."""

    kind: str
    place: Path


def prompt_name(prompts: Mapping[str, str], kind: str) -> str | None:
    """Return the name of the prompt for "query" or "document", if there is one."""
    return next((name for name in PROMPT_NAMES[kind] if name in prompts), None)


def list_modules(directory: Path, known: Sequence[str]) -> list[Module]:
    """Read modules.json.

    Args:
        directory: has modules.json.
        known: the names of the classes that can be used.

    Raises:
        InputError: it is not a list of modules, or has one that is not known.
    """
    file = directory / MODULES
    raw = read_json(file)
    if not isinstance(raw, list) or not all(isinstance(each, dict) for each in raw):
        raise InputError("not a list of modules", str(file))
    found = []
    for each in raw:
        stated, path = str(each.get("type")), str(each.get("path"))
        kind = stated.rpartition(".")[2]
        is_known = kind in known and stated.startswith(tuple(f"{name}." for name in PACKAGES))
        if not is_known or not re.fullmatch(r"\w*", path):
            what = f"the model has a module {kind!r} at {path!r}, which motherbird does not have"
            raise InputError(what, str(file))
        found.append(Module(kind, directory / path))
    return found


def is_late(directory: Path) -> bool:
    """Return whether a directory is that of a late-interaction model (ColBERT)."""
    kind = read_optional(directory / SETTINGS).get("model_type")
    if kind is not None:
        return kind in ("ColBERT", "MultiVectorEncoder")
    architectures = read_optional(directory / "config.json").get("architectures")
    return (directory / METADATA).is_file() or (
        isinstance(architectures, list) and "HF_ColBERT" in architectures
    )


def read_modules(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Read the modules of a model with a vector for each text.

    Returns:
        The directory of the encoder, and arguments of `Embedder`. Without modules.json, it is the
        directory itself, with mean pooling and no normalization, as in sentence-transformers.

    Raises:
        InputError: a module or a setting that motherbird does not have, or a model with a vector
            for each token.
        DamagedError: the file of a module is missing or damaged.
    """
    if is_late(directory):
        what = "the model has a vector for each token, not for each text"
        raise InputError(what, str(directory), "load it with LateEmbedder")
    if not (directory / MODULES).is_file():
        return directory, {"normalize": False}
    modules = list_modules(directory, KINDS)
    paths = dict(modules)
    kinds = [module.kind for module in modules]
    if kinds and not _ORDER.fullmatch("".join(f"{kind} " for kind in kinds)):
        what = f"the modules are {', '.join(kinds)}"
        how = f"motherbird computes {', '.join(KINDS)} in this order, any number of Dense"
        raise InputError(what, str(directory / MODULES), how)
    place = paths.get("Transformer", directory)
    arguments = read_prompts(directory)
    arguments["max_length"] = read_length(place)
    arguments["normalize"] = "Normalize" in paths
    if "Pooling" in paths:
        arguments |= _read_pooling(paths["Pooling"] / "config.json")
    dense = [read_dense(own, "sentence_embedding") for kind, own in modules if kind == "Dense"]
    return place, arguments | ({"dense": dense} if dense else {})


def read_prompts(directory: Path) -> dict[str, Any]:
    """Read the prompts of a model and the name of the default one, as arguments of `TextModel`.

    Raises:
        InputError: they are not texts, or there is no prompt of that name.
    """
    path = directory / SETTINGS
    settings = read_optional(path)
    prompts, default = settings.get("prompts") or {}, settings.get("default_prompt_name")
    if not isinstance(prompts, dict) or not all(isinstance(p, str) for p in prompts.values()):
        raise InputError("prompts is not an object of names and texts", str(path))
    if default is not None and default not in prompts:
        raise InputError(f"default_prompt_name {default!r} is not among the prompts", str(path))
    return {"prompts": prompts, "default_prompt": default}


def read_length(place: Path) -> int | None:
    """Read the maximum number of tokens of a text; None if the encoder's directory states none.

    Raises:
        InputError: it is not a number, or texts are to be lowercased.
    """
    limits = place / LIMITS
    if read_optional(limits).get("do_lower_case"):
        raise InputError("do_lower_case is not supported", str(limits))
    length = read_optional(limits).get("max_seq_length")
    if length is None:  # sentence-transformers 6 stores it with the tokenizer
        length = read_optional(place / "tokenizer_config.json").get("model_max_length")
        length = length if isinstance(length, int) and 0 < length < 1 << 24 else None
    if length is not None and (not isinstance(length, int) or length < 1):
        raise InputError(f"max_seq_length = {length!r} is not a number of tokens", str(limits))
    return length


def read_optional(path: Path) -> dict[str, Any]:
    """Read a JSON object; {} if there is no such file."""
    return read_json_object(path) if path.is_file() else {}


def _read_required(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise DamagedError("the file is missing", str(path), "download the model again")
    return read_json_object(path)


def _read_pooling(path: Path) -> dict[str, Any]:
    settings = _read_required(path)
    modes = [k for k, v in settings.items() if k.startswith("pooling_mode_") and v is True]
    mode = settings.get("pooling_mode") or "+".join(m.removeprefix("pooling_mode_") for m in modes)
    if not isinstance(mode, str) or mode not in _POOLINGS:
        how = "use mean or cls pooling"
        raise InputError(f"pooling {mode!r} is not supported", str(path), how)
    include = settings.get("include_prompt", True)
    if not isinstance(include, bool):
        raise InputError(f"include_prompt = {include!r} is not true or false", str(path))
    return {"pooling": _POOLINGS[mode]} | ({} if include else {"include_prompt": False})


def read_dense(place: Path, output: Level) -> Dense:
    """Read the directory of a Dense module.

    Args:
        place: has config.json and model.safetensors.
        output: what the module has to take and return: vectors of texts, or of tokens.

    Raises:
        InputError: a setting that motherbird does not have.
        DamagedError: a file is missing or damaged, or the weights are not those that it states.
    """
    file = place / "config.json"
    settings = _read_required(file)
    if settings.get("use_residual"):
        raise InputError("use_residual = true is not supported", str(file))
    for key in ("module_input_name", "module_output_name"):
        if settings.get(key) not in (None, output):
            raise InputError(f"{key} = {settings[key]!r} is not supported", str(file),
                             f"motherbird computes {output}")  # fmt: skip
    function = str(settings.get("activation_function", "torch.nn.Tanh"))
    activation = _ACTIVATIONS.get(function.rpartition(".")[2])
    if activation is None or not function.startswith("torch."):
        how = "use torch.nn.Identity or torch.nn.Tanh"
        raise InputError(f"the activation {function!r} is not supported", str(file), how)
    if not place.joinpath(WEIGHTS).is_file() and not any(place.glob("*.bin")):
        how = "download the model again"
        raise DamagedError("the file is missing", str(place / WEIGHTS), how)
    tensors = read_tensors(place)
    names = ["linear.weight"] + ["linear.bias"] * bool(settings.get("bias", True))
    if others := sorted(tensors.keys() ^ set(names)):
        what = f"the tensors are not {' and '.join(names)} ({few(others)})"
        raise DamagedError(what, str(place / WEIGHTS))
    stated = (settings.get("out_features"), settings.get("in_features"))
    weight = tensors["linear.weight"].raw
    if weight.shape != stated or (len(names) > 1 and tensors[names[1]].raw.shape != stated[:1]):
        shapes = ", ".join(f"{name} is {tensors[name].raw.shape}" for name in names)
        what = f"{shapes}, but out_features and in_features are {stated}"
        raise DamagedError(what, str(place / WEIGHTS))
    values = [np.array(tensors[name].float32()) for name in names]
    return Dense(values[0], values[1] if values[1:] else None, activation)


def dense_files(dense: Dense, place: str, more: dict[str, Any]) -> dict[str, Any]:
    """Return the files of a Dense module for `write_all`.

    Args:
        dense: the layer.
        place: the name of its directory.
        more: further keys of its config.json.
    """
    tensors = {"linear.weight": dense.weight}
    if dense.bias is not None:
        tensors["linear.bias"] = dense.bias
    settings = {
        "in_features": dense.inputs,
        "out_features": dense.outputs,
        "bias": dense.bias is not None,
        "activation_function": _FUNCTIONS[dense.activation],
        **more,
    }
    return {f"{place}/config.json": settings, f"{place}/{WEIGHTS}": tensors}


def modules_list(types: Iterable[str], at: str = "") -> list[dict[str, Any]]:
    """Return the content of modules.json for the full names of classes, the encoder's first."""
    return [
        {"idx": n, "name": str(n), "path": f"{n}_{name.rpartition('.')[2]}" if n else at,
         "type": name}
        for n, name in enumerate(types)
    ]  # fmt: skip


def embedder_files(
    pooling: Pooling,
    include_prompt: bool,
    size: int,
    dense: Sequence[Dense],
    normalize: bool,
    prompts: dict[str, str],
    default_prompt: str | None,
    max_length: int,
    at: str = "",
) -> dict[str, Any]:
    """Return the files of a model with a vector for each text, for `write_all`.

    Arguments are those of `Embedder`; ``size`` is the encoder's, and ``at`` its subdirectory.
    """
    kinds = [*KINDS[:2], *["Dense"] * len(dense), *["Normalize"] * normalize]
    contents: dict[str, Any] = {
        MODULES: modules_list((TYPE + kind for kind in kinds), at),
        SETTINGS: {
            "model_type": "SentenceTransformer",
            "__version__": VERSIONS,
            "prompts": prompts,
            "default_prompt_name": default_prompt,
            "similarity_fn_name": "cosine",
        },
        f"{at}/{LIMITS}".lstrip("/"): {"max_seq_length": max_length, "do_lower_case": False},
        "1_Pooling/config.json": {
            "word_embedding_dimension": size,
            **{f"pooling_mode_{mode}": mode.startswith(pooling + "_tok") for mode in _MODES},
            "include_prompt": include_prompt,
        },
    }
    for number, each in enumerate(dense, 2):
        contents |= dense_files(each, f"{number}_Dense", {})
    if normalize:
        names = ("module_input_name", "module_output_name")
        contents[f"{len(kinds) - 1}_Normalize/config.json"] = dict.fromkeys(
            names, "sentence_embedding"
        )
    return contents


def write_all(directory: Path, contents: dict[str, Any]) -> None:
    """Write files by their names: weights from tensors by name, others as JSON."""
    from safetensors.numpy import save_file

    for name, content in contents.items():
        path = directory / name
        path.parent.mkdir(exist_ok=True)
        if path.name == WEIGHTS:
            save_file(content, path, metadata={"format": "pt"})
            # The library makes the file readable by its owner alone.
            path.chmod((path.parent / "config.json").stat().st_mode)
        else:
            path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
