"""Settings of runs that train models of vectors."""

from dataclasses import dataclass, fields
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
    cosines: float = 50.0  # weight of the squared error of the cosines of pairs; 0 for none

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.texts >= 100, f"texts = {self.texts} has to be at least 100")
        check(self.cosines >= 0, f"cosines = {self.cosines} has to be 0 or more")

    def peak(self, config: EncoderConfig) -> float:
        """Return the peak learning rate: by default 3e-4 up to a width of 320, less above."""
        return self.lr or 3e-4 * min(1.0, 320 / config.hidden_size)


LATE_SIZE = 128  # dimensions of the vector of a token, by default


@dataclass(frozen=True, kw_only=True)
class VectorTuning(Tuning):
    """A run that trains a model for retrieval. None stands for what suits the run."""

    task: Literal["dense", "late"]  # a vector for each text, or for each token
    # configuration of the encoder where ``model`` is static vectors; None: nano
    preset: Literal["nano", "mini", "base", "large"] | None = None
    epochs: int | None = None  # passes over the rows; None: 1 for 50,000 rows and more, or else 3
    batch_size: int = 64  # rows of a step; all of their documents are compared with all queries
    size: int | None = None  # dimensions of a vector; None: of "late" 128, else those of the model
    # numbers of first dimensions that can be used alone (Matryoshka), for "dense"
    dimensions: tuple[int, ...] = ()
    temperature: float | None = None  # divides the scores; None: 0.05 for "dense", 1 for "late"
    scaled: bool = True  # scale the scores of a row to 0..1, those of a teacher and of the model
    negatives: int | None = None  # wrong documents of a row, at most; None: all
    query_prompt: str = ""  # a text before every query
    document_prompt: str = ""  # a text before every document
    # tokens of a query and of a document; None: those of the model, or max_length
    query_length: int | None = None
    document_length: int | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        check(self.size is None or self.size >= 1, f"size = {self.size} has to be at least 1")
        check(all(d >= 1 for d in self.dimensions), "dimensions have to be at least 1")
        check(not self.dimensions or self.task == "dense", "dimensions are for the task dense")
        good = self.temperature is None or self.temperature > 0
        check(good, f"temperature = {self.temperature} has to be more than 0")
        good = self.negatives is None or self.negatives >= 0
        check(good, f"negatives = {self.negatives} has to be 0 or more")
        for name in ("query_length", "document_length"):
            value = getattr(self, name)
            check(value is None or value >= 8, f"{name} = {value} has to be at least 8")
        late_pooling = self.task == "late" and self.pooling is not None
        check(not late_pooling, "pooling is for the task dense")

    def epochs_for(self, rows: int) -> int:
        """Return the number of epochs for a number of rows."""
        return self.epochs or (1 if rows >= 50_000 else 3)


# The settings that only some kinds of tasks have.
SETTINGS_OF = {
    "vectors": ("teacher", "vectors", "cosines"),
    "scores": ("teacher", "vectors"),
    "pairs": ("late", "temperature", "late_temperature", "dimensions"),
    "masked": ("rate",),
}


@dataclass(frozen=True, kw_only=True)
class MultitaskTask:
    """What one of several tasks is, and how much it counts.

    "vectors" learns a teacher's vectors of texts, "scores" to read two texts together and to
    predict the cosine of the teacher's vectors of them, "pairs" to rank documents by vectors of
    texts and of tokens, "masked" to predict masked tokens.
    """

    kind: Literal["vectors", "scores", "pairs", "masked"]
    data: tuple[str, ...]  # files of texts, or of queries with documents
    rows: int = 120_000  # texts or queries, at most
    weight: float = 1.0  # factor of the loss of a row
    # "vectors" and "scores": name or directory of a model of sentence-transformers, and the
    # directory in which its vectors are kept
    teacher: str | None = None
    vectors: str | None = None
    cosines: float = 50.0  # "vectors": see `Distillation`
    late: float = 1.0  # "pairs": factor of the loss of late interaction; 0 for none
    temperature: float = 0.05  # "pairs": divides the cosines of texts
    late_temperature: float = 1.0  # "pairs": divides the scores of late interaction
    dimensions: tuple[int, ...] = ()  # "pairs": first dimensions that can be used alone
    rate: float = 0.3  # "masked": fraction of the tokens

    def __post_init__(self) -> None:
        check(len(self.data) > 0, "data has no file")
        check(self.rows >= 100, f"rows = {self.rows} has to be at least 100")
        check(self.weight > 0, f"weight = {self.weight} has to be more than 0")
        check(self.late >= 0, f"late = {self.late} has to be 0 or more")
        for name in ("temperature", "late_temperature"):
            check(getattr(self, name) > 0, f"{name} = {getattr(self, name)} has to be more than 0")
        check(self.cosines >= 0, f"cosines = {self.cosines} has to be 0 or more")
        check(0 < self.rate < 1, f"rate = {self.rate} is not within 0..1")
        check(all(d >= 1 for d in self.dimensions), "dimensions have to be at least 1")
        for kind, own in SETTINGS_OF.items():
            for name in own if kind != self.kind else ():
                default = next(f.default for f in fields(self) if f.name == name)
                good = getattr(self, name) == default or name in SETTINGS_OF[self.kind]
                check(good, f"{name} is a setting of {kind}, and this task is {self.kind}")
        needs = "teacher" in SETTINGS_OF[self.kind]
        check(not needs or self.teacher is not None, "the teacher is missing")


@dataclass(frozen=True, kw_only=True)
class Multitask(Tuning):
    """A run that trains one encoder for several tasks, whose rows are mixed in every step."""

    task: tuple[MultitaskTask, ...]
    epochs: int | None = None  # passes over the rows of all tasks; None: 1
    batch_size: int = 256  # rows of a step, of all tasks

    def __post_init__(self) -> None:
        super().__post_init__()
        check(len(self.task) > 0, "there is no [[task]]")
        kinds = [task.kind for task in self.task]
        check(len({*kinds}) == len(kinds), "there are two tasks of one kind: name all files in one")
        check(self.pooling in (None, "mean"), "pooling has to be mean")
