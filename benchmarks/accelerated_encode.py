"""Measure SentenceTransformer.encode before and after `motherbird.accelerate`, on real texts.

    python benchmarks/accelerated_encode.py [--texts FILE] [--count 256] [--layers 22] [--threads 1]
        [--dtype bfloat16] [--out FILE]

The model has the geometry of base, random weights (which do not affect speed) and mean pooling.
Batches have 32 texts, and sentence-transformers sorts them by length. Texts are the docstrings of
Python's standard library, or the field "text" of a .jsonl file, which may be gzipped. The two
alternate, after a round of warm-up. Wall time and CPU time are reported; other programs on the
machine affect CPU time less.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np
import torch
from common import finish, machine, texts
from sentence_transformers import SentenceTransformer

import motherbird
from motherbird.core import bpe


def build(layers: int, dtype: torch.dtype, texts: list[str]) -> SentenceTransformer:
    """Return a model with the geometry of base, loaded by sentence-transformers."""
    vocabulary = bpe.train(texts, 8192)
    ids = {f"{role}_token_id": vocabulary.id_of(role) for role in ("pad", "cls", "sep")}
    ids |= {"bos_token_id": ids["cls_token_id"], "eos_token_id": ids["sep_token_id"]}
    config = motherbird.EncoderConfig(
        vocab_size=vocabulary.vocab_size, num_hidden_layers=layers, **ids
    )
    encoder = motherbird.nn.Encoder(config)
    encoder.tokenizer = vocabulary
    with tempfile.TemporaryDirectory() as folder:
        motherbird.Embedder(encoder).save(f"{folder}/model")
        return SentenceTransformer(
            f"{folder}/model", device="cpu", model_kwargs={"dtype": dtype}, local_files_only=True
        )


def measure(model: SentenceTransformer, texts: list[str], rounds: int) -> dict[str, object]:
    """Return the seconds of each round, and the ratios of their medians."""
    seconds: dict[str, list[float]] = {
        f"{who} {clock}": [] for who in ("untouched", "accelerated") for clock in ("wall", "cpu")
    }
    vectors = {}
    for number in range(rounds + 1):
        for who, change in (
            ("untouched", motherbird.restore),
            ("accelerated", motherbird.accelerate),
        ):
            change(model)
            wall, cpu = time.perf_counter(), time.process_time()
            vectors[who] = model.encode(texts, show_progress_bar=False)
            if number:
                seconds[f"{who} wall"].append(time.perf_counter() - wall)
                seconds[f"{who} cpu"].append(time.process_time() - cpu)
    middle = {key: statistics.median(values) for key, values in seconds.items()}
    # Not by encode itself: it would normalize in bfloat16, and no length would be 1.
    one, other = (v / np.linalg.norm(v, axis=1, keepdims=True) for v in vectors.values())
    return {
        "seconds": seconds,
        "times_faster_wall": middle["untouched wall"] / middle["accelerated wall"],
        "times_faster_cpu": middle["untouched cpu"] / middle["accelerated cpu"],
        "least_cosine": float((one * other).sum(1).min()),
    }


def main() -> None:
    """Measure, and print or write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--texts", type=Path)
    parser.add_argument("--count", type=int, default=256)
    parser.add_argument("--layers", type=int, default=22)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", choices=("bfloat16", "float32"), default="bfloat16")
    parser.add_argument("--out", type=Path)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    torch.manual_seed(0)
    every = texts(given.texts)
    model = build(given.layers, getattr(torch, given.dtype), every)
    chosen = every[: given.count]
    lengths = sorted((len(row) for row in model.tokenizer(chosen)["input_ids"]), reverse=True)
    padded = sum(lengths[i] * len(lengths[i : i + 32]) for i in range(0, len(lengths), 32))
    report = {
        "machine": machine(),
        "given": {k: v.name if isinstance(v, Path) else v for k, v in vars(given).items()},
        "texts": {"count": len(chosen), "tokens": sum(lengths), "longest": lengths[0],
                  "median": statistics.median(lengths), "padded_tokens": padded},
        **measure(model, chosen, given.rounds),
    }  # fmt: skip
    finish(report, given.out)


if __name__ == "__main__":
    main()
