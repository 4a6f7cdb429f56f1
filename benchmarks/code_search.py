"""How well `motherbird search` answers questions about packages: each part of its ranking.

    python benchmarks/code_search.py QUESTIONS SOURCES --model STATIC --out FILE

QUESTIONS has a .json file of questions for each package, SOURCES a directory of the same name (see
`motherbird evaluate search` for the format). Weights of the rules were chosen on the packages of
TUNED; the others are shown apart. The result has the means of nDCG@10, by full text alone and with
vectors, each with and without rules, for all questions, by category and by package.
"""

import argparse
import json
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from common import machine

from motherbird.search.evaluate import evaluate, read_questions
from motherbird.search.index import Index
from motherbird.search.vectors import StaticVectors

TUNED = ("aiohttp", "click", "fastapi", "flask", "httpx", "model2vec")
WAYS = (("bm25", False), ("bm25", True), ("dense", False), ("dense", True), ("hybrid", False),
        ("hybrid", True))  # fmt: skip


def mean(found: list[tuple[float, int]]) -> float:
    """Return the mean of values with the number of questions of each."""
    return round(sum(value * count for value, count in found) / sum(n for _, n in found), 4)


def measure(questions: Path, sources: Path, vectors: StaticVectors | None) -> dict[str, Any]:
    """Return nDCG@10 of each way of ranking."""
    values: dict[str, dict[str, list[tuple[float, int]]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        for path in sorted(questions.glob("*.json")):
            # Wheels have no src/.
            rows = [
                replace(row, targets=tuple(
                    replace(target, path=target.path.removeprefix("src/")) for target in row.targets
                )) for row in read_questions(path)
            ]  # fmt: skip
            index = Index(sources / path.stem, Path(folder) / f"{path.stem}.db", vectors)
            index.refresh()
            for mode, use_rules in WAYS:
                if mode != "bm25" and vectors is None:
                    continue
                own = values.setdefault(f"{mode}{', rules' if use_rules else ''}", {})
                scores = evaluate(index, rows, mode, use_rules=use_rules)  # type: ignore[arg-type]
                for name, each in scores.items():
                    pair = (float(each["nDCG@10"]), int(each["questions"]))
                    own.setdefault(name, []).append(pair)
                    if name == "all":
                        own.setdefault(path.stem, []).append(pair)
                        part = "tuned" if path.stem in TUNED else "not tuned"
                        own.setdefault(part, []).append(pair)
            index.close()
    return {way: {name: mean(pairs) for name, pairs in own.items()} for way, own in values.items()}


def main() -> None:
    """Measure and write."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("questions", type=Path)
    parser.add_argument("sources", type=Path)
    parser.add_argument("--model")
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    found = measure(args.questions, args.sources, StaticVectors(args.model) if args.model else None)
    for way, own in found.items():
        print(f"{way:<16}", "  ".join(f"{name} {value:.3f}" for name, value in own.items()))
    if args.out:
        command = "python benchmarks/code_search.py QUESTIONS SOURCES --model STATIC"
        about = {"command": command, "machine": machine(), "ndcg@10": found}
        args.out.write_text(json.dumps(about, indent=1) + "\n")


if __name__ == "__main__":
    main()
