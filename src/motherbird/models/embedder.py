"""Embedder: texts to vectors, one for each."""

import logging
from collections.abc import Callable, Iterable, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, get_args

import numpy as np

from ..arrays import Float32
from ..core import weights
from ..core.arguments import Documents, check_flag, check_ids, check_integer, check_texts
from ..core.config import Pooling
from ..core.inference import InferenceModel
from ..errors import InputError
from . import backend
from .dense import Dense, check_chain, project, unit
from .modules import embedder_files, read_modules, write_all
from .text_model import TextModel

if TYPE_CHECKING:
    from ..nn.encoder import Encoder

log = logging.getLogger(__name__)


class Embedder(TextModel):
    """An encoder with its tokenizer and a pooling.

    Args:
        encoder: an encoder, or any `InferenceModel`.
        pooling: "mean" of the token vectors, or "cls", the vector of the first token.
        prompts, default_prompt, max_length: see `TextModel`.
        normalize: whether vectors are scaled to length 1, unless `embed` is told otherwise.
        dense: linear layers that follow the pooling, one after another.
        include_prompt: whether the tokens of a prompt are pooled with those of the text.
    """

    def __init__(
        self,
        encoder: "Encoder | InferenceModel",
        pooling: Pooling = "mean",
        prompts: dict[str, str] | None = None,
        default_prompt: str | None = None,
        max_length: int | None = None,
        normalize: bool = True,
        dense: Sequence[Dense] = (),
        include_prompt: bool = True,
    ) -> None:
        super().__init__(encoder, max_length, prompts, default_prompt)
        if pooling not in get_args(Pooling):
            raise InputError(f"pooling {pooling!r} is unknown", how="use mean or cls")
        self.pooling: Pooling = pooling
        self.normalize = check_flag(normalize, "normalize")
        self.include_prompt = check_flag(include_prompt, "include_prompt")
        self.dense = check_chain(dense, self.model.config.hidden_size)

    @classmethod
    def _load(cls, directory: Path, **options: Any) -> "Embedder":
        place, arguments = read_modules(directory)
        if not place.is_dir():
            raise InputError("the directory of the encoder is missing", str(place))
        model = backend.load(place, **options)
        claimed = (directory / "modules.json").is_file()
        if not claimed and any(n.startswith("decoder.") for n in weights.head_tensors(directory)):
            _warn_not_trained(directory)
        return cls(model, **arguments)

    if not TYPE_CHECKING:

        def __getattr__(self, name: str) -> Any:
            """Name the method for users of sentence-transformers; other names are not found."""
            instead = ": use embed(texts)" if name == "encode" else ""
            raise AttributeError(f"Embedder has no attribute {name!r}{instead}")

    @property
    def size(self) -> int:
        """The size of a vector: that of the last `Dense`, or else D."""
        return self.dense[-1].outputs if self.dense else self.model.config.hidden_size

    @property
    def encoder(self) -> "Encoder":
        """The torch encoder, to train or to save.

        Raises:
            InputError: this embedder does not run on torch.
        """
        return self.module

    @property
    def module(self) -> "Encoder":
        """The encoder of the torch model, which `save` writes."""
        return super().module.encoder

    def _write_more(self, directory: Path) -> None:
        self.write_modules(directory)

    def write_modules(self, directory: Path, at: str = "") -> None:
        """Write the files that sentence-transformers reads, in the format of version 5.3.

        Args:
            directory: the model's directory.
            at: the subdirectory of the encoder, if it is in one.
        """
        write_all(directory, embedder_files(
            self.pooling, self.include_prompt, self.model.config.hidden_size, self.dense,
            self.normalize, self.prompts, self.default_prompt, self.max_length, at,
        ))  # fmt: skip

    def embed(
        self,
        texts: Iterable[str],
        *,
        prompt_name: str | None = None,
        prompt: str | None = None,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        max_length: int | None = None,
        truncate: bool = False,
        windows: bool = False,
        batch_tokens: int | None = None,
    ) -> Float32[np.ndarray, "n dimensions"]:
        """Compute a vector for each text.

        Args:
            texts: n texts, none of them empty.
            prompt_name: the name of one of the model's prompts, which is put before each text.
            prompt: the prompt itself, instead of its name; "" for none. If neither is given,
                the model's default prompt is used.
            normalize: scale every vector to length 1; None does what the model's directory says.
            truncate_dim: keep only the first dimensions, before normalizing.
            max_length: maximum number of tokens per text, special tokens included.
            truncate: truncate longer texts, and log how many; otherwise they are an error.
            windows: divide longer texts into as few windows as possible, of equal lengths and
                without overlap, each with the prompt. The vector is the mean of theirs, before
                these are normalized, weighted by their tokens of the text.
            batch_tokens: tokens per batch; None chooses by the device.

        Returns:
            A float32 array (n, `size`) whose row i belongs to text i.

        Raises:
            InputError: a text is not a string, empty or too long, there is no such prompt, or an
                argument is invalid.
        """
        left_out = self.left_out(prompt_name, prompt)
        if check_flag(windows, "windows"):
            if check_flag(truncate, "truncate"):
                raise InputError("truncate and windows exclude each other", how="give one")
            found = self._windows(texts, self.find_prompt(prompt_name, prompt), max_length)
            return self._embed_windows(found, normalize, truncate_dim, batch_tokens, left_out)
        ids, _ = self.tokenize(
            texts, prompt_name=prompt_name, prompt=prompt, max_length=max_length, truncate=truncate
        )
        return self.embed_ids(
            ids, normalize=normalize, truncate_dim=truncate_dim, batch_tokens=batch_tokens,
            left_out=left_out,
        )  # fmt: skip

    def _windows(
        self, texts: Iterable[str], prompt: str, max_length: int | None
    ) -> list[list[tuple[list[int], int]]]:
        """Return the windows of each text: their ids, and how many of them are of the text."""
        limit = self._limit(max_length, False)
        before, after = self.tokenizer.template_ids()
        head = self.tokenizer.encode(prompt)[: -len(after) or None]
        found = []
        for ids in self.tokenizer.encode_batch([prompt + text for text in check_texts(texts)]):
            # The end of a prompt, such as its space, may be part of the first token of the text.
            shared = next((n for n, (a, b) in enumerate(zip(head, ids, strict=False)) if a != b),
                          len(head))  # fmt: skip
            if len(ids) <= limit:
                found.append([(ids, max(1, len(ids) - shared - len(after)))])
                continue
            room = limit - shared - len(after)
            if room < 1:
                what = f"the prompt leaves no room for text within {limit} tokens"
                raise InputError(what, how="use a shorter prompt or a larger max_length")
            first, body = ids[:shared], ids[shared : len(ids) - len(after)]
            count = -(-len(body) // room)
            cuts = [len(body) * n // count for n in range(count + 1)]
            found.append([
                ([*first, *body[start:end], *after], end - start) for start, end in pairwise(cuts)
            ])  # fmt: skip
        return found

    def _embed_windows(
        self, texts: list[list[tuple[list[int], int]]], normalize: bool | None,
        truncate_dim: int | None, batch_tokens: int | None, left_out: int,
    ) -> Float32[np.ndarray, "n dimensions"]:  # fmt: skip
        """Compute the vector of each text from those of its windows."""
        normalize = self.normalize if normalize is None else check_flag(normalize, "normalize")
        vectors = self.embed_ids(
            [ids for own in texts for ids, _ in own], normalize=False, truncate_dim=truncate_dim,
            batch_tokens=batch_tokens, left_out=left_out,
        )  # fmt: skip
        shares = [size / sum(n for _, n in own) for own in texts for _, size in own]
        starts = np.cumsum([0, *map(len, texts)])[:-1]
        vectors *= np.array(shares, np.float32)[:, None]
        if texts:
            vectors = np.add.reduceat(vectors, starts, axis=0)
        return unit(vectors) if normalize else vectors

    def left_out(self, prompt_name: str | None = None, prompt: str | None = None) -> int:
        """Return how many tokens of a text with a prompt are not pooled, for `embed_ids`.

        As in sentence-transformers, these are the tokens of the prompt alone, with those before it.
        """
        text = self.find_prompt(prompt_name, prompt)
        if self.include_prompt or not text:
            return 0
        return len(self.tokenizer.encode(text)) - len(self.tokenizer.template_ids()[1])

    def embed_ids(
        self,
        ids: Documents,
        *,
        normalize: bool | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] = lambda documents: None,
        left_out: int = 0,
    ) -> Float32[np.ndarray, "n dimensions"]:
        """Compute a vector for each list of token ids, as `embed` does for texts.

        Documents are not padded: one that begins or ends with the pad token of the tokenizer is an
        InputError. ``on_batch`` is called with the number of documents of each batch that is done.
        ``left_out`` is the number of tokens of each document that are not pooled, the first ones.
        """
        dimensions = self.size if truncate_dim is None else truncate_dim
        dimensions = check_integer(dimensions, "truncate_dim", 1, self.size)
        normalize = self.normalize if normalize is None else check_flag(normalize, "normalize")
        arrays = check_ids(ids)
        left_out = check_integer(left_out, "left_out", 0)
        vectors = np.empty((len(arrays), dimensions), dtype=np.float32)
        output = "tokens" if left_out else self.pooling
        for documents, rows in self.batches(arrays, output, batch_tokens=batch_tokens):
            if left_out:
                rows = [self._pool(own, left_out) for own in rows]
            part = project(self.dense, np.stack(rows))[:, :dimensions]
            vectors[documents] = unit(part) if normalize else part
            on_batch(len(documents))
        return vectors

    def _pool(
        self, rows: Float32[np.ndarray, "tokens D"], left_out: int
    ) -> Float32[np.ndarray, " D"]:
        """Pool the vectors of a document's tokens without the first ones."""
        rows = rows[left_out:] if left_out < len(rows) else rows
        return rows[0] if self.pooling == "cls" else rows.mean(axis=0)


@cache
def _warn_not_trained(directory: Path) -> None:
    log.warning("%s is a masked language model that was not trained for embeddings: its vectors "
                "are weak for search", directory)  # fmt: skip
