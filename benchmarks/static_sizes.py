"""The quality of static vectors with fewer dimensions, and with tables of fewer bits.

    python benchmarks/static_sizes.py --model static --data sets --out benchmarks/static-sizes.json

A table of int8 has a scale for each row. Prints the mean nDCG@10 over the sets of each variant.
"""

import argparse
import json
from pathlib import Path

import numpy as np
from common import machine

from motherbird import StaticEmbedder
from motherbird.retrieval.evaluate import evaluate
from motherbird.retrieval.measure import means
from motherbird.retrieval.sets import find_sets, read_set


def int8(table: np.ndarray) -> np.ndarray:
    """Round each row to 255 steps."""
    scale = np.abs(table).max(axis=1, keepdims=True).clip(min=1e-12) / 127
    return (np.round(table / scale) * scale).astype(np.float32)


def main() -> None:
    """Measure, and print a line for each variant."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True)
    parser.add_argument("--split", default="dev,train")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    embedder = StaticEmbedder.load(given.model)
    table = np.asarray(embedder.table, np.float32)
    tables = {"float32": table, "float16": table.astype(np.float16), "int8": int8(table)}
    sets = [read_set(folder, given.split, 1000) for folder in find_sets(given.data)]
    rows = []
    for dtype, size in [
        *(("float32", size) for size in (384, 256, 192, 128, 64)),
        ("float16", 384), ("int8", 384), ("int8", 256), ("int8", 128),
    ]:  # fmt: skip
        size = min(size, table.shape[1])
        own = StaticEmbedder(embedder.tokenizer, tables[dtype])
        found = [
            means(evaluate(each, ["dense"], lambda texts, kind, own=own, size=size: own.embed(
                texts, normalize=True, truncate_dim=size))["dense"])["nDCG@10"]
            for each in sets
        ]  # fmt: skip
        width = {"float32": 4, "float16": 2, "int8": 1}[dtype]
        rows.append({
            "dtype": dtype, "dimensions": size, "mb": round(len(table) * size * width / 1e6, 1),
            "nDCG@10": round(float(np.mean(found)), 4),
        })  # fmt: skip
        print(rows[-1], flush=True)
    if given.out:
        report = {"machine": machine(), "sets": [each.name for each in sets], "results": rows}
        given.out.write_text(json.dumps(report, indent=1) + "\n")


if __name__ == "__main__":
    main()
