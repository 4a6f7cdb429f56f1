"""Preparation: a corpus is tokenized and packed into a prepared dataset (`prepared`).

The corpus is tokenized file by file; finished files are kept if the work is interrupted, and used
for any row lengths. The dataset depends only on the corpus, the tokenizer and the options, not on
the number of cores or on interruptions.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import numpy as np
import tokenizers

from .. import __version__
from ..arrays import Float, Shaped
from ..core import tokenizer as tokenizer_module
from ..core.rng import random_bits
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from ..files import new_directory, resumable_directory, sha256, write_array, write_file
from . import corpus as corpora
from . import packing
from . import prepared as dataset
from .corpus import Corpus, OnProgress
from .duplicates import held_out as is_held_out
from .duplicates import text_hash
from .packing import DOCUMENT, SPECIAL_TOKENS, Selection
from .parts import chunked
from .prepared import DatasetInfo, LengthInfo, PreparedDataset, SourceInfo

CHUNK = 1 << 20  # characters that are tokenized in one call, on all cores
COPIES = 1  # first number of a random key


def prepare(
    text: str | Path,  # the TOML file of a mixture, a corpus, or a directory or file of text
    tokenizer: str | Path,  # a tokenizer.json, or a directory with one
    out: str | Path,  # the output directory; an existing prepared dataset is replaced
    seq_lens: Sequence[int],  # row lengths in tokens
    *,
    held_out: float = 0.0,  # fraction of documents held out, by the hash of their text
    seed: int = 0,  # seed of fractional repetitions
    max_bad: float | None = None,  # see `mixture.Mixture`; overrides the value of the mixture
    on_progress: OnProgress = lambda fraction, what: None,
) -> PreparedDataset:
    """Prepare a dataset, or resume an interrupted preparation.

    Raises:
        InputError: an argument cannot be used.
        DamagedError: something cannot be read, or no document is left.
        FetchError: a package or dataset cannot be downloaded.
    """
    if not seq_lens or min(seq_lens) <= SPECIAL_TOKENS:
        raise InputError(f"invalid row length {min(seq_lens, default=0)}", how="use 3 or more")
    if not 0 <= seed < 1 << 64:
        raise InputError(f"invalid seed {seed}", how="use at least 0 and less than 2^64")
    if not 0 <= held_out < 1:
        raise InputError(f"invalid held-out fraction {held_out:g}", how="use 0 or more, below 1")
    out = Path(out)
    loaded = tokenizer_module.tokenizer(tokenizer, split_special_tokens=True)
    for role in ("cls", "sep", "mask"):
        loaded.id_of(role)
    mixture, text_plan = corpora.find(text, max_bad)
    plan = {
        "text": text_plan,
        "tokenizer": loaded.backend.to_str(),
        "libraries": [__version__, tokenizers.__version__],
    }
    with resumable_directory(out, dataset.KIND, plan) as work:
        corpus = corpora.open_or_build(text, mixture, work, on_progress)
        for shard in range(corpus.about.shards):
            on_progress(shard / corpus.about.shards, "tokenizing")
            if not (work / _documents_name(shard)).exists():
                _tokenize(corpus, loaded, work, shard)
        with new_directory(out, dataset.KIND, work) as fresh:
            on_progress(1.0, "packing")
            loaded.write_files(fresh, max(seq_lens))
            info = _pack(corpus, loaded, work, fresh, seq_lens, held_out, seed)
            (fresh / dataset.INFO).write_text(json.dumps(asdict(info), indent=1) + "\n", "utf-8")
    return PreparedDataset(out, verify=False)


def _dtype(tokenizer: Tokenizer) -> Literal["uint16", "uint32"]:
    """Return the smallest dtype for all ids."""
    return "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"


def _documents_name(shard: int) -> str:
    return f"documents-{shard:05}.npy"


def _tokenize(corpus: Corpus, tokenizer: Tokenizer, folder: Path, shard: int) -> None:
    """Write a file of tokens, and then a file with a `DOCUMENT` for each document in it."""
    sources = list(corpus.about.sources)
    dtype = np.dtype(_dtype(tokenizer)).newbyteorder("<")
    rows: list[tuple[int, ...]] = []  # of the fields of `DOCUMENT`

    def write(path: Path) -> None:
        start = 0
        with path.open("wb") as file:
            documents = corpus.documents(shard)
            for chunk in chunked(documents, CHUNK, lambda document: len(document.text)):
                encoded = tokenizer.backend.encode_batch_fast(
                    [document.text for document in chunk], add_special_tokens=False
                )
                for document, encoding in zip(chunk, encoded, strict=True):
                    ids = np.array(encoding.ids, dtype)
                    file.write(ids.tobytes())
                    source = sources.index(document.source)
                    digest = text_hash(document.text)
                    rows.append((shard, start, len(ids), digest, source, 0, False))
                    start += len(ids)

    write_file(folder / dataset.shard_name(shard), write)
    write_array(folder / _documents_name(shard), np.array(rows, DOCUMENT))


def _pack(
    corpus: Corpus,
    tokenizer: Tokenizer,
    work: Path,
    fresh: Path,
    seq_lens: Sequence[int],
    held_out: float,
    seed: int,
) -> DatasetInfo:
    shards = range(corpus.about.shards)
    for shard in shards:
        source, target = (folder / dataset.shard_name(shard) for folder in (work, fresh))
        try:
            os.link(source, target)
        except OSError:  # the file system does not support hard links
            shutil.copyfile(source, target)
    names = list(corpus.about.sources)
    counts, tokens, held_out_counts = np.zeros((3, len(names)), np.int64)
    training_tokens = np.zeros(len(names))
    for own in _documents(work, shards, held_out):
        counts += np.bincount(own["source"], minlength=len(names))
        held_out_counts += np.bincount(own["source"], own["held_out"], len(names)).astype(np.int64)
        by_source = np.bincount(own["source"], own["tokens"], len(names))
        tokens += by_source.astype(np.int64)
        training_tokens += np.bincount(own["source"], own["tokens"] * ~own["held_out"], len(names))
    if counts.sum() >= 1 << 32:  # pieces have 32 bits for the index of their document
        what = f"{int(counts.sum()):,} documents are too many for one dataset"
        raise InputError(what, how="prepare at most 4,294,967,295 documents at a time")
    copies = _copies(corpus, training_tokens)
    with packing.array_writer(fresh / dataset.DOCUMENTS, DOCUMENT) as add:
        for own in _documents(work, shards, held_out):
            own["copies"] = _whole_copies(copies[own["source"]], own, seed)
            add(own)
    licences = {source.name: source.licence for source in corpus.about.mixture.source}
    sources = {}
    for number, (name, tally) in enumerate(corpus.about.sources.items()):
        dropped = {reason: count.documents for reason, count in tally.dropped.items()}
        sources[name] = SourceInfo(
            int(counts[number]), int(tokens[number]), int(held_out_counts[number]),
            float(copies[number]), dropped, tally.bad, licences.get(name, ""), tally.skipped,
        )  # fmt: skip
    return DatasetInfo(
        dtype=_dtype(tokenizer),
        shards=len(shards),
        sources=sources,
        lengths={str(n): _write_rows(n, fresh) for n in sorted(set(seq_lens))},
        tokenizer=sha256(fresh / "tokenizer.json"),
        seed=seed,
        held_out=held_out,
        made_with={"motherbird": __version__, "tokenizers": tokenizers.__version__},
    )


def _documents(
    work: Path, shards: Sequence[int], held_out: float
) -> Iterator[Shaped[np.ndarray, " documents"]]:
    """Yield the documents of each shard that have tokens, with their ``held_out``."""
    for shard in shards:
        documents = np.load(work / _documents_name(shard))
        documents = documents[documents["tokens"] > 0]
        documents["held_out"] = is_held_out(documents["hash"], held_out)
        yield documents


def _write_rows(length: int, fresh: Path) -> LengthInfo:
    documents = np.load(fresh / dataset.DOCUMENTS, mmap_mode="r")
    written = {}
    for held_out in (False, True):
        groups = packing.packed_rows(documents, length, Selection(held_out))
        names = dataset.row_files(length, held_out)
        written[held_out] = packing.write_rows(fresh, names, groups)
    found = written[False]
    if not found.rows:
        how = "hold out a smaller fraction, or use more text"
        raise InputError("no document is left for training", how=how)
    cut = 0
    for first in range(0, len(documents), packing.BLOCK):
        block = documents[first : first + packing.BLOCK]
        cut += int(((block["tokens"] > length - SPECIAL_TOKENS) & ~block["held_out"]).sum())
    efficiency = found.tokens / (found.rows * length)
    return LengthInfo(found.rows, written[True].rows, found.pieces, cut, found.tokens, efficiency)


def _copies(corpus: Corpus, tokens: Float[np.ndarray, " sources"]) -> Float[np.ndarray, " sources"]:
    """Return the average repetitions of the documents of each source in an epoch.

    ``tokens`` are those of the training documents of each source. Weights do not change the size
    of the epoch: a source of weight w gets w / (sum of weights) of its tokens.
    """
    wanted = corpus.about.mixture.source
    copies = np.ones(len(wanted))
    if corpus.about.mixture.weights:
        weights = np.array([corpus.about.mixture.weights[source.name] for source in wanted])
        weights = weights * (tokens > 0)
        return weights / weights.sum() * tokens.sum() / np.maximum(tokens, 1)
    for number, source in enumerate(wanted):
        if source.max_tokens is not None and tokens[number] > source.max_tokens:
            copies[number] = source.max_tokens / tokens[number]
    return copies


def _whole_copies(
    copies: Float[np.ndarray, " documents"], documents: Shaped[np.ndarray, " documents"], seed: int
) -> Shaped[np.ndarray, " documents"]:
    """Round up or down at random, keyed by the hash of the text; 0 for held-out documents."""
    random = (random_bits((seed, COPIES), documents["hash"]) >> np.uint64(11)) / 2.0**53
    return np.where(documents["held_out"], 0, copies + random).astype("<u4")


def summary(prepared: PreparedDataset) -> dict[str, Any]:
    """Return the content as JSON; first that of the row length with the lowest efficiency."""
    about = prepared.about
    worst = min(about.lengths.values(), key=lambda length: length.efficiency)
    sources = about.sources.values()
    dropped = Counter[str]()
    for source in sources:
        dropped.update(source.dropped)
    return {
        "efficiency": worst.efficiency,
        "rows": worst.rows,
        "tokens": worst.tokens,
        "documents": {
            "kept": sum(source.documents for source in sources),
            "held_out": sum(source.held_out for source in sources),
            "cut": max(length.cut for length in about.lengths.values()),
            "dropped": dict(dropped),
            "bad": sum(source.bad for source in sources),
        },
        **{key: asdict(about)[key] for key in ("lengths", "sources", "dtype")},
        "fingerprint": prepared.fingerprint,
    }
