"""StaticEmbedder: texts to vectors by a table of one vector for each token, without a network."""

import json
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from ..arrays import Float32, Float64, Int32, Shaped
from ..core import hub, weights
from ..core.arguments import check_flag, check_integer, check_path, check_texts
from ..core.weights import Stored, few, read_tensors
from ..engine.words import add_rows
from ..errors import DamagedError, InputError
from ..files import new_directory, read_json
from .modules import read_modules
from .segments import Segments, is_divisible

if TYPE_CHECKING:
    from tokenizers import Tokenizer

WEIGHTS, TOKENIZER = "model.safetensors", "tokenizer.json"
KEYS = ("embeddings", "embedding.weight")  # model2vec's, which both read; sentence-transformers'
KINDS = ("StaticEmbedding", "Normalize")  # modules of sentence-transformers
PADDING_SHARE = 0.4  # of embeddings that began as static vectors, at least; it begins near 1
SAMPLE = 1024  # rows by which it is found


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
    """

    def __init__(self, stored: Shaped[np.ndarray, "V D"]) -> None:
        self.stored = stored
        self._whole: NDArray[np.float32] | None = None
        self._read = 0  # rows

    def add_rows(self, ids: Int32[np.ndarray, " T"], out: Float32[np.ndarray, " d"]) -> None:
        """Add the first d dimensions of the vectors of some tokens to ``out``."""
        if (largest := int(ids.max(initial=-1))) >= len(self.stored):
            raise InputError(f"the tokenizer has the id {largest}, and the table no such row")
        self._read += len(ids)
        if self._whole is None and self._read < len(self.stored):
            own = self.converted(self.stored[ids])[:, : len(out)]
            out += own.sum(axis=0, dtype=np.float32)
        else:
            add_rows(self.float32(), ids, out)

    def float32(self) -> Float32[np.ndarray, "V D"]:
        """Return the vectors of all tokens."""
        if self._whole is None:
            self._whole = np.ascontiguousarray(self.converted(self.stored), np.float32)
        return self._whole

    def whole(self) -> Shaped[np.ndarray, "V D"]:
        """Return the vectors of all tokens, in the dtype of the file if they are in one."""
        return self.stored

    def converted(self, rows: Shaped[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        """Return the vectors of stored rows."""
        return rows.astype(np.float32, copy=False)


class _Embeddings(_Table):
    """The embeddings of an encoder, of which the norm makes vectors; see `from_encoder`.

    Args:
        stored: the embeddings.
        weight: that of the norm.
        bias: that of the norm, or 0.
        eps: that of the norm.
    """

    def __init__(
        self, stored: Stored, weight: Float32[np.ndarray, " D"],
        bias: Float32[np.ndarray, " D"] | int, eps: float,
    ) -> None:  # fmt: skip
        super().__init__(stored.raw)
        self.dtype, self.weight, self.bias, self.eps = stored.dtype, weight, bias, np.float32(eps)
        self.padding = padding_direction(len(weight)).astype(np.float32)

    def whole(self) -> Float32[np.ndarray, "V D"]:
        """Return the vectors of all tokens."""
        return self.float32()

    def converted(self, rows: Shaped[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        """Return the vectors of embeddings."""
        x = self._normed(rows)
        return x - np.outer(x @ self.padding, self.padding)

    def _normed(self, rows: Shaped[np.ndarray, "n D"]) -> Float32[np.ndarray, "n D"]:
        x = Stored(self.dtype, rows).float32()
        x = x - x.mean(axis=1, keepdims=True)
        x /= np.sqrt(np.square(x).mean(axis=1, keepdims=True) + self.eps)
        return x * self.weight + self.bias

    def padding_share(self) -> float:
        """Return how much of the lengths of embeddings is their part in the padding direction."""
        some = self._normed(self.stored[:: -(-len(self.stored) // SAMPLE)])
        return float(np.mean(some @ self.padding / np.linalg.norm(some, axis=1)))


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
        self._segments = Segments(tokenizer) if is_divisible(tokenizer) else None

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
        place, modules = place_of(directory), read_json(directory / "modules.json")
        return cls(read_tokenizer(place), _table(place), len(modules) > 1)

    @classmethod
    def from_encoder(
        cls, name_or_dir: str | Path, *, revision: str | None = None
    ) -> "StaticEmbedder":
        """Use the input embeddings of an encoder that began as static vectors.

        Such an encoder (`motherbird distill dense`) keeps static vectors in its embeddings, and
        they change with it in training. A vector is an embedding after the norm, without its
        part in the `padding_direction`.

        Args:
            name_or_dir: see `Embedder.load`.
            revision: branch, tag or commit on the Hub.

        Raises:
            InputError: there is no such directory, or it has no encoder that began as such.
            DamagedError: a file is missing or damaged.
        """
        place, _ = read_modules(hub.find(name_or_dir, revision))
        config = weights.encoder_config(place)
        tensors = weights.published_names(read_tensors(place))
        names = (weights.EMBEDDING, *(f"model.embeddings.norm.{n}" for n in ("weight", "bias")))
        table, scale, shift = (tensors.get(name) for name in names)
        if table is None or scale is None:
            raise DamagedError("the embeddings or their norm are missing", str(place))
        bias = 0 if shift is None else shift.float32()
        own = _Embeddings(table, scale.float32(), bias, config.norm_eps)
        if own.padding_share() < PADDING_SHARE:
            what = "the encoder did not begin as static vectors"
            raise InputError(what, str(place), "use one of motherbird distill dense")
        return cls(read_tokenizer(place), own)

    @property
    def table(self) -> Shaped[np.ndarray, "V D"]:
        """The vector of each token, in the dtype of the file, or float32 for an encoder."""
        return self._table.whole()

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
        vectors = self._means(self._ids(check_texts(texts)), dimensions)
        if normalize:
            vectors /= np.linalg.norm(vectors, axis=1, keepdims=True).clip(min=1e-12)
        return vectors

    def ids(self, texts: Sequence[str]) -> list[list[int]]:
        """Return the token ids of each text."""
        return [own.tolist() for own in self._ids(texts)]

    def _ids(self, texts: Sequence[str]) -> list[NDArray[np.int32]]:
        if self._segments is not None:
            return [self._segments.ids(text) for text in texts]
        encodings = self.tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        return [np.array(encoding.ids, np.int32) for encoding in encodings]

    def _means(
        self, ids: Sequence[NDArray[np.int32]], dimensions: int
    ) -> Float32[np.ndarray, "n D"]:
        means = np.zeros((len(ids), dimensions), np.float32)
        for mean, own in zip(means, ids, strict=True):
            self._table.add_rows(own, mean)
            mean /= max(1, len(own))
        return means


def is_static(directory: Path) -> bool:
    """Return whether a directory has static vectors, as sentence-transformers saves them."""
    path = directory / "modules.json"
    modules = read_json(path) if path.is_file() else None
    if not isinstance(modules, list) or not all(isinstance(m, dict) for m in modules):
        return False
    kinds = [str(module.get("type")).rpartition(".")[2] for module in modules]
    return bool(kinds) and kinds == list(KINDS[: len(kinds)])


def place_of(directory: Path) -> Path:
    """Return where the table of a directory with static vectors is."""
    return directory / str(read_json(directory / "modules.json")[0]["path"])


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
