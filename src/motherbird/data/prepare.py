"""Text to tokens to rows: how a set of prepared text (`prepared.PreparedDataset`) is made.

The corpus is tokenised file by file; a finished file is never tokenised again, whatever row
lengths are asked for. Nothing but the corpus, the tokenizer and the options decides what is in a
set: not the number of cores, and not where an earlier try was killed.
"""

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers
from jaxtyping import Float, Shaped

from .. import __version__
from ..core import tokenizer as tokenizer_module
from ..core.rng import random_bits
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from ..files import MANIFEST, new_directory, sha256, unfinished, write_array, write_file
from . import corpus as corpora
from . import mixture as mixtures
from .corpus import Corpus
from .duplicates import held_out as is_held_out
from .duplicates import text_hash
from .prepared import (
    ABOUT,
    DOCUMENT,
    DOCUMENTS,
    FRAME,
    KIND,
    About,
    LengthAbout,
    PreparedDataset,
    SourceAbout,
    packed_rows,
    pieces_name,
    rows_name,
    shard_name,
)
from .readers import Document

LOT = 1 << 20  # characters that are tokenised in one go, on all cores
COPIES = 1  # what a draw is for


def prepare(
    text: str | Path,
    tokenizer: str | Path,
    out: str | Path,
    seq_lens: Sequence[int],
    *,
    held_out: float = 0.0,
    seed: int = 0,
    max_bad: float | None = None,
    processes: int | None = None,
    on_progress: Callable[[float, str], None] = lambda share, what: None,
) -> PreparedDataset:
    """Make a set of prepared text; after a kill, go on where it was.

    Args:
        text: a mixture's TOML file, a corpus that `corpus.build` made, or a folder or file of text.
        tokenizer: a tokenizer.json, or a folder with one.
        out: the directory to make; a set that is there is replaced.
        seq_lens: row lengths.
        held_out: the share of documents set aside for evaluation, by the hash of their text.
        seed: of the copies that weights ask for.
        max_bad: see `mixture.Mixture`; instead of the mixture's own.
        processes: that clean; as many as there are cores if not set.
        on_progress: called with the share that is done, 0 to 1, and what is being done.

    Raises:
        InputError: an argument cannot be used.
        DamagedError: something cannot be read, or nothing is left.
        FetchError: a package or a data set cannot be had.
    """
    if not seq_lens or min(seq_lens) <= FRAME:
        raise InputError(f"rows of {min(seq_lens, default=0)} tokens are impossible")
    if not 0 <= seed < 1 << 64:
        raise InputError(f"a seed of {seed} is impossible", how="give 0 up to 2^64")
    if not 0 <= held_out < 1:
        raise InputError(f"a held-out share of {held_out} is impossible", how="give 0 up to 1")
    out = Path(out)
    loaded = tokenizer_module.tokenizer(tokenizer)
    for role in ("cls", "sep", "mask"):
        loaded.id_of(role)
    mixture, made = None, None
    if (Path(text) / MANIFEST).is_file():
        made = Corpus(text)
    else:
        mixture = mixtures.read(text, max_bad=max_bad)
    plan = {
        "text": sha256(Path(text) / MANIFEST) if mixture is None else corpora.plan(mixture),
        "tokenizer": loaded.backend.to_str(),
        "libraries": [__version__, tokenizers.__version__],
    }
    with unfinished(out, KIND, plan) as work:
        if mixture is not None:
            made = corpora.built(mixture, work / "corpus", processes, on_progress)
        assert made is not None
        names = list(made.about.sources)
        for shard in range(made.about.shards):
            on_progress(shard / made.about.shards, "tokenising")
            if not (work / _documents_name(shard)).exists():
                tokenise(made.documents(shard), loaded, names, work, shard)
        with new_directory(out, KIND, work) as fresh:
            on_progress(1.0, "packing")
            loaded.write_files(fresh, max(seq_lens))
            about = _pack(made, loaded, work, fresh, seq_lens, held_out, seed)
            (fresh / ABOUT).write_text(json.dumps(asdict(about), indent=1) + "\n", "utf-8")
    return PreparedDataset(out, verify=False)


def _dtype(tokenizer: Tokenizer) -> Literal["uint16", "uint32"]:
    """The smallest that holds every id."""
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"


def _documents_name(shard: int) -> str:
    return f"documents-{shard:05}.npy"


def tokenise(
    documents: Iterator[Document],
    tokenizer: Tokenizer,
    sources: Sequence[str],
    folder: Path,
    shard: int,
) -> None:
    """Write a shard of tokens, and then a `DOCUMENT` each for what is in it.

    Args:
        documents: of the shard; ``source`` is the name of one.
        tokenizer: what turns them into ids, on all cores.
        sources: all names, in the order of their numbers.
        folder: where both files go.
        shard: its number.
    """
    dtype = np.dtype(_dtype(tokenizer)).newbyteorder("<")
    numbers = {name: number for number, name in enumerate(sources)}
    rows: list[tuple[int, int, int, int]] = []
    start = 0

    def write(path: Path) -> None:
        nonlocal start
        with path.open("wb") as file:
            for lot in _lots(documents):
                encoded = tokenizer.backend.encode_batch_fast(
                    [document.text for document in lot], add_special_tokens=False
                )
                for document, encoding in zip(lot, encoded, strict=True):
                    ids = np.array(encoding.ids, dtype)
                    file.write(ids.tobytes())
                    rows.append((start, len(ids), text_hash(document.text),
                                 numbers[document.source]))  # fmt: skip
                    start += len(ids)

    write_file(folder / shard_name(shard), write)
    found = np.zeros(len(rows), DOCUMENT)
    found["shard"] = shard
    for number, name in enumerate(("start", "tokens", "hash", "source")):
        found[name] = [row[number] for row in rows]
    write_array(folder / _documents_name(shard), found)


def _lots(documents: Iterator[Document]) -> Iterator[list[Document]]:
    lot: list[Document] = []
    size = 0
    for document in documents:
        lot.append(document)
        size += len(document.text)
        if size >= LOT:
            yield lot
            lot, size = [], 0
    if lot:
        yield lot


def _pack(
    corpus: Corpus,
    tokenizer: Tokenizer,
    work: Path,
    fresh: Path,
    seq_lens: Sequence[int],
    held_out: float,
    seed: int,
) -> About:
    shards = range(corpus.about.shards)
    for shard in shards:
        _link(work / shard_name(shard), fresh / shard_name(shard))
    documents = np.concatenate([np.load(work / _documents_name(shard)) for shard in shards])
    documents = documents[documents["tokens"] > 0]
    documents["held_out"] = is_held_out(documents["hash"], held_out)
    copies = _copies(corpus, documents)
    documents["copies"] = _drawn(copies[documents["source"]], documents, seed)
    write_array(fresh / DOCUMENTS, documents)
    lengths = {}
    for length in sorted(set(seq_lens)):
        rows_of = {}
        for aside in (False, True):
            starts, pieces = packed_rows(documents, length, aside)
            write_array(fresh / rows_name(length, aside), starts)
            write_array(fresh / pieces_name(length, aside), pieces)
            rows_of[aside] = len(starts) - 1
            if not aside:
                filled = int(pieces["tokens"].sum()) + FRAME * len(pieces)
                cut = int((documents["tokens"][~documents["held_out"]] > length - FRAME).sum())
                count = len(pieces)
        lengths[str(length)] = LengthAbout(
            rows_of[False], rows_of[True], count, cut, filled, filled / (rows_of[False] * length)
        )
    sources = {}
    licences = {source.name: source.licence for source in corpus.about.mixture.source}
    for number, (name, tally) in enumerate(corpus.about.sources.items()):
        own = documents[documents["source"] == number]
        sources[name] = SourceAbout(
            documents=len(own),
            tokens=int(own["tokens"].sum()),
            held_out=int(own["held_out"].sum()),
            copies=float(copies[number]),
            dropped={reason: count.documents for reason, count in tally.dropped.items()},
            bad=tally.bad,
            licence=licences.get(name, ""),
        )
    return About(
        dtype=_dtype(tokenizer),
        shards=len(shards),
        sources=sources,
        lengths=lengths,
        tokenizer=sha256(fresh / "tokenizer.json"),
        seed=seed,
        held_out=held_out,
        made_with={
            "motherbird": __version__,
            "tokenizers": tokenizers.__version__,
        },
    )


def _copies(
    corpus: Corpus, documents: Shaped[np.ndarray, " documents"]
) -> Float[np.ndarray, " sources"]:
    """How often a document of each source stands in an epoch, in the mean.

    Weights keep the epoch's size: a source of weight w gets the share w of all tokens.
    """
    kept = documents[~documents["held_out"]]
    wanted = corpus.about.mixture.source
    tokens = np.bincount(kept["source"], weights=kept["tokens"], minlength=len(wanted))
    copies = np.ones(len(wanted))
    if corpus.about.mixture.weights:
        weights = np.array([corpus.about.mixture.weights[source.name] for source in wanted])
        weights = weights * (tokens > 0)
        return weights / weights.sum() * tokens.sum() / np.maximum(tokens, 1)
    for number, source in enumerate(wanted):
        if source.max_tokens is not None and tokens[number] > source.max_tokens:
            copies[number] = source.max_tokens / tokens[number]
    return copies


def _drawn(
    copies: Float[np.ndarray, " documents"], documents: Shaped[np.ndarray, " documents"], seed: int
) -> Shaped[np.ndarray, " documents"]:
    """Whole copies for every document: the fraction is a chance, drawn by the hash of its text."""
    chance = (random_bits((seed, COPIES), documents["hash"]) >> np.uint64(11)) / 2.0**53
    return np.where(documents["held_out"], 0, np.floor(copies + chance)).astype("<u4")


def _link(source: Path, target: Path) -> None:
    """The same file under a second name, or a copy where there are no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


def summary(prepared: PreparedDataset) -> dict[str, Any]:
    """What is in a set, for people and for ``--json``.

    ``efficiency``, ``rows`` and ``tokens`` are those of the length with the lowest efficiency.
    """
    about = prepared.about
    lengths = {name: asdict(length) for name, length in about.lengths.items()}
    worst = min(about.lengths.values(), key=lambda length: length.efficiency)
    dropped: dict[str, int] = {}
    for source in about.sources.values():
        for reason, count in source.dropped.items():
            dropped[reason] = dropped.get(reason, 0) + count
    return {
        "efficiency": worst.efficiency,
        "rows": worst.rows,
        "tokens": worst.tokens,
        "documents": {
            "kept": sum(source.documents for source in about.sources.values()),
            "held_out": sum(source.held_out for source in about.sources.values()),
            "cut": max(length.cut for length in about.lengths.values()),
            "dropped": dropped,
            "bad": sum(source.bad for source in about.sources.values()),
        },
        "lengths": lengths,
        "sources": {name: asdict(source) for name, source in about.sources.items()},
        "dtype": about.dtype,
        "fingerprint": prepared.fingerprint,
    }
