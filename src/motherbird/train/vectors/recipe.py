"""Settings of runs that train models of vectors."""

from dataclasses import dataclass
from typing import Literal

from ...core.config import EncoderConfig
from ..schedule import check
from ..tuning import Tuning


@dataclass(frozen=True, kw_only=True)
class Distillation(Tuning):
    """A run that learns the vectors of a teacher."""

    model: str  # an encoder, or static vectors, as which a new encoder begins
    teacher: str  # name or directory of a model of sentence-transformers
    # configuration of the encoder that begins as static vectors; None: nano
    preset: Literal["nano", "mini", "base", "large"] | None = None
    columns: tuple[str, ...] = ()  # of the texts; see `data.samples.sample_texts`
    texts: int = 120_000  # at most
    batch_size: int = 64
    epochs: int | None = None  # passes over the texts; None: 5
    cosines: float = 20.0  # weight of the squared error of the cosines of pairs; 0 for none

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.texts >= 100, f"texts = {self.texts} has to be at least 100")
        check(self.cosines >= 0, f"cosines = {self.cosines} has to be 0 or more")

    def peak(self, config: EncoderConfig) -> float:
        """Return the peak learning rate: by default 1e-3 for a width of 320, less for others."""
        return self.lr or 1e-3 * min(1.0, 320 / config.hidden_size)
