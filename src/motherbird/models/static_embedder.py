"""StaticEmbedder: texts to vectors by a table of one vector for each token, without a network."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float32, Shaped

from ..core import hub
from ..core.arguments import check_flag, check_integer, check_path, check_texts
from ..core.weights import few, read_tensors
from ..errors import DamagedError, InputError
from ..files import new_directory, read_json

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
KEYS = ("embeddings", "embedding.weight")  # model2vec's, which both read; sentence-transformers'
KINDS = ("StaticEmbedding", "Normalize")  # modules of sentence-transformers
TOKENS = 1 << 16  # whose vectors are gathered at once
# What the pre-tokenizer of GPT-2 never joins: its words, for ASCII; or else words with the space
# before them, and white space. Python's \s has the separators 1C to 1F too.
_WORDS = re.compile(
    r"'(?:[sdmt]|ll|ve|re)| ?[A-Za-z]+| ?[0-9]+| ?[^ \t-\rA-Za-z0-9]+"
    r"|[ \t-\r]+(?![^ \t-\r])|[ \t-\r]+"
)
_SEGMENTS = re.compile(r" ?[\S\x1c-\x1f]+|[^\S\x1c-\x1f]+(?![\S\x1c-\x1f])|[^\S\x1c-\x1f]+")
MOST_SEGMENTS = 1 << 18  # whose ids are remembered
LONGEST_SEGMENT = 64  # characters of one that is remembered


class StaticEmbedder:
    """A table of vectors with its tokenizer: a text is the mean of the vectors of its tokens.

    Args:
        tokenizer: a tokenizer of the library tokenizers; special tokens are not added.
        table: (V, D), the vector of each token, as float32 or float16.
        normalize: whether vectors are scaled to length 1, unless `embed` is told otherwise.
    """

    def __init__(
        self, tokenizer: "Tokenizer", table: Shaped[np.ndarray, "V D"], normalize: bool = True
    ) -> None:
        if table.ndim != 2 or len(table) < tokenizer.get_vocab_size():
            what = f"a table of shape {table.shape} has no row for each of the "
            raise InputError(f"{what}{tokenizer.get_vocab_size():,} tokens")
        self.tokenizer, self.table = tokenizer, table
        self._summed = table.astype(np.float32, copy=False)  # float16 is 5 times slower to add
        self.normalize = check_flag(normalize, "normalize")
        tokenizer.no_truncation()
        tokenizer.no_padding()
        self._segments = _IdsOfSegments(tokenizer) if is_divisible(tokenizer) else None
        # Added tokens are found before words are.
        added = tokenizer.get_added_tokens_decoder().values()
        self._added = re.compile("|".join(re.escape(token.content) for token in added) or r"(?!)")

    @classmethod
    def load(cls, name_or_dir: str | Path, *, revision: str | None = None) -> "StaticEmbedder":
        """Load a directory of `save`, or one that sentence-transformers wrote.

        Raises:
            InputError: there is no such directory, or it has another kind of model.
            DamagedError: a file is missing or damaged.
        """
        directory = hub.find(name_or_dir, revision)
        if not is_static(directory):
            raise InputError("this is not a table of static vectors", str(directory))
        modules = read_json(directory / "modules.json")
        place = directory / str(modules[0]["path"])
        return cls(read_tokenizer(place), _table(place), len(modules) > 1)

    def save(
        self,
        directory: str | Path,
        write_more: Callable[[Path], object] = lambda directory: None,
    ) -> None:
        """Write a directory that sentence-transformers and model2vec read.

        Args:
            directory: new, empty, or written by motherbird before; then it is replaced.
            write_more: writes further files into the directory before it gets its name.

        Raises:
            OutputExistsError: the directory exists and was not written by motherbird.
        """
        from safetensors.numpy import save_file

        kind = "sentence_transformers.models."
        modules = KINDS if self.normalize else KINDS[:1]
        contents: dict[str, Any] = {
            "modules.json": [
                {"idx": i, "name": str(i), "path": f"{i}_{name}" if i else "", "type": kind + name}
                for i, name in enumerate(modules)
            ],
            "config_sentence_transformers.json": {
                "model_type": "SentenceTransformer",
                "__version__": {"sentence_transformers": "5.3.0", "transformers": "4.57.6",
                                "pytorch": "2.11.0"},
                "prompts": {}, "default_prompt_name": None, "similarity_fn_name": "cosine",
            },
            # for model2vec
            "config.json": {"model_type": "model2vec", "architectures": ["StaticModel"],
                            "normalize": self.normalize},
        }  # fmt: skip
        if self.normalize:
            contents["1_Normalize/config.json"] = {
                "module_input_name": "sentence_embedding",
                "module_output_name": "sentence_embedding",
            }
        with new_directory(check_path(directory, "the directory"), "model") as fresh:
            for name, content in contents.items():
                path = fresh / name
                path.parent.mkdir(exist_ok=True)
                path.write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
            (fresh / "README.md").write_text(self.card(), encoding="utf-8")
            self.tokenizer.save(str(fresh / TOKENIZER))
            save_file({KEYS[0]: np.ascontiguousarray(self.table)}, fresh / WEIGHTS)
            (fresh / WEIGHTS).chmod((fresh / TOKENIZER).stat().st_mode)
            write_more(fresh)

    def card(self, more: str = "") -> str:
        """Return a model card, with more text at its end."""
        count, size = self.table.shape
        return (
            "---\nlibrary_name: sentence-transformers\npipeline_tag: feature-extraction\n"
            "tags: [sentence-transformers, model2vec, static, motherbird]\n---\n\n"
            f"# Static vectors\n\nA vector of {size} dimensions for each of {count:,} tokens; a "
            "text is the mean of the vectors of its tokens. Loads in motherbird "
            f"(`StaticEmbedder`), sentence-transformers and model2vec.\n{more}"
        )

    @property
    def size(self) -> int:
        """D, the size of a vector."""
        return self.table.shape[1]

    def embed(
        self,
        texts: Iterable[str],
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
    ) -> Float32[np.ndarray, "n dimensions"]:
        """Compute a vector for each text; 0 for one without tokens.

        Args:
            texts: n texts, none of them empty.
            normalize: scale every vector to length 1; None does what the model's directory says.
            truncate_dim: keep only the first dimensions, before normalizing.

        Raises:
            InputError: a text is not a string or empty, or an argument is invalid.
        """
        normalize = self.normalize if normalize is None else check_flag(normalize, "normalize")
        dimensions = self.size if truncate_dim is None else truncate_dim
        dimensions = check_integer(dimensions, "truncate_dim", 1, self.size)
        vectors = self._means(self.ids(check_texts(texts)), dimensions)
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        return vectors

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        if self._segments is None:
            encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
            return [encoding.ids for encoding in encodings]
        known = self._segments.__getitem__
        return [
            self.tokenizer.encode(text, add_special_tokens=False).ids
            if self._added.search(text)
            else list(chain.from_iterable(
                map(known, (_WORDS if text.isascii() else _SEGMENTS).findall(text))
            ))
            for text in texts
        ]  # fmt: skip

    def _means(self, ids: list[list[int]], dimensions: int) -> Float32[np.ndarray, "n D"]:
        means = np.zeros((len(ids), dimensions), np.float32)
        table = self._summed[:, :dimensions]
        for number, own in enumerate(ids):
            for first in range(0, len(own), TOKENS):
                part = table[own[first : first + TOKENS]]
                means[number] += part.sum(axis=0, dtype=np.float32)
            means[number] /= max(1, len(own))
        return means


class _IdsOfSegments(dict[str, list[int]]):
    """The token ids of the segments of texts: most occur many times."""

    def __init__(self, tokenizer: "Tokenizer") -> None:
        super().__init__()
        self.tokenizer = tokenizer

    def __missing__(self, segment: str) -> list[int]:
        found: list[int] = self.tokenizer.encode(segment, add_special_tokens=False).ids
        if len(segment) <= LONGEST_SEGMENT and len(self) < MOST_SEGMENTS:
            self[segment] = found
        return found


def is_divisible(tokenizer: "Tokenizer") -> bool:
    """Return whether the ids of a text are those of its segments, one after the other.

    They are with the pre-tokenizer of GPT-2.
    """
    parts = (tokenizer.pre_tokenizer, tokenizer.normalizer)
    own, normalizer = (json.loads(part.__getstate__()) if part else {} for part in parts)
    return (
        own.get("type") == "ByteLevel"
        and own.get("use_regex", True)
        and not own.get("add_prefix_space")
        and normalizer.get("type") in (None, "NFC")
    )


def is_static(directory: Path) -> bool:
    """Return whether a directory has static vectors, as sentence-transformers saves them."""
    path = directory / "modules.json"
    modules = read_json(path) if path.is_file() else None
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        return False
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    return bool(kinds) and kinds == list(KINDS[: len(kinds)])


def read_tokenizer(place: Path) -> "Tokenizer":
    """Read the tokenizer of a directory, or raise DamagedError."""
    from tokenizers import Tokenizer

    try:
        return Tokenizer.from_file(str(place / TOKENIZER))
    except Exception as error:  # the library has no class of its own
        raise DamagedError(f"the tokenizer cannot be read: {error}", str(place)) from error


def _table(place: Path) -> Shaped[np.ndarray, "V D"]:
    tensors = read_tensors(place)
    names = [name for name in KEYS if name in tensors]
    stored = tensors[names[0]] if names else None
    if stored is None or stored.raw.ndim != 2 or stored.dtype not in ("float32", "float16"):
        what = f"there is no matrix {KEYS[0]} in float32 or float16"
        raise DamagedError(what, str(place / WEIGHTS))
    if others := sorted(tensors.keys() - {names[0]}):
        raise InputError(f"there are other tensors: {few(others)}", str(place / WEIGHTS))
    return np.array(stored.raw)
