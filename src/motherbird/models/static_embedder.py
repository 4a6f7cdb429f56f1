"""StaticEmbedder: texts to vectors by a table of one vector for each token, without a network."""

import json
import re
from collections.abc import Callable, Iterable, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32, Float64, Shaped
from ..core import hub, weights
from ..core.arguments import check_flag, check_integer, check_path, check_texts
from ..core.weights import few, read_tensors
from ..errors import DamagedError, InputError
from ..files import new_directory, read_json
from .modules import read_modules

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


def padding_direction(width: int) -> Float64[np.ndarray, " D"]:
    """Return the direction of what makes all embeddings equally long that begin as static vectors.

    Their norm divides by the same number then. Its mean is 0, so that the norm keeps it.
    """
    direction = np.zeros(width)
    direction[-2:] = 0.5**0.5, -(0.5**0.5)
    return direction


class _Table:
    """A table of vectors, of which rows are read in float32.

    Few rows are converted when they are read, and the whole table when as many were read as it has:
    a query is answered without that, and a float16 table is 5 times slower to add.

    Args:
        stored: (V, D), the rows as they are stored.
        convert: makes (n, D) float32 vectors of rows; None if they are vectors, of any dtype.
    """

    def __init__(
        self,
        stored: Shaped[np.ndarray, "V D"],
        convert: Callable[[NDArray[Any]], NDArray[np.float32]] | None = None,
    ) -> None:
        self.stored, self.convert = stored, convert
        self._whole: NDArray[np.float32] | None = None
        self._read = 0  # rows

    def __getitem__(self, ids: Sequence[int]) -> Float32[np.ndarray, "n D"]:
        if self._whole is None:
            self._read += len(ids)
            if self._read < len(self.stored):
                return self._converted(self.stored[ids])
        return self.float32()[ids]

    def float32(self) -> Float32[np.ndarray, "V D"]:
        """Return the vectors of all tokens."""
        if self._whole is None:
            self._whole = self._converted(self.stored)
        return self._whole

    def _converted(self, rows: NDArray[Any]) -> NDArray[np.float32]:
        return rows.astype(np.float32, copy=False) if self.convert is None else self.convert(rows)


class StaticEmbedder:
    """A table of vectors with its tokenizer: a text is the mean of the vectors of its tokens.

    Args:
        tokenizer: a tokenizer of the library tokenizers; special tokens are not added.
        table: (V, D), the vector of each token, as float32 or float16.
        normalize: whether vectors are scaled to length 1, unless `embed` is told otherwise.
    """

    def __init__(
        self, tokenizer: "Tokenizer", table: Shaped[np.ndarray, "V D"] | _Table,
        normalize: bool = True,
    ) -> None:  # fmt: skip
        own = table if isinstance(table, _Table) else _Table(table)
        if own.stored.ndim != 2 or len(own.stored) < tokenizer.get_vocab_size():
            what = f"a table of shape {own.stored.shape} has no row for each of the "
            raise InputError(f"{what}{tokenizer.get_vocab_size():,} tokens")
        self.tokenizer, self._table = tokenizer, own
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

    @classmethod
    def from_encoder(
        cls, name_or_dir: str | Path, *, revision: str | None = None
    ) -> "StaticEmbedder":
        """Use the input embeddings of an encoder that began as static vectors.

        Such an encoder (`motherbird distill dense`) keeps static vectors in its embeddings, and
        they change with it in training. A vector is an embedding after the norm, without its
        part in the `padding_direction`. Those of other encoders mean little.

        Args:
            name_or_dir: see `Embedder.load`.
            revision: branch, tag or commit on the Hub.

        Raises:
            InputError: there is no such directory, or it has no encoder or no tokenizer.
            DamagedError: a file is missing or damaged.
        """
        place, _ = read_modules(hub.find(name_or_dir, revision))
        config = weights.encoder_config(place)
        tensors = weights.published_names(read_tensors(place))
        names = (weights.EMBEDDING, *(f"model.embeddings.norm.{n}" for n in ("weight", "bias")))
        table, scale, shift = (tensors.get(name) for name in names)
        if table is None or scale is None:
            raise DamagedError("the embeddings or their norm are missing", str(place))
        weight = scale.float32(), 0 if shift is None else shift.float32()

        def normed(rows: Shaped[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
            x = table._replace(raw=rows).float32()
            x = x - x.mean(axis=1, keepdims=True)
            x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + np.float32(config.norm_eps))
            return x * weight[0] + weight[1]

        padding = padding_direction(config.hidden_size).astype(np.float32)

        def own(rows: Shaped[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
            x = normed(rows)
            return x - np.outer(x @ padding, padding)

        return cls(read_tokenizer(place), _Table(table.raw, own))

    @property
    def table(self) -> Shaped[np.ndarray, "V D"]:
        """The vector of each token, in the dtype of the file, or float32 for an encoder."""
        return self._table.stored if self._table.convert is None else self._table.float32()

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
        return self._table.stored.shape[1]

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
        for number, own in enumerate(ids):
            for first in range(0, len(own), TOKENS):
                part = self._table[own[first : first + TOKENS]][:, :dimensions]
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
