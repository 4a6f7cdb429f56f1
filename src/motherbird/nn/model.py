"""What the encoder and the models with a head have in common: loading, saving, device and dtype."""

from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from torch import nn

from ..arrays import Float32
from ..core import hub
from ..core.config import EncoderConfig, Pooling
from ..core.tokenizer import Tokenizer
from ..errors import InputError
from . import attention as attention_kernels
from . import checkpoint

if TYPE_CHECKING:
    from .encoder import Encoder

M = TypeVar("M", bound="Model")
Axis = Literal["tokens", "documents"]


@runtime_checkable
class GraphBuilder(Protocol):
    """The operations from which `Model.export` builds a graph; values are called by strings."""

    def prediction_head(self, x: str) -> str:
        """Apply `heads.base.PredictionHead`."""

    def decoder(self, x: str) -> str:
        """Apply the decoder of a masked-LM head."""

    def linear(self, x: str, name: str) -> str:
        """Apply the linear layer called ``name``."""

    def pool(self, x: str, how: Pooling) -> str:
        """Pool the token vectors of each document."""

    def dense(
        self,
        x: str,
        name: str,
        weight: Float32[np.ndarray, "O I"],
        bias: Float32[np.ndarray, " O"] | None,
        tanh: bool,
    ) -> str:
        """Apply a linear layer with these weights, and tanh if asked, to each document's vector."""

    def normalize(self, x: str) -> str:
        """Scale the vector of each document to length 1."""


class Model(nn.Module):
    """Base class of `Encoder` and of the models with a head.

    Attributes:
        architecture: the name of the class in transformers.
        output: the name of the output in exported files.
        axis: whether the output has a row for each token or for each document.
    """

    architecture: ClassVar[str]
    output: ClassVar[str]
    axis: ClassVar[Axis]

    def __call__(self, *args: Any, **options: Any) -> Any:
        """Call ``forward``; the arguments of transformers are refused."""
        if options.keys() & {"input_ids", "attention_mask"}:
            what = "the model takes one packed batch, without input_ids and attention_mask"
            raise InputError(what, how="make one with motherbird.nn.pack(documents)")
        return super().__call__(*args, **options)

    @property
    def encoder(self) -> "Encoder":
        """The encoder of this model, or the encoder itself."""
        raise NotImplementedError

    @property
    def size(self) -> int:
        """The size of a row of the output."""
        raise NotImplementedError

    def export(self, graph: GraphBuilder, states: str) -> str:
        """Build what follows the encoder in a graph, from its token vectors to the output."""
        raise NotImplementedError

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of a classifier's labels; empty for other models."""
        return ()

    @classmethod
    def from_config(cls: type[M], config: EncoderConfig, raw: dict[str, Any], attention: str) -> M:
        """Build a model without weights.

        Args:
            config: the encoder's configuration.
            raw: config.json as parsed, for what else a class reads from it.
            attention: see `Encoder`.
        """
        return cls(config, attention)

    @classmethod
    def load(
        cls: type[M],
        name_or_dir: str | Path,
        *,
        dtype: torch.dtype | str = "auto",
        attention: str = "auto",
        device: torch.device | str | None = None,
        revision: str | None = None,
        split_special_tokens: bool = False,
    ) -> M:
        """Load a checkpoint of the ModernBERT family, in evaluation mode.

        Arguments and errors are those of `motherbird.Embedder.load`; "int8" is not a dtype of
        torch. To train, or to save the weights as they are, load them as "stored".
        """
        attention_kernels.check_name(attention)
        directory = hub.find(name_or_dir, revision)
        return checkpoint.load(cls, directory, dtype, attention, device, split_special_tokens)

    def save(self, directory: str | Path, *, tokenizer: Tokenizer | None = None) -> None:
        """Write a Hugging Face directory; see `checkpoint.save`."""
        checkpoint.save(self, directory, tokenizer=tokenizer)
