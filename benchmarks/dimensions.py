"""Measure how well the first dimensions of a model's vectors rank documents.

    python benchmarks/dimensions.py MODEL SETS [--sizes 320,256,192,128,64] [--out FILE]

SETS is a directory of retrieval sets in the layout of BEIR; at most 1,000 queries of each are used.
The result has nDCG@10 of each set, and the mean, by the number of dimensions.
"""

import argparse
from pathlib import Path

import numpy as np
from common import finish, machine

from motherbird import Embedder
from motherbird.retrieval.measure import measure
from motherbird.retrieval.ranking import by_vectors, spread
from motherbird.retrieval.sets import find_sets, read_set


def main() -> None:
    """Measure, and print or write the result."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("model")
    parser.add_argument("sets")
    parser.add_argument("--sizes", default="320,256,192,128,64")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    sizes = [int(size) for size in given.sizes.split(",")]
    model = Embedder.load(given.model)
    found: dict[str, dict[str, float]] = {}
    for directory in find_sets(given.sets):
        data = read_set(directory, "dev,train", 1000)
        known = np.array([n for n, text in enumerate(data.documents) if text.strip()])
        documents = model.embed([data.documents[n] for n in known], windows=True)
        queries = model.embed(data.queries, windows=True)
        found[data.name] = {}
        for size in sizes:
            own = [each[:, :size] / np.linalg.norm(each[:, :size], axis=1, keepdims=True)
                   for each in (queries, documents)]  # fmt: skip
            values = measure(data, spread(by_vectors(*own), known))["nDCG@10"]
            found[data.name][str(size)] = float(np.mean(values))
    mean = {size: float(np.mean([own[size] for own in found.values()])) for size in map(str, sizes)}
    finish({"machine": machine(), "sets": found, "mean": mean}, given.out)


if __name__ == "__main__":
    main()
