"""LoRA (Hu et al. 2021) by the library peft: small matrices are trained in place of the encoder's.

A matrix W becomes W + 2 B A, where A has ``rank`` rows and B as many columns. The head is trained
as it is. At the end the products are added to the matrices, so that the model is an ordinary one.
"""

from typing import Any

import torch

from ..errors import require_extra
from ..nn.encoder import QKV, qkv_order
from ..nn.heads import SequenceClassifier, TokenClassifier

MATRICES = ["Wqkv", "Wo", "Wi"]


def add(model: SequenceClassifier | TokenClassifier, rank: int, seed: int) -> Any:
    """Add the matrices to a model, and freeze all else but its head; return what `merge` takes."""
    peft = require_extra("peft", "lora")
    config = peft.LoraConfig(r=rank, lora_alpha=2 * rank, target_modules=MATRICES)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        lora = peft.LoraModel(model, config, "default")
    for part in (model.head, model.classifier):
        part.requires_grad_(True)
    return lora


@torch.no_grad()
def merge(lora: Any) -> None:
    """Add the products to the matrices, and restore the modules of the model."""
    for module in lora.modules():
        base = getattr(module, "base_layer", None)
        if isinstance(base, QKV):  # the rows of its output are reordered, those of its weight not
            b = module.lora_B["default"].weight
            b.copy_(b[qkv_order(len(b), base.head_dim, b.device)[1]])
    lora.merge_and_unload()
