"""Training of a tokenizer on a mixture, and comparison with others on held-out text."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from .. import workers
from ..core import bpe
from ..core import tokenizer as tokenizers
from ..core.rng import random_bits
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from ..files import discard, new_directory, resumable_directory
from . import corpus as corpora
from .corpus import Corpus, OnProgress
from .duplicates import held_out as is_held_out
from .duplicates import text_hash

REPORT = "report.json"
TRAINED = "trained"  # the directory of the tokenizer until its report is written
SAMPLE = 2  # first number of a random key
EVALUATED = 20_000_000  # maximum bytes of held-out text per source


@dataclass(frozen=True)
class TokenCounts:
    """Held-out text of a source, and its tokens by tokenizer."""

    documents: int
    bytes: int
    tokens: dict[str, int]


@dataclass(frozen=True)
class Report:
    """A trained tokenizer and others on held-out text."""

    entries: int  # size of the vocabulary
    megabytes: float  # megabytes of text it was trained on
    sources: dict[str, TokenCounts]  # token counts by source; the trained tokenizer is "motherbird"
    # fraction of learned entries that do not occur in the held-out text; None without such text
    unused: float | None
    round_trip: dict[str, int]  # documents that are the "same" or "changed" after decoding


def train(
    text: str | Path,
    size: int,
    out: str | Path,
    *,
    compare: Sequence[str | Path] = (),  # other tokenizers: files or directories
    megabytes: float = 300,  # of training text, chosen at random from sources by their weights
    held_out: float = 0.02,  # fraction of documents for the report, by the hash of their text
    max_bad: float | None = None,
    on_progress: OnProgress = lambda fraction, what: None,
) -> Report:
    """Train a tokenizer on a mixture, and write it with a report; see also `prepare.prepare`."""
    bpe.check_size(size)
    compared = {
        Path(path).stem.split(".")[0] if Path(path).is_file() else Path(path).name:
        tokenizers.tokenizer(path, split_special_tokens=True) for path in compare
    }  # fmt: skip
    if not 0 <= held_out < 1:
        raise InputError(f"invalid held-out fraction {held_out:g}", how="use 0 or more, below 1")
    if megabytes <= 0:
        raise InputError(f"invalid megabytes {megabytes:g}", how="use a value of more than 0")
    mixture, plan = corpora.find(text, max_bad)
    with resumable_directory(Path(out), "tokenizer", plan) as work:
        corpus = corpora.open_or_build(text, mixture, work, on_progress)
        fractions = _fractions(corpus, megabytes * 1e6)
        on_progress(0.0, "training")
        # The trainer does not react to signals: in a process of its own, it can be stopped.
        worker = workers.Worker(_start_training)
        try:
            request = (corpus.directory, fractions, held_out, size, work / TRAINED)
            learned = worker.ask(request)
        except InputError:  # the text is too small, also in a repeated call
            discard(work)
            raise
        finally:
            worker.stop()
        trained = tokenizers.load(work / TRAINED)
        on_progress(1.0, "comparing")
        report = _report(corpus, {"motherbird": trained, **compared}, held_out, learned / 1e6)
        with new_directory(Path(out), "tokenizer") as fresh:
            trained.write_files(fresh, 8192)
            (fresh / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n", "utf-8")
    return report


def _start_training() -> workers.Handler:
    return lambda request: _train(*request)


def _train(
    directory: Path, fractions: dict[str, float], held_out: float, size: int, out: Path
) -> int:
    """Train a tokenizer on a corpus, save it, and return the bytes of its training text."""
    learned = 0

    def texts() -> Iterator[str]:
        nonlocal learned
        for document in Corpus(directory, verify=False):
            is_test, random = _draw(document.text, held_out)
            if not is_test and random < fractions[document.source]:
                learned += len(document.text.encode())
                yield document.text

    bpe.train(texts(), size).save(out)
    return learned


def _draw(text: str, held_out: float) -> tuple[bool, float]:
    """Return whether a document is held out, and a random number from 0 to 1 for sampling."""
    number = np.array([text_hash(text)], np.uint64)
    random = float(random_bits((SAMPLE,), number)[0]) / 2.0**64
    return bool(is_held_out(number, held_out)[0]), random


def _fractions(corpus: Corpus, size: float) -> dict[str, float]:
    """Return the fraction of the documents of each source to train on."""
    kept = {name: tally.kept.bytes for name, tally in corpus.about.sources.items()}
    weights = corpus.about.mixture.weights or {name: float(own) for name, own in kept.items()}
    each = size / sum(weights.values())
    return {name: each * weights[name] / own if own else 0.0 for name, own in kept.items()}


def _report(
    corpus: Corpus, compared: dict[str, Tokenizer], held_out: float, megabytes: float
) -> Report:
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    tokens = {name: Counter[str]() for name in corpus.about.sources}
    trained = compared["motherbird"]
    used = np.zeros(trained.vocab_size, bool)
    round_trip = {"same": 0, "changed": 0}
    for document in corpus:
        name, text = document.source, document.text
        if sizes[name] >= EVALUATED or not _draw(text, held_out)[0]:
            continue
        documents[name] += 1
        sizes[name] += len(text.encode())
        for label, tokenizer in compared.items():
            ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
            tokens[name][label] += len(ids)
            if tokenizer is trained:
                used[ids] = True
                round_trip["same" if trained.decode(ids) == text else "changed"] += 1
    entries = [trained.backend.id_to_token(number) or "" for number in range(len(used))]
    special = set(trained.special.values())
    learned = np.array([not (e in special or e.startswith("[unused")) for e in entries])
    sources = {
        name: TokenCounts(documents[name], sizes[name], dict(tokens[name])) for name in tokens
    }
    unused = float((learned & ~used).sum() / learned.sum()) if documents else None
    return Report(trained.vocab_size, round(megabytes, 6), sources, unused, round_trip)
