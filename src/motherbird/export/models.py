"""What is exported: which of our classes a folder holds, and the checkpoint around an export."""

from pathlib import Path

from ..errors import InputError
from ..models.embedder import Embedder, read_modules
from ..nn import checkpoint
from ..nn.encoder import Encoder
from ..nn.heads import MaskedLM, SequenceClassifier, TokenClassifier

Model = Encoder | MaskedLM | SequenceClassifier | TokenClassifier | Embedder

ARCHITECTURES: dict[str, type[MaskedLM | SequenceClassifier | TokenClassifier]] = {
    kind.architecture: kind for kind in (MaskedLM, SequenceClassifier, TokenClassifier)
} | {"FlexBertForMaskedLM": MaskedLM}


def encoder_of(model: Model) -> Encoder:
    """The encoder inside a model."""
    if isinstance(model, Encoder):
        return model
    return model.encoder if isinstance(model, Embedder) else model.model


def load(directory: Path, head: str, dtype: str | None) -> tuple[Model, str]:
    """The model of a folder with the head that is asked for, and the name of that head.

    Raises:
        InputError: the folder has no such head, or one that motherbird does not have.
    """
    if head == "pooling" or (head == "auto" and (directory / "modules.json").is_file()):
        return Embedder.load(directory, dtype=dtype), "pooling"
    has_config = (directory / "config.json").is_file()
    place = directory if has_config else read_modules(directory)[0]
    named = checkpoint.read_config(place).get("architectures") or ["none stated"]
    architecture = str(named[0])
    if head == "none" or (head == "auto" and "For" not in architecture):
        return Encoder.load(place, dtype=dtype), "none"
    if architecture not in ARCHITECTURES:
        raise InputError(
            f"there are no logits of a {architecture} in motherbird",
            str(place / "config.json"),
            "export the encoder: --head none or --head pooling",
        )
    return ARCHITECTURES[architecture].load(place, dtype=dtype), "logits"


def write_checkpoint(model: Model, directory: Path) -> None:
    """Write what consumers of Hugging Face directories read, weights included."""
    if isinstance(model, Embedder):
        checkpoint.write(model.encoder, directory)
        model.write_modules(directory)
    else:
        labels = model.labels if isinstance(model, SequenceClassifier | TokenClassifier) else ()
        checkpoint.write(model, directory, labels=labels)
