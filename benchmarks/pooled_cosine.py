"""Compare embeddings in bfloat16 and int8 with float32, on real texts.

    motherbird demo --out model
    python benchmarks/pooled_cosine.py model [--texts FILE] [--count 2000] [--out FILE]

Texts are the docstrings of Python's standard library, or the field "text" of a .jsonl file, which
may be gzipped. Vectors are mean pooled. For each dtype, the script reports the mean and the
smallest cosine of a text's vector with its float32 vector, and the fraction of the ten nearest
neighbors in float32 that are among the ten nearest in the dtype. Vectors of a masked-LM encoder
are close to each other, so neighbors are more informative than cosines.
"""

import argparse
from pathlib import Path

import numpy as np
from common import finish, machine, texts
from numpy.typing import NDArray

from motherbird import Embedder

NEIGHBOURS = 10


def vectors(model: str, dtype: str, texts: list[str]) -> NDArray[np.float32]:
    """Return normalized vectors."""
    made = Embedder.load(model, dtype=dtype).embed(texts)
    made = np.asarray(made, dtype=np.float32)
    return made / np.linalg.norm(made, axis=1, keepdims=True)


def neighbors(of: NDArray[np.float32]) -> NDArray[np.int64]:
    """Return the indices of the nearest neighbors of each vector."""
    near = of @ of.T
    np.fill_diagonal(near, -np.inf)
    return np.argpartition(-near, NEIGHBOURS, axis=1)[:, :NEIGHBOURS]


def main() -> None:
    """Measure, and print or write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--count", type=int, default=2000)
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    chosen = texts(given.texts, given.count)
    truth = vectors(given.model, "float32", chosen)
    nearest = neighbors(truth)
    rows = {}
    for dtype in ("bfloat16", "int8"):
        made = vectors(given.model, dtype, chosen)
        cosines = (made * truth).sum(1)
        both = [len(np.intersect1d(a, b)) for a, b in zip(nearest, neighbors(made), strict=True)]
        rows[dtype] = {
            "mean_cosine": float(cosines.mean()),
            "least_cosine": float(cosines.min()),
            "neighbours_kept": sum(both) / (NEIGHBOURS * len(chosen)),
        }
    report = {
        "machine": machine(),
        "texts": len(chosen),
        "mean_cosine_of_two_texts": float((truth @ truth.T).mean()),
        **rows,
    }
    finish(report, given.out)


if __name__ == "__main__":
    main()
