"""Choose which matrix products are computed in 8 bits, by their error on real text.

Weights have a scale for each output channel and activations one for each token (`linear.int8`),
which suits almost every product. Where a few channels of an activation are much larger than the
others, the others are rounded to zero; such a product keeps its dtype.
"""

import logging
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import linear

from .linear import Projection, int8
from .packed import Packed, pack

log = logging.getLogger(__name__)

# Relative error of a product, in the Frobenius norm. Normally distributed values have about 0.011.
MAX_ERROR = 0.03
TOKENS = 512
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


@torch.inference_mode()
def quantize(encoder: Any) -> list[str]:
    """Let an encoder compute in 8 bits every product that is exact enough on sample texts.

    Args:
        encoder: an `Encoder` in evaluation mode, on a CPU. Without a tokenizer, random ids are used
            instead of texts.

    Returns:
        The names of the products that keep their dtype.
    """
    errors: dict[str, float] = {}
    hooks = []
    for name, module in encoder.named_modules():
        if isinstance(module, Projection):

            def measure(layer: Projection, inputs: tuple[Any, ...], name: str = name) -> None:
                errors[name] = error(layer, inputs[0])

            hooks.append(module.register_forward_pre_hook(measure))
    try:
        encoder(_sample(encoder))
    finally:
        for hook in hooks:
            hook.remove()
    kept = [name for name, value in errors.items() if not value <= MAX_ERROR]
    for name in errors.keys() - set(kept):
        encoder.get_submodule(name).int8 = True
    # So that 8 bits are used whether or not the caller has disabled gradients.
    encoder.requires_grad_(False)
    worst = max(errors, key=lambda name: errors[name])
    log.info("int8: %d of %d products, %s; the largest relative error is %.3f (%s)",
             len(errors) - len(kept), len(errors), f"all but {', '.join(kept)}" if kept else "all",
             errors[worst], worst)  # fmt: skip
    return kept


def error(layer: Projection, x: Float[Tensor, "T in"]) -> float:
    """Return the relative error of the 8-bit product of an input."""
    weight = layer.weight.float()
    exact = linear(x.float(), weight)
    [found] = int8.PackedLinear([weight], [None])(x)
    return float((found.float() - exact).norm() / exact.norm())


def _sample(encoder: Any) -> Packed:
    tokenizer, limit = encoder.tokenizer, encoder.config.max_position_embeddings
    if tokenizer is not None:
        return pack([ids[:limit] for ids in tokenizer.encode_batch(list(TEXTS))])
    generator = torch.Generator("cpu").manual_seed(0)
    shape, size = (min(TOKENS, limit),), encoder.config.vocab_size
    return pack([torch.randint(size, shape, generator=generator, device="cpu").tolist()])
