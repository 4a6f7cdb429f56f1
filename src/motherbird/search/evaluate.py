"""How well a search answers questions whose answers are known."""

import math
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InputError
from ..files import parse_json
from .index import Index
from .lookup import Hit, Mode

DEPTH = 10  # hits of a question


@dataclass(frozen=True)
class Target:
    """A file that answers a question, or lines of it."""

    path: str
    start: int | None = None
    end: int | None = None

    def is_in(self, hit: Hit) -> bool:
        """Return whether a hit is of the file, and has one of the lines."""
        if hit.path != self.path and not hit.path.endswith(f"/{self.path}"):
            return False
        if self.start is None or self.end is None:
            return True
        return hit.start <= self.end and hit.end >= self.start


@dataclass(frozen=True)
class Question:
    """A question with its answers."""

    query: str
    targets: tuple[Target, ...]
    category: str = ""


@dataclass
class Scores:
    """The metrics of some questions: means, and the median of the time."""

    ndcg: list[float] = field(default_factory=list)
    hit_1: list[float] = field(default_factory=list)
    hit_5: list[float] = field(default_factory=list)
    seconds: list[float] = field(default_factory=list)

    def summary(self) -> dict[str, float | int]:
        """Return the metrics by name."""
        count = len(self.ndcg)
        middle = sorted(self.seconds)[count // 2]
        return {
            "questions": count,
            "nDCG@10": sum(self.ndcg) / count,
            "hit@1": sum(self.hit_1) / count,
            "hit@5": sum(self.hit_5) / count,
            "milliseconds": 1000 * middle,
        }


def read_questions(path: Path) -> list[Question]:
    """Read a .jsonl file, or a .json file with a list.

    A row has "query" (or "question"), "relevant" and perhaps "secondary": lists of paths, or of
    {"path", "start_line", "end_line"}; and perhaps "category".

    Raises:
        InputError: a row has no query or no answer.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"the questions cannot be read ({error.strerror})", str(path)) from error
    if path.suffix == ".json":
        rows = [(f"{path}, item {n}", row) for n, row in enumerate(_parse(text, str(path)), 1)]
    else:
        rows = [(f"{path}:{n}", _parse(line, f"{path}:{n}"))
                for n, line in enumerate(text.splitlines(), 1) if line.strip()]  # fmt: skip
    found = [_question(row, where) for where, row in rows]
    if not found:
        raise InputError("there is no question", str(path))
    return found


def _parse(text: str, where: str) -> Any:
    try:
        return parse_json(text)
    except ValueError as error:
        raise InputError(f"this is not JSON ({error})", where) from error


def _question(row: Any, where: str) -> Question:
    if not isinstance(row, dict):
        raise InputError("a question is an object", where)
    query = row.get("query", row.get("question"))
    answers = [*row.get("relevant", ()), *row.get("secondary", ())]
    if not isinstance(query, str) or not query.strip():
        raise InputError('there is no text in "query"', where)
    if not answers:
        raise InputError('there is no path in "relevant"', where)
    targets = []
    for answer in answers:
        own = {"path": answer} if isinstance(answer, str) else answer
        if not isinstance(own, dict) or not isinstance(own.get("path"), str):
            raise InputError(f"{answer!r} is not a path", where)
        targets.append(Target(own["path"], own.get("start_line"), own.get("end_line")))
    return Question(query, tuple(targets), str(row.get("category", "")))


def evaluate(
    index: Index, questions: Sequence[Question], mode: Mode, *, use_rules: bool = True
) -> dict[str, dict[str, float | int]]:
    """Return the metrics of all questions ("all"), and of each category."""
    found: dict[str, Scores] = {"all": Scores()}
    for question in questions:
        start = time.perf_counter()
        hits = index.search(question.query, DEPTH, mode, use_rules=use_rules).hits
        seconds = time.perf_counter() - start
        ranks = [next((n for n, hit in enumerate(hits) if target.is_in(hit)), None)
                 for target in question.targets]  # fmt: skip
        best = min((rank for rank in ranks if rank is not None), default=DEPTH)
        for name in dict.fromkeys(("all", question.category or "all")):
            scores = found.setdefault(name, Scores())
            scores.ndcg.append(_ndcg(ranks))
            scores.hit_1.append(float(best < 1))
            scores.hit_5.append(float(best < 5))
            scores.seconds.append(seconds)
    return {name: scores.summary() for name, scores in found.items()}


def _ndcg(ranks: Sequence[int | None]) -> float:
    """Return nDCG@10: each answer counts once, at its first hit, and answers of one hit once."""
    gain = sum(1 / math.log2(rank + 2) for rank in {rank for rank in ranks if rank is not None})
    ideal = sum(1 / math.log2(rank + 2) for rank in range(min(DEPTH, len(ranks))))
    return gain / ideal
