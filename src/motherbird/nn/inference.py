"""Inference with PyTorch: the implementation of `motherbird.core.inference` on CPUs and GPUs."""

from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

import numpy as np
import torch

from ..arrays import Float32, Int, Int32
from ..core.arguments import check_type
from ..core.config import EncoderConfig
from ..core.inference import Output, check_output, check_positions
from ..core.tokenizer import Tokenizer
from .heads import pool
from .model import Model
from .packed import Packed

Item = TypeVar("Item")
Result = TypeVar("Result")

# Tokens of a batch; on a CPU, what fits into its caches (docs/log.md).
GPU_TOKENS, CPU_TOKENS = 8192, 2048


class TorchModel:
    """A torch model as a `motherbird.core.inference.InferenceModel`.

    Args:
        model: an encoder or a model with a head; it is set to evaluation mode once, here.
    """

    def __init__(self, model: Model) -> None:
        how = "load a directory with load; for models of other libraries there is accelerate"
        self.model = check_type(model, "the model", Model, how).eval()

    @property
    def config(self) -> EncoderConfig:
        """The encoder's configuration."""
        return self.model.encoder.config

    @property
    def dtype(self) -> str:
        """The dtype of the weights."""
        return str(next(self.model.parameters()).dtype).removeprefix("torch.")

    @property
    def tokenizer(self) -> Tokenizer | None:
        """The encoder's tokenizer, or None."""
        return self.model.encoder.tokenizer

    @torch.inference_mode()
    def run(
        self,
        ids: Int32[np.ndarray, " T"],
        cu_seqlens: Int32[np.ndarray, " S_plus_1"],
        output: Output,
        positions: Int[np.ndarray, " M"] | None = None,
    ) -> Float32[np.ndarray, "rows width"]:
        """Compute one packed batch; see `InferenceModel.run`."""
        check_output(output)
        check_positions(positions, output, len(ids))
        packed = Packed.from_arrays(ids, cu_seqlens)
        if output == "logits":
            at = [] if positions is None else [torch.from_numpy(positions)]
            result = self.model(packed, *at)
        else:
            result = self.model.encoder(packed)
            if output != "tokens":
                result = pool(result, packed, output)
        return result.float().cpu().numpy()

    def batch_budget(self, total: int) -> int:
        """Return how many tokens a batch should have."""
        return CPU_TOKENS if self.model.encoder.device.type == "cpu" else GPU_TOKENS

    def map(self, work: Callable[[Item], Result], items: Sequence[Item]) -> Iterator[Result]:
        """Run work on one item after another."""
        return map(work, items)
