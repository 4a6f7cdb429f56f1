"""LateEmbedder: texts to a vector for each token (ColBERT), compared by `engine.maxsim`."""

import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, get_args

import numpy as np

from ..arrays import Float32, Int64
from ..core import weights
from ..core.arguments import check_flag, check_integer, check_list, check_text, check_texts
from ..core.batching import concatenate, split_by_tokens
from ..core.inference import InferenceModel
from ..core.tokenizer import Tokenizer
from ..engine.model import NativeModel
from ..errors import InputError, require_extra
from . import backend, late_files
from .dense import Dense, check_chain, project, unit
from .modules import write_all
from .text_model import TextModel, warn_truncated

if TYPE_CHECKING:
    from ..nn.encoder import Encoder

log = logging.getLogger(__name__)

Kind = Literal["query", "document"]
Vectors = Float32[np.ndarray, "tokens d"]
UNREAD_TOKENS = 512  # of a batch of queries that are filled up with tokens that are not read


class Piece(NamedTuple):
    """Token ids that are computed together, and which of their vectors are kept."""

    text: int  # the index of the text
    ids: list[int]
    first: int
    last: int
    masks: int = 0  # at the end, that a query was filled up with


class LateEmbedder(TextModel):
    """An encoder with a projection of its token vectors: a vector of length 1 for each token.

    Args:
        encoder: an encoder, or any `InferenceModel`, with a tokenizer.
        projection: the layers after the encoder, one or more.
        query_prefix: the token that stands before a query, after [CLS]; "" for none. A text behind
            the token is put before the query.
        document_prefix: the same for documents.
        prompts: by "query" and "document", a text between the prefix and every text.
        query_length: maximum number of tokens of a query; None is ``max_length``.
        document_length: maximum number of tokens of a window of a document; None is ``max_length``.
        expand_to: queries of fewer tokens are filled up with the mask token; None for no query.
        attend_to_expansion: whether other tokens see those masks. If not, queries need torch.
        skiplist: tokens of documents that have no vector, such as punctuation.
        max_length: maximum number of tokens of any text; None is the encoder's limit.
        add_prefixes: give prefixes that are not tokens unused ids of the vocabulary; the encoder
            has to be trained then.

    Attributes:
        prefixes: the token before each kind of text, or "".
        lengths: the maximum number of tokens of each kind of text.
        skipped_ids: the ids of the skiplist.

    Raises:
        InputError: a prefix is not a token, a layer does not fit, or an argument is invalid.
    """

    def __init__(
        self,
        encoder: "Encoder | InferenceModel",
        projection: Sequence[Dense],
        *,
        query_prefix: str = "[Q] ",
        document_prefix: str = "[D] ",
        prompts: Mapping[str, str] | None = None,
        query_length: int | None = None,
        document_length: int | None = None,
        expand_to: int | None = None,
        attend_to_expansion: bool = False,
        skiplist: Sequence[str] = (),
        max_length: int | None = None,
        add_prefixes: bool = False,
    ) -> None:
        super().__init__(encoder, max_length, dict(prompts or {}))
        if others := self.prompts.keys() - set(late_files.KINDS):
            what = f"there is a prompt called {sorted(others)[0]!r}"
            raise InputError(what, how="use query and document")
        self.projection = check_chain(projection, self.model.config.hidden_size)
        if not self.projection:
            raise InputError("there is no projection", how="pass one Dense or more")
        self._tokenizer = super().tokenizer
        prefixes = {"query": query_prefix, "document": document_prefix}
        for kind, prefix in prefixes.items():
            check_text(prefix, f"{kind}_prefix", allow_empty=True)
        if check_flag(add_prefixes, "add_prefixes"):
            size = self.model.config.vocab_size
            self._tokenizer = self.tokenizer.with_tokens([*filter(None, prefixes.values())], size)
        self.prefixes = {kind: self._prefix(kind, text) for kind, text in prefixes.items()}
        lengths = {"query": query_length, "document": document_length}
        self.lengths = {
            kind: self.max_length
            if length is None
            else min(self.max_length, check_integer(length, f"{kind}_length", 1))
            for kind, length in lengths.items()
        }
        self.expand_to = expand_to
        if expand_to is not None:
            self.expand_to = check_integer(expand_to, "expand_to", 1, self.lengths["query"])
            self.tokenizer.id_of("mask")
        self.attend_to_expansion = check_flag(attend_to_expansion, "attend_to_expansion")
        words = check_list(skiplist, "skiplist", "tokens")
        self.skiplist = [check_text(word, "skiplist", allow_empty=True) for word in words]
        self.skipped_ids = self._ids_of(self.skiplist)
        self._readers: list[Encoder] = []  # torch's encoder, once a query needs it

    def _prefix(self, kind: str, text: str) -> str:
        """Return the token of a prefix, and put the text behind it before the prompt."""
        if not text:
            return ""
        token, rest = late_files.split_prefix(self.tokenizer, text)
        if token is None:
            how = "train the model with it, or pass add_prefixes=True for a model to be trained"
            raise InputError(f"{kind}_prefix {text!r} is not a token of the tokenizer", how=how)
        if rest:
            self.prompts[kind] = rest + self.prompts.get(kind, "")
        return token

    def _ids_of(self, words: Sequence[str]) -> Int64[np.ndarray, " known"]:
        ids = {word: self.tokenizer.backend.token_to_id(word) for word in words}
        if unknown := [word for word, number in ids.items() if number is None]:
            log.warning("words of the skiplist are not tokens: %s", ", ".join(map(repr, unknown)))
        return np.array([number for number in ids.values() if number is not None], np.int64)

    @classmethod
    def _load(cls, directory: Path, **options: Any) -> "LateEmbedder":
        place, arguments = late_files.read(directory)
        model = backend.load(place, **options)
        if model.tokenizer is not None:
            arguments = late_files.with_prefixes(arguments, model.tokenizer)
        return cls(model, **arguments)

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer, with the prefixes as tokens."""
        return self._tokenizer

    @property
    def size(self) -> int:
        """d, the size of a vector."""
        return self.projection[-1].outputs

    @property
    def encoder(self) -> "Encoder":
        """The torch encoder, to train or to save; see `Embedder.encoder`."""
        return self.module

    @property
    def module(self) -> "Encoder":
        """The encoder of the torch model, which `save` writes."""
        return super().module.encoder

    def save(
        self,
        directory: str | Path,
        write_more: Callable[[Path], object] = lambda directory: None,
    ) -> None:
        """Write a directory that motherbird, PyLate and sentence-transformers 6 read.

        On the engine, the weights are those that the model was loaded from.

        Args:
            directory: new, empty, or written by motherbird before; then it is replaced.
            write_more: writes further files into the directory before it gets its name.

        Raises:
            InputError: these files were changed since then, or queries are filled up to another
                length than the longest, which PyLate does not have.
            OutputExistsError: the directory exists and was not written by motherbird.
        """
        self.check_files()
        super().save(directory, write_more)

    def check_files(self) -> None:
        """Raise InputError if there is a setting that PyLate's files cannot have."""
        if self.expand_to not in (None, self.lengths["query"]):
            what = f"expand_to {self.expand_to} is not query_length {self.lengths['query']}"
            raise InputError(what, how="PyLate's files have one number for both: make them equal")

    def _write_more(self, directory: Path) -> None:
        if self._tokenizer is not self.model.tokenizer:
            self._tokenizer.write_files(directory, self.model.config.max_position_embeddings)
        raw = weights.read_config(directory) | {"colbert_dim": self.size}  # for vLLM
        text = json.dumps(raw, indent=2) + "\n"
        (directory / "config.json").write_text(text, encoding="utf-8")
        write_all(directory, late_files.files(
            self.projection, self.prefixes, self.prompts, self.lengths, self.expand_to is not None,
            self.attend_to_expansion, self.skiplist, self.max_length,
        ))  # fmt: skip

    def embed_tokens(
        self,
        texts: Iterable[str],
        kind: Kind = "document",
        *,
        max_length: int | None = None,
        overlap: int | None = None,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] = lambda texts: None,
    ) -> list[Vectors]:
        """Compute the vectors of the tokens of each text.

        A document with more tokens than ``lengths["document"]`` is computed in windows that
        overlap. A token in two windows has the vector of the window whose end is farther away.

        Args:
            texts: queries or documents, none of them empty.
            kind: "query" or "document".
            max_length: truncate texts to this number of tokens, special tokens and prefix included,
                and log how many were longer. None: longer documents have windows, and longer
                queries are an error.
            overlap: the tokens that a window shares with the next one; None is a quarter of it.
            truncate_dim: keep only the first dimensions of a vector, before it is normalized.
            batch_tokens: tokens per batch; None chooses by the device.
            on_batch: called with the number of windows of each batch that is done.

        Returns:
            A float32 array (tokens, d) for each text, with vectors of length 1; d is `size` or
            ``truncate_dim``. Special tokens have vectors, tokens of the skiplist in documents have
            none.

        Raises:
            InputError: a text is not a string, empty or too long, or an argument is invalid.
        """
        listed = check_texts(texts)
        pieces, truncated = self.divide(listed, kind, max_length, overlap)
        noun = "document" if kind == "document" else "text"
        warn_truncated(truncated, len(listed), max_length or 0, noun)
        return self.embed_pieces(pieces, kind, truncate_dim, batch_tokens, on_batch)

    def embed_pieces(
        self,
        pieces: Sequence[Piece],
        kind: Kind,
        truncate_dim: int | None = None,
        batch_tokens: int | None = None,
        on_batch: Callable[[int], None] = lambda pieces: None,
    ) -> list[Vectors]:
        """Compute the vectors of texts that `divide` has divided, as `embed_tokens` does."""
        parts: dict[int, list[Vectors]] = {}
        size = self.size if truncate_dim is None else truncate_dim
        size = check_integer(size, "truncate_dim", 1, self.size)
        found = self._vectors(pieces, size, batch_tokens, on_batch)
        for piece, vectors in zip(pieces, found, strict=True):
            kept = vectors[piece.first : piece.last]
            if kind == "document" and len(self.skipped_ids):
                kept = kept[~np.isin(piece.ids[piece.first : piece.last], self.skipped_ids)]
            parts.setdefault(piece.text, []).append(kept)
        return [np.concatenate(own) if own[1:] else own[0] for own in parts.values()]

    def divide(
        self,
        texts: Sequence[str],
        kind: Kind,
        max_length: int | None = None,
        overlap: int | None = None,
    ) -> tuple[list[Piece], int]:
        """Tokenize texts, and divide or truncate long ones; see `embed_tokens`.

        Returns:
            One or more pieces of each text, in order, and how many texts were truncated.
        """
        if kind not in get_args(Kind):
            raise InputError(f"unknown kind {kind!r}", how=f"use {' or '.join(get_args(Kind))}")
        limit = self._limit(max_length, False) if max_length is not None else self.lengths[kind]
        before, after = self.tokenizer.template_ids()
        prompt = self.prompts.get(kind, "")
        encoded = self.tokenizer.encode_batch([prompt + text for text in texts])
        bodies = [ids[len(before) : len(ids) - len(after)] for ids in encoded]
        if self.prefixes[kind]:
            before = [*before, *self._ids_of([self.prefixes[kind]]).tolist()]
        special = len(before) + len(after)
        room = limit - special
        if room < 1:
            raise InputError(f"no text fits into {limit} tokens", how=f"use {special + 1} or more")
        overlap = room // 4 if overlap is None else check_integer(overlap, "overlap", 0, room - 1)
        truncated = 0
        if max_length is not None:
            if prompt.strip() and len(self.tokenizer.encode(prompt.rstrip())) + 1 >= limit:
                what = f"the prompt leaves no room for text within {limit} tokens"
                raise InputError(what, how="use a larger max_length")
            truncated = sum(len(body) > room for body in bodies)
            bodies = [body[:room] for body in bodies]
        pieces = []
        for number, body in enumerate(bodies):
            if kind == "query" and len(body) > room:
                what = f"the query has {len(body) + special} tokens, the limit is {limit}"
                how = f"shorten it, or truncate it (max_length={limit})"
                raise InputError(what, f"text {number}", how)
            for start, first, last in windows(len(body), room, overlap):
                ids = [*before, *body[start : start + room], *after]
                kept = 0 if first == 0 else len(before) + first - start
                end = len(ids) if last == len(body) else len(before) + last - start
                pieces.append(Piece(number, ids, kept, end))
        if kind == "query" and self.expand_to is not None:
            pieces = [self._expanded(piece, self.expand_to) for piece in pieces]
        return pieces, truncated

    def _expanded(self, piece: Piece, length: int) -> Piece:
        """Fill up a query with masks."""
        masks = max(0, length - len(piece.ids))
        ids = [*piece.ids, *[self.tokenizer.id_of("mask")] * masks]
        return piece._replace(ids=ids, last=len(ids), masks=masks)

    def _vectors(
        self, pieces: Sequence[Piece], size: int, batch_tokens: int | None,
        on_batch: Callable[[int], None],
    ) -> list[Vectors]:  # fmt: skip
        """Compute the vectors of all tokens of each piece."""
        found: list[Any] = [None] * len(pieces)
        if not self.attend_to_expansion and any(piece.masks for piece in pieces):
            batches = self._unread(pieces)
        else:
            ids = [piece.ids for piece in pieces]
            batches = self.batches(ids, "tokens", batch_tokens=batch_tokens)
        for documents, rows in batches:
            vectors = unit(project(self.projection, np.concatenate(rows))[:, :size])
            ends = np.cumsum([len(own) for own in rows])
            for number, part in zip(documents, np.split(vectors, ends[:-1]), strict=True):
                found[number] = part
            on_batch(len(documents))
        return found

    def _unread(
        self, pieces: Sequence[Piece]
    ) -> Iterator[tuple[list[int], list[Float32[np.ndarray, "tokens D"]]]]:
        """Compute queries whose masks no token sees, as `batches` does others."""
        encoder = self._reader()
        import torch

        from ..nn.packed import Packed
        from ..nn.unread import encode

        for batch in split_by_tokens([len(piece.ids) for piece in pieces], UNREAD_TOKENS):
            own = [pieces[number] for number in batch]
            packed, starts = concatenate([np.array(piece.ids, np.int32) for piece in own])
            unread = np.zeros(len(packed), bool)
            for end, piece in zip(starts[1:], own, strict=True):
                unread[end - piece.masks : end] = True
            states = encode(encoder, Packed.from_arrays(packed, starts), torch.from_numpy(unread))
            yield batch, np.split(states.float().cpu().numpy(), starts[1:-1])

    def _reader(self) -> "Encoder":
        """Return torch's encoder: the model itself, or its files loaded again."""
        if not self._readers:
            model = self.model
            require_extra("torch", "train")
            if isinstance(model, NativeModel) and model.directory is not None:
                from ..nn.encoder import Encoder

                weights.check_unchanged(model.files)
                dtype = "float32" if model.dtype == "int8" else model.dtype
                self._readers.append(Encoder.load(model.directory, dtype=dtype))
            else:
                self._readers.append(self.encoder)
        return self._readers[0]


def windows(length: int, size: int, overlap: int) -> list[tuple[int, int, int]]:
    """Divide a text of some tokens into windows.

    Args:
        length: the number of tokens.
        size: the number of tokens of a window.
        overlap: how many a window shares with the next one, less than ``size``; the last two may
            share more.

    Returns:
        For each window its first token, and the tokens, from the first to before the last, whose
        vectors it gives: those that are farther from its end than from that of another window.
    """
    if length <= size:
        return [(0, 0, length)]
    starts = [*range(0, length - size, size - overlap), length - size]
    cuts = [0, *((one + size + other) // 2 for one, other in pairwise(starts)), length]
    return list(zip(starts, cuts, cuts[1:], strict=False))
