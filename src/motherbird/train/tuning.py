"""Settings of a run that trains a model further: a TOML file or keywords, read strictly."""

from dataclasses import dataclass
from typing import Literal

from ..core.config import EncoderConfig, Pooling
from ..core.hub import NANO
from ..data.columns import Task
from .schedule import LearningRateSchedule, check

# The peak rate for a width of 768, and of a small model. 8e-5 for base and 3e-5 for large are rates
# of the paper's table 6, and 1e-3 was the best for motherbird-nano (docs/log.md).
RATE, WIDTH, LARGEST_RATE = 8e-5, 768, 1e-3
LORA_RATE = 5  # times the rate without LoRA
# The metrics by which the best epoch can be chosen; the first is the default. auc of "single" needs
# two labels.
METRICS = {
    "single": ("accuracy", "macro_f1", "mcc", "auc"), "multi": ("macro_f1", "accuracy", "auc"),
    "number": ("spearman",), "tags": ("entity_f1", "accuracy"),
}  # fmt: skip
# Epochs for data of up to so many documents: the paper's 5 to 10 for small sets, 1 to 3 for large.
EPOCHS = ((2_000, 15), (10_000, 8), (50_000, 4))
FEW_SHOT_EPOCHS = 10


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """What runs that train a model further have in common. None stands for what suits the run."""

    model: str = NANO  # name or directory of the model that it starts from
    epochs: int | None = None  # passes over the training data; None: more for smaller data
    batch_size: int = 32  # documents, or rows of texts, of a step, of all ranks
    lr: float | None = None  # peak learning rate; None: by the size of the model
    warm_up: float = 0.06  # fraction of the run in which the learning rate rises from 0
    weight_decay: float = 1e-5  # of a step at the peak rate; norms and biases do not decay
    optimizer: Literal["adamw", "stableadamw", "muon"] = "adamw"
    # factor of the learning rate of each layer relative to the one above it; 1 for equal rates
    layer_decay: float = 1.0
    # epochs without a better result after which the run ends; 0 disables early stopping
    patience: int = 3
    max_length: int | None = None  # tokens of a document; None: the model's limit
    pooling: Pooling | None = None  # "mean" or "cls"; None: that of the model
    # compute each layer again in the backward pass: more time, less memory, the same bits
    gradient_checkpointing: bool = False
    micro_tokens: int = 8192  # tokens of a micro-batch; halved where memory runs out
    # dtype of matrix products: "auto" is the fastest of the device; weights are float32
    dtype: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    save_every: int = 500  # steps between checkpoints; there is one after every epoch too
    timeout: float = 60.0  # seconds after which a rank that does not answer ends the run
    seed: int = 0  # random seed of the order, dropout and the new layers

    def __post_init__(self) -> None:
        check(self.epochs is None or self.epochs >= 1, "epochs has to be at least 1")
        check(self.batch_size >= 1, "batch_size has to be at least 1")
        check(self.lr is None or self.lr > 0, f"lr = {self.lr} has to be more than 0")
        check(0 <= self.warm_up < 1, f"warm_up = {self.warm_up} has to be within 0..1")
        check(0 <= self.weight_decay < 1, f"weight_decay = {self.weight_decay} is not within 0..1")
        good = 0 < self.layer_decay <= 1
        check(good, f"layer_decay = {self.layer_decay} has to be more than 0 and at most 1")
        check(self.patience >= 0, f"patience = {self.patience} has to be 0 or more")
        check(self.save_every >= 0, f"save_every = {self.save_every} has to be 0 or more")
        check(self.timeout > 0, f"timeout = {self.timeout} has to be more than 0 seconds")
        good = self.max_length is None or self.max_length >= 8
        check(good, f"max_length = {self.max_length} has to be at least 8")
        check(self.micro_tokens >= 1, "micro_tokens has to be at least 1")
        check(0 <= self.seed < 2**63, f"seed = {self.seed} is not within 0..2^63 - 1")

    def peak(self, config: EncoderConfig) -> float:
        """Return the peak learning rate for a model: by default 8e-5 (768 / hidden size)^3."""
        return self.lr or min(LARGEST_RATE, RATE * (WIDTH / config.hidden_size) ** 3)

    def schedule(self, config: EncoderConfig, total: int) -> LearningRateSchedule:
        """Return the learning rate over ``total`` documents: a rise, and a linear decay to 0."""
        rise = int(self.warm_up * total)
        return LearningRateSchedule(self.peak(config), rise, total - rise, 0.0, "linear")

    def layer_scale(self, name: str, layers: int) -> float:
        """Return the factor of the learning rate of a parameter."""
        if name.startswith("model.embeddings."):
            below = layers
        elif name.startswith("model.layers."):
            below = layers - 1 - int(name.split(".")[2])
        else:
            below = 0
        return self.layer_decay**below


@dataclass(frozen=True)
class FineTuning(Tuning):
    """A fine-tuning run on labels."""

    task: Task  # labels of a text, tags of its words, or a number or label of a pair
    # metric on dev by which the best epoch is chosen; None: by what is predicted
    metric: Literal["accuracy", "macro_f1", "mcc", "auc", "spearman", "entity_f1"] | None = None
    # for few texts of each label: bring texts of one label together, and then fit a classifier
    few_shot: bool = False
    dropout: float = 0.0  # before the last layer
    # rank of LoRA's matrices, which are trained in place of the encoder's; 0: train everything
    lora_rank: int = 0
    class_weights: bool = False  # weight each label by the inverse of its frequency
    # for each of any number of labels, choose the probability with the best F1 on dev; else 0.5
    thresholds: bool = False
    # GB of memory that the run may use: limits micro_tokens, and sets gradient_checkpointing
    max_memory: float | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(0 <= self.dropout < 1, f"dropout = {self.dropout} is not within 0..1")
        check(0 <= self.lora_rank <= 1024, f"lora_rank = {self.lora_rank} is not within 0..1024")
        good = self.max_memory is None or self.max_memory > 0
        check(good, f"max_memory = {self.max_memory} has to be more than 0 GB")

    def epochs_for(self, documents: int) -> int:
        """Return the number of epochs for a number of training documents."""
        if self.epochs is not None:
            return self.epochs
        if self.few_shot:
            return FEW_SHOT_EPOCHS
        return next((epochs for limit, epochs in EPOCHS if documents <= limit), 3)

    def peak(self, config: EncoderConfig) -> float:
        """Return the peak learning rate for a model; that of LoRA is higher."""
        peak = super().peak(config)
        return LORA_RATE * peak if self.lora_rank and self.lr is None else peak
