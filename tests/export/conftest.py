"""Toy models with weights at which a mistake shows, and documents for them."""

from dataclasses import replace

import pytest
import torch


@pytest.fixture
def documents(toy):
    """Lists of random tokens of these lengths."""

    def make(*lengths):
        return [torch.randint(0, toy.vocab_size, (length,)).tolist() for length in lengths]

    return make


@pytest.fixture
def lively(toy):
    """Build one of our classes on the toy geometry, changed as asked; no bias is at rest."""

    def make(kind, *arguments, **changes):
        model = kind(replace(toy, initializer_range=0.2, **changes), *arguments).eval()
        with torch.no_grad():
            for weight in model.parameters():
                if weight.ndim == 1:
                    weight.add_(torch.randn_like(weight) * 0.1)
        return model

    return make
