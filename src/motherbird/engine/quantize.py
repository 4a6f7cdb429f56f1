"""Choose how many layers are exact before layers in 8 bits, by the error on sample texts.

In 8 bits, weights have a scale for each output channel and activations one for each token. The
first layers are the most sensitive: their inputs are embeddings, and their errors go through all
others.
"""

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np

from ..arrays import Float32
from ..core.batching import concatenate

if TYPE_CHECKING:
    from .model import NativeModel

log = logging.getLogger(__name__)

# Relative error of pooled vectors minus their mean. On version 1 of motherbird-nano, 0.050 keeps
# 95.4% of the ten nearest neighbors, and 0.062 keeps 94.5% (docs/log.md).
MAX_ERROR = 0.055
TOKENS = 512  # of a model without a tokenizer
TEXTS = (
    "The encoder reads the whole sentence at once: every word sees those before and after it.",
    "def read_lines(path, encoding='utf-8'):\n    with open(path, encoding=encoding) as stream:\n"
    "        return [line.rstrip('\\n') for line in stream]\n",
    "Patients who received 20 mg daily (n = 143) improved by 3.2 points (95% CI 1.9 to 4.5).",
    "SELECT name, COUNT(*) FROM orders JOIN customers USING (customer_id) GROUP BY name LIMIT 10;",
    "Why does my request time out after thirty seconds? How do I raise the limit?",
    "Le petit chat dort sur le canapé pendant que la pluie tombe sur la ville.",
    "El modelo se entrena con textos de la web, código y artículos científicos.",
    "Die Katze schläft; draußen regnet es seit drei Tagen ununterbrochen.",
    "国际会议将于下个月在北京举行，来自各国的代表将参加讨论。",
    "for (size_t i = 0; i < n; ++i) { sum += weights[i] * inputs[i]; } return sum / n;",
    '{"id": 4711, "status": "shipped", "items": [{"sku": "A-12", "quantity": 3}], "total": 59.90}',
    "In 1687 Newton published the Principia, in which the law of gravitation was first stated.",
    "error: cannot borrow `x` as mutable because it is also borrowed as immutable at line 42",
    "We prove that every bounded sequence of real numbers has a convergent subsequence.",
    "Cheap flights to Lisbon in October, hotel included, from 249 euros per person!!! Book now",
)


def choose(exact: "NativeModel", quantize: Callable[[int], "NativeModel"]) -> "NativeModel":
    """Return the model in 8 bits with the fewest exact layers and an error up to `MAX_ERROR`.

    Args:
        exact: the model without 8 bits.
        quantize: returns the model in 8 bits after a number of exact layers.
    """
    layers, expected = exact.config.num_hidden_layers, _vectors(exact)
    spread = np.linalg.norm(expected - expected.mean(axis=0))
    number = 0
    while True:
        model = quantize(number)
        error = float(np.linalg.norm(_vectors(model) - expected) / spread)
        if error <= MAX_ERROR or number == layers:
            break
        number = min(max(1, 2 * number), layers)
    log.info("int8: all layers but the first %d of %d, with an error of %.3f",
             number, layers, error)  # fmt: skip
    return model


def _vectors(model: "NativeModel") -> Float32[np.ndarray, "S D"]:
    limit = model.config.max_position_embeddings
    if model.tokenizer is None:
        draw = np.random.default_rng(0)
        size = min(limit, TOKENS // len(TEXTS))
        ids = [draw.integers(model.config.vocab_size, size=size).tolist() for _ in TEXTS]
    else:
        ids = [document[:limit] for document in model.tokenizer.encode_batch(list(TEXTS))]
    return model.run(*concatenate(ids), "mean")
