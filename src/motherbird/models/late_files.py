"""Late-interaction directories: of PyLate, of sentence-transformers 6, and of ColBERT's library.

PyLate's is written, which sentence-transformers 6 reads too. A model with a vector for each text
whose vectors come from linear layers is read as well: the layers are used for those of tokens, as
MultiVectorEncoder of sentence-transformers 6 does.
"""

import string
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..core.tokenizer import Tokenizer
from ..core.weights import published_names, read_tensors
from ..errors import DamagedError, HeadError, InputError
from ..files import read_json
from .dense import Dense
from .modules import (
    LIMITS,
    METADATA,
    MODULES,
    PROMPT_NAMES,
    SETTINGS,
    TYPE,
    VERSIONS,
    dense_files,
    is_late,
    list_modules,
    modules_list,
    read_dense,
    read_length,
    read_modules,
    read_optional,
)

KINDS = ("query", "document")
PREFIXES = {"query": "[Q] ", "document": "[D] "}  # PyLate's
PYLATE_LENGTHS = {"query": 32, "document": 180}
PYLATE_DENSE = "pylate.models.Dense.Dense"
LINEAR = "linear.weight"  # of ColBERT's library, in the checkpoint


def read(directory: Path) -> tuple[Path, dict[str, Any]]:
    """Read what a late-interaction directory says.

    Returns:
        The directory of the encoder, and arguments of `LateEmbedder`. Without prefixes, the prompts
        may start with them; see `with_prefixes`.

    Raises:
        HeadError: it is another kind of model.
        InputError: a setting that motherbird does not have.
        DamagedError: a file is missing or damaged.
    """
    if not is_late(directory):
        if projects(directory):
            place, arguments = read_modules(directory)
            return place, {
                "projection": arguments["dense"],
                "prompts": _prompts(read_optional(directory / SETTINGS), directory / SETTINGS),
                "query_prefix": "", "document_prefix": "", "max_length": arguments["max_length"],
            }  # fmt: skip
        what = "this is not a late-interaction model: nothing projects the vectors of its tokens"
        other = (directory / "1_Pooling").is_dir()
        how = "load it with Embedder" if other else "use a ColBERT model, or train one"
        raise HeadError(what, str(directory), how)
    kind = read_optional(directory / SETTINGS).get("model_type")
    readers = {"ColBERT": _read_pylate, "MultiVectorEncoder": _read_native}
    place, arguments = readers.get(str(kind), _read_stanford)(directory)
    if not place.is_dir():
        raise InputError("the directory of the encoder is missing", str(place))
    return place, arguments


def projects(directory: Path) -> bool:
    """Return whether a directory has linear layers after the encoder (Dense modules)."""
    if not (directory / MODULES).is_file():
        return False
    modules = read_json(directory / MODULES)
    rows = modules if isinstance(modules, list) else []
    kinds = [str(each.get("type")) for each in rows if isinstance(each, dict)]
    return any(kind.rpartition(".")[2] == "Dense" for kind in kinds)


def _read_pylate(directory: Path) -> tuple[Path, dict[str, Any]]:
    place, projection, _ = _read_modules(directory, ("Transformer", "Dense"))
    file = directory / SETTINGS
    settings = read_optional(file)
    lengths = {
        kind: _count(settings, f"{kind}_length", file) or PYLATE_LENGTHS[kind] for kind in KINDS
    }
    prefixes = {kind: _text(settings, f"{kind}_prefix", file, PREFIXES[kind]) for kind in KINDS}
    expands = _flag(settings, "do_query_expansion", file, True)
    words = settings.get("skiplist_words")
    prompts = _prompts(settings, file)
    return place, {
        "projection": projection,
        **{f"{kind}_prefix": prefix for kind, prefix in prefixes.items()},
        "prompts": {kind: prompts[kind].removeprefix(prefixes[kind]) for kind in KINDS},
        **{f"{kind}_length": length for kind, length in lengths.items()},
        "expand_to": lengths["query"] if expands else None,
        "attend_to_expansion": _flag(settings, "attend_to_expansion_tokens", file, False),
        "skiplist": _words(string.punctuation if words is None else words, file),
    }


def _read_native(directory: Path) -> tuple[Path, dict[str, Any]]:
    known = ("Transformer", "Dense", "MultiVectorMask", "Normalize")
    place, projection, paths = _read_modules(directory, known)
    unit = read_optional(paths.get("Normalize", directory / "missing") / "config.json")
    if unit.get("module_input_name") != "token_embeddings":
        what = "there is no Normalize of token_embeddings"
        raise InputError(what, str(directory / MODULES), "vectors of tokens have length 1")
    file = place / LIMITS
    limits = read_optional(file)
    if limits.get("module_output_name", "token_embeddings") != "token_embeddings":
        what = f"module_output_name = {limits['module_output_name']!r} is not supported"
        raise InputError(what, str(file))
    mask_file = paths.get("MultiVectorMask", directory / "missing") / "config.json"
    mask = read_optional(mask_file)
    for key, normal in (("skiplist_tasks", ["document"]), ("keep_only_token_ids", None)):
        if mask.get(key) not in (None, normal):
            raise InputError(f"{key} = {mask[key]!r} is not supported", str(mask_file))
    expansion = _expansion(limits.get("query_expansion"), place)
    if expansion and "MultiVectorMask" not in paths:
        what = "query_expansion without the module MultiVectorMask is not supported"
        raise InputError(what, str(file))
    return place, {
        "projection": projection,
        "prompts": _prompts(read_optional(directory / SETTINGS), directory / SETTINGS),
        "max_length": read_length(place),
        **{f"{kind}_length": _count(limits, f"{kind}_length", file) for kind in KINDS},
        **expansion,
        "skiplist": _words(mask.get("skiplist_words") or (), mask_file),
    }


def _expansion(settings: Any, place: Path) -> dict[str, Any]:
    """Return what query_expansion of sentence-transformers says, as arguments of LateEmbedder."""
    file = place / LIMITS
    if settings is None:
        return {}
    if not isinstance(settings, dict) or settings.get("strategy") not in ("fixed", "min"):
        raise InputError(f"query_expansion = {settings!r} is not supported", str(file),
                         'its strategy is "fixed" or "min"')  # fmt: skip
    length = _count(settings, "length", file)
    if length is None:
        raise InputError("query_expansion has no length", str(file))
    mask = read_optional(place / "tokenizer_config.json").get("mask_token")
    mask = mask.get("content") if isinstance(mask, dict) else mask
    if settings.get("token") not in (None, mask):
        what = f"query_expansion with token = {settings['token']!r} is not supported"
        raise InputError(what, str(file), "use the mask token")
    attend = _flag(settings, "attend", file, False)
    found: dict[str, Any] = {"expand_to": length, "attend_to_expansion": attend}
    return found | ({"query_length": length} if settings["strategy"] == "fixed" else {})


def _read_stanford(directory: Path) -> tuple[Path, dict[str, Any]]:
    file = directory / METADATA
    settings = read_optional(file)
    linear = published_names(read_tensors(directory)).get(LINEAR)
    if linear is None or linear.raw.ndim != 2:
        raise DamagedError(f"there is no matrix {LINEAR}", str(directory), "download it again")
    markers = {
        "query": _text(settings, "query_token_id", file, "[unused0]"),
        "document": _text(settings, "doc_token_id", file, "[unused1]"),
    }
    length = _count(settings, "query_maxlen", file) or 32
    skips = _flag(settings, "mask_punctuation", file, True)
    return directory, {
        "projection": [Dense(np.array(linear.float32()))],
        # The library replaces the first token of ". text", so that the text begins with a space.
        **{f"{kind}_prefix": f"{marker} " for kind, marker in markers.items()},
        "query_length": length,
        "document_length": _count(settings, "doc_maxlen", file),
        "expand_to": length,
        "attend_to_expansion": _flag(settings, "attend_to_mask_tokens", file, False),
        "skiplist": list(string.punctuation) if skips else [],
    }


def _read_modules(
    directory: Path, known: Sequence[str]
) -> tuple[Path, list[Dense], dict[str, Path]]:
    """Return the directory of the encoder, the projection, and the directory of each module."""
    modules = list_modules(directory, known)
    kinds = [kind for kind, _ in modules if kind != "MultiVectorMask"]
    dense = kinds.count("Dense")
    wanted = ["Transformer", *["Dense"] * dense, *["Normalize"] * ("Normalize" in known)]
    if not dense or kinds != wanted:
        what = f"the modules are {', '.join(kind for kind, _ in modules)}"
        how = f"motherbird computes {', '.join(known)} in this order, one or more Dense"
        raise InputError(what, str(directory / MODULES), how)
    projection = [read_dense(own, "token_embeddings") for kind, own in modules if kind == "Dense"]
    return modules[0].place, projection, dict(modules)


def _prompts(settings: dict[str, Any], file: Path) -> dict[str, str]:
    """Return the text that is put before each kind of text."""
    prompts = settings.get("prompts") or {}
    if not isinstance(prompts, dict):
        raise InputError("prompts is not an object of names and texts", str(file))
    names = {
        kind: (*PROMPT_NAMES[kind], str(settings.get("default_prompt_name"))) for kind in KINDS
    }
    found = {
        kind: next((prompts[n] for n in own if prompts.get(n) is not None), "")
        for kind, own in names.items()
    }
    if not all(isinstance(prompt, str) for prompt in found.values()):
        raise InputError("prompts is not an object of names and texts", str(file))
    return found


def _count(settings: dict[str, Any], key: str, file: Path) -> int | None:
    value = settings.get(key)
    if value is None or (isinstance(value, int) and not isinstance(value, bool) and value > 0):
        return value
    raise InputError(f"{key} = {value!r} is not a number of tokens", str(file))


def _text(settings: dict[str, Any], key: str, file: Path, default: str) -> str:
    value = settings.get(key, default)
    if value is not None and not isinstance(value, str):
        raise InputError(f"{key} = {value!r} is not a text", str(file))
    return value or ""


def _flag(settings: dict[str, Any], key: str, file: Path, default: bool) -> bool:
    value = settings.get(key)
    if value is not None and not isinstance(value, bool):
        raise InputError(f"{key} = {value!r} is not true or false", str(file))
    return default if value is None else value


def _words(words: Any, file: Path) -> list[str]:
    if not isinstance(words, list | tuple | str) or not all(isinstance(w, str) for w in words):
        raise InputError("skiplist_words is not a list of texts", str(file))
    return list(words)


def with_prefixes(arguments: Mapping[str, Any], tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the arguments of `read` with prefixes, which prompts may start with."""
    found = dict(arguments)
    if "query_prefix" not in found:
        parts = {
            kind: split_prefix(tokenizer, prompt, added=True)
            for kind, prompt in found["prompts"].items()
        }
        found["prompts"] = {kind: rest for kind, (_, rest) in parts.items()}
        found |= {f"{kind}_prefix": token or "" for kind, (token, _) in parts.items()}
    return found


def split_prefix(tokenizer: Tokenizer, text: str, added: bool = False) -> tuple[str | None, str]:
    """Return the token that a text starts with, and the rest of it.

    The token is the whole text, or else its first word. With ``added``, only a token that was added
    to the vocabulary counts, because others are found only in some texts. Without one, it is None.
    """
    backend = tokenizer.backend
    known = {token.content for token in backend.get_added_tokens_decoder().values()}
    for token in (text, *text.split(maxsplit=1)[:1]):
        if token in known or (not added and backend.token_to_id(token) is not None):
            return token, text.removeprefix(token)
    return None, text


def files(
    projection: Sequence[Dense],
    prefixes: Mapping[str, str],
    prompts: Mapping[str, str],
    lengths: Mapping[str, int],
    expands: bool,
    attends: bool,
    skiplist: Sequence[str],
    max_length: int,
) -> dict[str, Any]:
    """Return the files of a late-interaction model in PyLate's layout, for `modules.write_all`.

    Args:
        projection: the layers.
        prefixes: the token before each kind of text; "" for none.
        prompts: the text before each kind of text.
        lengths: the number of tokens of each kind of text.
        expands: whether queries are filled up to their length.
        attends: whether other tokens see those that they are filled up with.
        skiplist: the tokens of documents that have no vector.
        max_length: the maximum number of tokens of any text.
    """
    contents: dict[str, Any] = {
        MODULES: modules_list([TYPE + "Transformer", *[PYLATE_DENSE] * len(projection)]),
        SETTINGS: {
            "model_type": "ColBERT",
            "__version__": VERSIONS,
            "prompts": {kind: prompt for kind, prompt in prompts.items() if prompt},
            "default_prompt_name": None,
            "similarity_fn_name": "MaxSim",
            **{f"{kind}_prefix": prefixes[kind] for kind in KINDS},
            **{f"{kind}_length": lengths[kind] for kind in KINDS},
            "attend_to_expansion_tokens": attends,
            "do_query_expansion": expands,
            "skiplist_words": list(skiplist),
        },
        LIMITS: {"max_seq_length": max_length, "do_lower_case": False},
    }
    for number, each in enumerate(projection, 1):
        contents |= dense_files(each, f"{number}_Dense", {"use_residual": False})
    return contents
