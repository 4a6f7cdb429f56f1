"""Write a model of the same shape with random weights, to compare with.

    python benchmarks/untrained.py MODEL --out DIR

The model has a new encoder with the configuration and the tokenizer of MODEL, and new linear layers
of the same shapes. sentence-transformers and motherbird load it as MODEL.
"""

import argparse
from pathlib import Path

import numpy as np
import torch

from motherbird import Dense, Embedder
from motherbird.nn import Encoder


def main() -> None:
    """Write the model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    model = Embedder.load(given.model)
    torch.manual_seed(given.seed)
    encoder = Encoder(model.model.config)
    encoder.tokenizer = model.tokenizer
    draw = np.random.default_rng(given.seed)
    dense = [Dense(draw.normal(size=each.weight.shape) / each.inputs**0.5) for each in model.dense]
    Embedder(encoder, model.pooling, dense=dense).save(given.out)


if __name__ == "__main__":
    main()
