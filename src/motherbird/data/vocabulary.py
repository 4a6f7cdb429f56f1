"""Training of a tokenizer on a mixture, and comparison with others on held-out text."""

import json
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..core import tokenizer as tokenizers
from ..core.rng import random_bits
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from ..files import MANIFEST, new_directory, resumable_directory
from . import corpus as corpora
from . import mixture as mixtures
from .corpus import Corpus, OnProgress
from .duplicates import held_out as is_held_out
from .duplicates import text_hash

REPORT = "report.json"
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
    unused: float  # fraction of learned entries that do not occur in the held-out text
    # number of documents that are the "same" or "changed" after decoding
    round_trip: dict[str, int]


def train(
    text: str | Path,
    size: int,
    out: str | Path,
    *,
    compare: Sequence[str | Path] = (),
    megabytes: float = 300,
    held_out: float = 0.02,
    max_bad: float | None = None,
    processes: int | None = None,
    on_progress: OnProgress = lambda fraction, what: None,
) -> Report:
    """Train a tokenizer on a mixture, and write it with a report.

    Args:
        text: the TOML file of a mixture, a corpus, or a folder or file of text.
        size: size of the vocabulary, see `core.tokenizer.train`.
        out: the output directory; an existing tokenizer is replaced.
        compare: other tokenizers: files or directories.
        megabytes: megabytes of randomly chosen training text, from sources by their weights.
        held_out: fraction of documents kept for the report, by the hash of their text.
        max_bad: see `mixture.Mixture`.
        processes: number of cleaning processes; the number of cores if not given.
        on_progress: see `corpus.OnProgress`.

    Raises:
        InputError: an argument cannot be used, or the text is too small.
        DamagedError: something cannot be read.
        FetchError: a package or dataset cannot be downloaded.
    """
    tokenizers.check_size(size)
    others = {Path(path).stem.split(".")[0] if Path(path).is_file() else Path(path).name:
              tokenizers.tokenizer(path) for path in compare}  # fmt: skip
    if not 0 <= held_out < 1 or megabytes <= 0:
        raise InputError("the held-out share has to be 0 up to 1, and megabytes more than 0")
    out = Path(out)
    if (Path(text) / MANIFEST).is_file():
        return _train(Corpus(text), size, out, others, megabytes, held_out, on_progress)
    mixture = mixtures.read(text, max_bad=max_bad)
    with resumable_directory(out, "tokenizer", corpora.plan(mixture)) as work:
        corpus = corpora.open_or_build(mixture, work / "corpus", processes, on_progress)
        return _train(corpus, size, out, others, megabytes, held_out, on_progress)


def _train(
    corpus: Corpus,
    size: int,
    out: Path,
    others: dict[str, Tokenizer],
    megabytes: float,
    held_out: float,
    on_progress: OnProgress,
) -> Report:
    fractions = _fractions(corpus, megabytes * 1e6)
    learned = 0

    def texts() -> Iterator[str]:
        nonlocal learned
        for shard in range(corpus.about.shards):
            on_progress(shard / corpus.about.shards, "training")
            for document in corpus.documents(shard):
                is_test, random = _draw(document.text, held_out)
                if not is_test and random < fractions[document.source]:
                    learned += len(document.text.encode())
                    yield document.text

    trained = tokenizers.train(texts(), size)
    on_progress(1.0, "comparing")
    report = _report(corpus, {"motherbird": trained, **others}, held_out, learned / 1e6)
    with new_directory(out, "tokenizer") as fresh:
        trained.write_files(fresh, 8192)
        (fresh / REPORT).write_text(json.dumps(asdict(report), indent=1) + "\n", "utf-8")
    return report


def _draw(text: str, held_out: float) -> tuple[bool, float]:
    """Return whether a document is held out, and a random number from 0 to 1 for sampling."""
    number = np.array([text_hash(text)], np.uint64)
    return bool(is_held_out(number, held_out)[0]), float(
        random_bits((SAMPLE,), number)[0]
    ) / 2.0**64


def _fractions(corpus: Corpus, size: float) -> dict[str, float]:
    """Return the fraction of the documents of each source to train on."""
    kept = {name: tally.kept.bytes for name, tally in corpus.about.sources.items()}
    weights = corpus.about.mixture.weights or {name: float(own) for name, own in kept.items()}
    total = sum(weights.values())
    return {
        name: size * weights[name] / total / max(1, own) if own else 0.0
        for name, own in kept.items()
    }


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
    learned = np.ones(len(used), bool)
    learned[[i for i in range(len(used)) if _is_reserved(trained, i)]] = False
    return Report(
        entries=trained.vocab_size,
        megabytes=round(megabytes, 3),
        sources={
            name: TokenCounts(documents[name], sizes[name], dict(tokens[name])) for name in tokens
        },
        unused=float((learned & ~used).sum() / learned.sum()),
        round_trip=round_trip,
    )


def _is_reserved(tokenizer: Tokenizer, number: int) -> bool:
    """Return whether an entry is a special token or an unused one."""
    token = tokenizer.backend.id_to_token(number) or ""
    return token in tokenizer.special.values() or token.startswith("[unused")
