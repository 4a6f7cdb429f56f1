"""What is exported: the model of a directory with a head, its outputs, and its checkpoint."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear, normalize

from ..core import hf_config, weights
from ..errors import InputError
from ..files import read_json_object
from ..models.embedder import Embedder
from ..models.modules import is_late, read_modules
from ..models.scorer import SETTINGS
from ..nn import checkpoint
from ..nn.encoder import Encoder
from ..nn.heads import HEADS, pool
from ..nn.model import Axis, GraphBuilder, Model
from ..nn.packed import Packed

ARCHITECTURES: Mapping[str, type[Model]] = {head.architecture: head for head in HEADS} | {
    "FlexBertForMaskedLM": HEADS[0]
}


class Exportable:
    """An encoder or a model with a head, with one output.

    Args:
        model: in evaluation mode.
        raw: the config.json of the model; what it says about a head is kept.

    Attributes:
        outputs: name of each output, to its axis and the size of a row.
    """

    def __init__(self, model: Model, raw: dict[str, Any] | None = None) -> None:
        self.model, self.raw = model, raw or {}
        self.outputs: dict[str, tuple[Axis, int]] = {model.output: (model.axis, model.size)}

    def compute(self, packed: Packed) -> dict[str, Tensor]:
        """Compute the outputs of a batch."""
        return {self.model.output: self.model(packed)}

    def build(self, graph: GraphBuilder, states: str) -> dict[str, str]:
        """Build the outputs in a graph, from the encoder's token vectors."""
        return {self.model.output: self.model.export(graph, states)}

    def write(self, directory: Path) -> None:
        """Write the files that libraries read from a Hugging Face directory, with the weights."""
        checkpoint.write(self.model, directory)
        hf_config.copy_head(self.raw, directory)

    def reload(self, directory: Path) -> "Exportable":
        """Load again, in float32, what `write` wrote."""
        return Exportable(type(self.model).load(directory, dtype="float32"))


class ExportableEmbedder(Exportable):
    """An embedder, with its token vectors and its pooled vectors as outputs."""

    def __init__(self, embedder: Embedder) -> None:
        super().__init__(embedder.encoder)
        self.embedder = embedder
        self.outputs = {
            "token_embeddings": ("tokens", self.model.size),
            "sentence_embedding": ("documents", embedder.size),
        }

    def compute(self, packed: Packed) -> dict[str, Tensor]:
        """Compute the outputs of a batch."""
        states = self.model(packed)
        vectors = pool(states, packed, self.embedder.pooling)
        for dense in self.embedder.dense:
            bias = None if dense.bias is None else torch.from_numpy(dense.bias)
            vectors = linear(vectors.float(), torch.from_numpy(dense.weight), bias)
            vectors = vectors.tanh() if dense.activation == "tanh" else vectors
        vectors = normalize(vectors) if self.embedder.normalize else vectors
        return {"token_embeddings": states, "sentence_embedding": vectors}

    def build(self, graph: GraphBuilder, states: str) -> dict[str, str]:
        """Build the outputs in a graph, from the encoder's token vectors."""
        vectors = graph.pool(states, self.embedder.pooling)
        for number, dense in enumerate(self.embedder.dense):
            name = f"dense.{number}"
            vectors = graph.dense(
                vectors, name, dense.weight, dense.bias, dense.activation == "tanh"
            )
        vectors = graph.normalize(vectors) if self.embedder.normalize else vectors
        return {"token_embeddings": states, "sentence_embedding": vectors}

    def write(self, directory: Path) -> None:
        """Write the files that libraries read, those of sentence-transformers included."""
        super().write(directory)
        self.embedder.write_modules(directory)

    def reload(self, directory: Path) -> "Exportable":
        """Load again, in float32, what `write` wrote."""
        return ExportableEmbedder(_embedder(directory, "float32"))


def _embedder(directory: Path, dtype: str) -> Embedder:
    """Load an embedder that runs on torch."""
    place, arguments = read_modules(directory)
    if not arguments.get("include_prompt", True):
        what = "the pooling leaves out prompts (include_prompt = false)"
        raise InputError(what, str(directory), "export the encoder with --head none")
    return Embedder(Encoder.load(place, dtype=dtype), **arguments)


def load(directory: Path, head: str, dtype: str) -> tuple[Exportable, str]:
    """Load the model of a directory with a head.

    Args:
        directory: of a checkpoint.
        head: "auto", "none", "pooling" or "logits"; see `export.export`.
        dtype: of the weights, or "stored".

    Returns:
        The model, and the name of its head.

    Raises:
        InputError: the directory has no such head, motherbird does not have its class, or it is a
            late-interaction model.
    """
    if head != "none" and is_late(directory):
        what = "a late-interaction model cannot be exported with its projection"
        raise InputError(what, str(directory), "export the encoder with --head none")
    has_config = (directory / "config.json").is_file()
    place = directory if has_config else read_modules(directory)[0]
    raw = weights.read_config(place)
    architecture = hf_config.architecture(raw) or "none stated"
    has_modules = (directory / "modules.json").is_file()
    # sentence-transformers writes modules.json for cross-encoders too.
    is_embedder = has_modules and not architecture.endswith("Classification")
    if head == "pooling" or (head == "auto" and is_embedder):
        return ExportableEmbedder(_embedder(directory, dtype)), "pooling"
    if head == "none" or (head == "auto" and "For" not in architecture):
        return Exportable(Encoder.load(place, dtype=dtype)), "none"
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"motherbird has no logits for {architecture}",
            str(place / "config.json"),
            "export the encoder with --head none or --head pooling",
        )
    if (settings := directory / SETTINGS).is_file():  # of a cross-encoder
        function = read_json_object(settings).get("activation_fn")
        raw |= {"sentence_transformers": {"activation_fn": function}} if function else {}
    return Exportable(ARCHITECTURES[architecture].load(place, dtype=dtype), raw), "logits"
