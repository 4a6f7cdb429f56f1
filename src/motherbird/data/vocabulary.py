"""A tokenizer for a mixture: trained on a sample of it, and compared with others on the rest."""

import json
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from ..core import tokenizer as tokenizers
from ..core.rng import random_bits
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from ..files import MANIFEST, new_directory, unfinished
from . import corpus as corpora
from . import mixture as mixtures
from .corpus import Corpus
from .duplicates import held_out as is_held_out
from .duplicates import text_hash

REPORT = "report.json"
SAMPLE = 2  # what a draw is for
EVALUATED = 20_000_000  # bytes of held-out text of a source that are counted


@dataclass(frozen=True)
class Counted:
    """What a tokenizer needs for the held-out text of a source."""

    documents: int
    bytes: int
    tokens: dict[str, int]


@dataclass(frozen=True)
class Report:
    """How a tokenizer does beside others, on text that it was not trained on.

    Attributes:
        entries: of the vocabulary.
        megabytes: it was trained on.
        sources: by name: tokens of each tokenizer; ours is "motherbird".
        unused: share of learned entries that no token of the held-out text is.
        round_trip: documents that come back as they were, and those that do not.
    """

    entries: int
    megabytes: float
    sources: dict[str, Counted]
    unused: float
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
    on_progress: Callable[[float, str], None] = lambda share, what: None,
) -> Report:
    """Train a tokenizer on a mixture, and write it with its report.

    Args:
        text: a mixture's TOML file, a corpus that `corpus.build` made, or a folder or file of text.
        size: entries in all, see `core.tokenizer.train`.
        out: the directory to make; an earlier tokenizer is replaced.
        compare: other tokenizers: files or folders.
        megabytes: of text to learn from, taken by chance; sources by their weights, if any.
        held_out: the share of documents that are kept for the report, by the hash of their text.
        max_bad: see `mixture.Mixture`.
        processes: that clean; as many as there are cores if not set.
        on_progress: called with the share that is done, and what is being done.

    Raises:
        InputError: an argument cannot be used, or the text is too small.
        DamagedError: something cannot be read.
        FetchError: a package or a data set cannot be had.
    """
    tokenizers.check_size(size)
    others = {Path(path).stem.split(".")[0] if Path(path).is_file() else Path(path).name:
              tokenizers.tokenizer(path) for path in compare}  # fmt: skip
    if not 0 <= held_out < 1 or megabytes <= 0:
        raise InputError("the held-out share is 0 up to 1, and the megabytes are more than 0")
    out = Path(out)
    if (Path(text) / MANIFEST).is_file():
        return _train(Corpus(text), size, out, others, megabytes, held_out, on_progress)
    mixture = mixtures.read(text, max_bad=max_bad)
    with unfinished(out, "tokenizer", corpora.plan(mixture)) as work:
        built = corpora.built(mixture, work / "corpus", processes, on_progress)
        return _train(built, size, out, others, megabytes, held_out, on_progress)


def _train(
    corpus: Corpus,
    size: int,
    out: Path,
    others: dict[str, Tokenizer],
    megabytes: float,
    held_out: float,
    on_progress: Callable[[float, str], None],
) -> Report:
    chances = _chances(corpus, megabytes * 1e6)
    learned = 0

    def texts() -> Iterator[str]:
        nonlocal learned
        for shard in range(corpus.about.shards):
            on_progress(shard / corpus.about.shards, "learning")
            for document in corpus.documents(shard):
                aside, chosen = _draw(document.text, held_out)
                if not aside and chosen < chances[document.source]:
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
    """Whether a document is set aside, and a chance from 0 to 1 for what else is drawn."""
    number = np.array([text_hash(text)], np.uint64)
    return bool(is_held_out(number, held_out)[0]), float(
        random_bits((SAMPLE,), number)[0]
    ) / 2.0**64


def _chances(corpus: Corpus, size: float) -> dict[str, float]:
    """Of each source, the share of documents to learn from."""
    kept = {name: tally.kept.bytes for name, tally in corpus.about.sources.items()}
    weights = corpus.about.mixture.weights or {name: float(own) for name, own in kept.items()}
    total = sum(weights.values())
    return {
        name: size * weights[name] / total / max(1, own) if own else 0.0
        for name, own in kept.items()
    }


def _report(
    corpus: Corpus, contenders: dict[str, Tokenizer], held_out: float, megabytes: float
) -> Report:
    documents: Counter[str] = Counter()
    sizes: Counter[str] = Counter()
    tokens = {name: Counter[str]() for name in corpus.about.sources}
    ours = contenders["motherbird"]
    used = np.zeros(ours.vocab_size, bool)
    trips = {"same": 0, "changed": 0}
    for document in corpus:
        name, text = document.source, document.text
        if sizes[name] >= EVALUATED or not _draw(text, held_out)[0]:
            continue
        documents[name] += 1
        sizes[name] += len(text.encode())
        for contender, tokenizer in contenders.items():
            ids = tokenizer.backend.encode(text, add_special_tokens=False).ids
            tokens[name][contender] += len(ids)
            if tokenizer is ours:
                used[ids] = True
                trips["same" if ours.decode(ids) == text else "changed"] += 1
    learned = np.ones(len(used), bool)
    learned[[i for i in range(len(used)) if _is_slot(ours, i)]] = False
    return Report(
        entries=ours.vocab_size,
        megabytes=round(megabytes, 3),
        sources={
            name: Counted(documents[name], sizes[name], dict(tokens[name])) for name in tokens
        },
        unused=float((learned & ~used).sum() / learned.sum()),
        round_trip=trips,
    )


def _is_slot(tokenizer: Tokenizer, number: int) -> bool:
    """Whether an entry is special, or left for users."""
    token = tokenizer.backend.id_to_token(number) or ""
    return token in tokenizer.special.values() or token.startswith("[unused")
