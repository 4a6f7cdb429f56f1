"""Preparation: a corpus is tokenized and packed into a prepared dataset (`prepared`).

The corpus is tokenized file by file; finished files are kept if the work is interrupted, and used
for any row lengths. The dataset depends only on the corpus, the tokenizer and the options, not on
the number of cores or on interruptions.
"""

import json
import os
import shutil
from collections import Counter
from collections.abc import Sequence
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
from ..files import new_directory, resumable_directory, sha256, write_array, write_file
from . import corpus as corpora
from . import prepared as dataset
from .corpus import Corpus, OnProgress
from .duplicates import held_out as is_held_out
from .duplicates import text_hash
from .parts import chunked
from .prepared import SPECIAL_TOKENS, DatasetInfo, LengthInfo, PreparedDataset, SourceInfo

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
    processes: int | None = None,  # cleaning processes; the number of cores if not given
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
        corpus = corpora.open_or_build(text, mixture, work, processes, on_progress)
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
    write_array(folder / _documents_name(shard), np.array(rows, dataset.DOCUMENT))


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
    documents = np.concatenate([np.load(work / _documents_name(shard)) for shard in shards])
    documents = documents[documents["tokens"] > 0]
    documents["held_out"] = is_held_out(documents["hash"], held_out)
    copies = _copies(corpus, documents)
    documents["copies"] = _whole_copies(copies[documents["source"]], documents, seed)
    write_array(fresh / dataset.DOCUMENTS, documents)
    sources = {}
    licences = {source.name: source.licence for source in corpus.about.mixture.source}
    for number, (name, tally) in enumerate(corpus.about.sources.items()):
        own = documents[documents["source"] == number]
        dropped = {reason: count.documents for reason, count in tally.dropped.items()}
        sources[name] = SourceInfo(
            len(own), int(own["tokens"].sum()), int(own["held_out"].sum()), float(copies[number]),
            dropped, tally.bad, licences.get(name, ""), tally.skipped,
        )  # fmt: skip
    return DatasetInfo(
        dtype=_dtype(tokenizer),
        shards=len(shards),
        sources=sources,
        lengths={str(n): _write_rows(documents, n, fresh) for n in sorted(set(seq_lens))},
        tokenizer=sha256(fresh / "tokenizer.json"),
        seed=seed,
        held_out=held_out,
        made_with={"motherbird": __version__, "tokenizers": tokenizers.__version__},
    )


def _write_rows(
    documents: Shaped[np.ndarray, " documents"], length: int, fresh: Path
) -> LengthInfo:
    found = {}
    for held_out in (False, True):
        starts, pieces = dataset.packed_rows(documents, length, held_out)
        for name, array in zip(dataset.row_files(length, held_out), (starts, pieces), strict=True):
            write_array(fresh / name, array)
        found[held_out] = len(starts) - 1, pieces
    (rows, pieces), (held_out_rows, _) = found[False], found[True]
    tokens = int(pieces["tokens"].sum()) + SPECIAL_TOKENS * len(pieces)
    training = documents["tokens"][~documents["held_out"]]
    cut = int((training > length - SPECIAL_TOKENS).sum())
    return LengthInfo(rows, held_out_rows, len(pieces), cut, tokens, tokens / (rows * length))


def _copies(
    corpus: Corpus, documents: Shaped[np.ndarray, " documents"]
) -> Float[np.ndarray, " sources"]:
    """Return the average repetitions of the documents of each source in an epoch.

    Weights do not change the size of the epoch: a source of weight w gets w / (sum of weights) of
    its tokens.
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
