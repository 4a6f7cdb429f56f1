"""Evaluate mean-pooled vectors of an encoder on retrieval datasets: nDCG@10.

    python benchmarks/pooled_retrieval.py MODEL DATASETS [--max-length 8192] [--out FILE.json]

DATASETS has a directory for each dataset, in the layout of BEIR; datasets that are in FILE.json are
not computed again. The model is compared with the same encoder with random weights, and with BM25
(bm25s with its stop words and an English stemmer, both in the extra "bench"). A masked-LM encoder
is weak at this; the result shows its quality before any training on pairs. The mean of all vectors
of a corpus is subtracted first (unless --raw), because the vectors of such models are close to each
other.
"""

import argparse
import csv
import gzip
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from common import finish, machine
from numpy.typing import NDArray

from motherbird import Embedder
from motherbird.nn import Encoder

TOP = 10


def lines(path: Path) -> list[dict[str, Any]]:
    """Read a .jsonl.gz file."""
    with gzip.open(path, "rt", encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def relevant(folder: Path, split: str) -> dict[str, set[str]]:
    """Return the relevant documents of each query."""
    found: dict[str, set[str]] = {}
    with (folder / "qrels" / f"{split}.tsv").open(encoding="utf-8") as file:
        for row in csv.DictReader(file, delimiter="\t"):
            if int(row["score"]) > 0:
                found.setdefault(row["query-id"], set()).add(row["corpus-id"])
    return found


def ndcg(ranked: list[str], wanted: set[str]) -> float:
    """Return nDCG@10 with binary relevance."""
    gain = sum(1 / np.log2(2 + i) for i, name in enumerate(ranked[:TOP]) if name in wanted)
    return float(gain / sum(1 / np.log2(2 + i) for i in range(min(TOP, len(wanted)))))


Search = Callable[[list[str], list[str]], NDArray[np.int64]]  # texts, queries -> (queries, TOP)


def bm25(texts: list[str], queries: list[str]) -> NDArray[np.int64]:
    """Return the best documents of each query by BM25."""
    import bm25s
    import Stemmer

    stemmer = Stemmer.Stemmer("english")

    def words(some: list[str]) -> Any:
        return bm25s.tokenize(some, stopwords="en", stemmer=stemmer, show_progress=False)

    index = bm25s.BM25()
    index.index(words(texts), show_progress=False)
    return np.asarray(index.retrieve(words(queries), k=TOP, show_progress=False)[0])


def by_vectors(embedder: Embedder, length: int, raw: bool) -> Search:
    """Return the best documents by the cosine of mean-pooled vectors."""

    def search(texts: list[str], queries: list[str]) -> NDArray[np.int64]:
        documents, asked = (
            embedder.embed(some, normalize=False, max_length=length, truncate=True)
            for some in (texts, queries)
        )
        if not raw:
            center = documents.mean(axis=0)
            documents, asked = documents - center, asked - center
        documents /= np.linalg.norm(documents, axis=1, keepdims=True)
        return np.argsort(-(asked @ documents.T), axis=1, kind="stable")[:, :TOP]

    return search


def score(searches: dict[str, Search], folder: Path, split: str) -> dict[str, float]:
    """Return the mean nDCG@10 of each system over the queries of a dataset."""
    corpus, queries = (lines(folder / f"{name}.jsonl.gz") for name in ("corpus", "queries"))
    wanted = relevant(folder, split)
    queries = [query for query in queries if query["_id"] in wanted]
    texts = [f"{d['title']} {d['text']}" if d.get("title") else d["text"] for d in corpus]
    names = [document["_id"] for document in corpus]
    found = {}
    for name, search in searches.items():
        best = search(texts, [query["text"] for query in queries]).tolist()
        found[name] = float(np.mean([
            ndcg([names[i] for i in row], wanted[query["_id"]])
            for query, row in zip(queries, best, strict=True)
        ]))  # fmt: skip
    return found


def main() -> None:
    """Measure, and print or write the results."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("datasets", type=Path)
    parser.add_argument("--max-length", type=int, default=8192)
    parser.add_argument("--raw", action="store_true", help="leave the mean vector in")
    parser.add_argument("--only", nargs="*", help="names of datasets")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    trained = Embedder(Encoder.load(options.model, dtype="auto"))
    chance = Encoder(trained.encoder.config).to(next(trained.encoder.parameters()).dtype).eval()
    chance.tokenizer = trained.encoder.tokenizer
    searches: dict[str, Search] = {
        "bm25": bm25,
        "trained": by_vectors(trained, options.max_length, options.raw),
        "untrained": by_vectors(Embedder(chance), options.max_length, options.raw),
    }
    rows = {}
    if options.out and options.out.exists():
        rows = json.loads(options.out.read_text(encoding="utf-8"))["ndcg@10"]
    command = f"python benchmarks/pooled_retrieval.py MODEL SETS --max-length {options.max_length}"
    for meta in sorted(options.datasets.glob("*/meta.json")):
        about = json.loads(meta.read_text(encoding="utf-8"))
        if about["name"] not in rows and about["name"] in (options.only or [about["name"]]):
            rows[about["name"]] = score(searches, meta.parent, about["split"])
            report = {
                "command": command,
                "machine": machine(),
                "ndcg@10": dict(sorted(rows.items())),
            }
            finish(report, options.out)


if __name__ == "__main__":
    main()
