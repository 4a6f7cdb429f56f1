"""A batch of rows of texts, and what objectives of their vectors share."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from ...arrays import Bool, Float, Int
from ...nn.packed import Packed
from ...nn.vectors import MultitaskModel, VectorModel


class MaskedTokens(NamedTuple):
    """The masked tokens of a batch."""

    positions: Int[Tensor, " M"]
    targets: Int[Tensor, " M"]  # their ids before


@dataclass(frozen=True, eq=False)
class TextsBatch:
    """Rows of texts, packed row by row; in a row, a query comes before its documents."""

    packed: Packed
    sizes: tuple[int, ...]  # number of texts of each row
    keys: tuple[bytes, ...]  # of each text; those of equal texts are equal
    targets: Float[Tensor, "rows size"] | None = None  # see `vectors.rows.TextRows`
    scores: tuple[NDArray[np.float32], ...] = ()  # a teacher's score of each document of each query
    counts: bool = True  # False for one without a loss, so that every rank has as many as others
    task: int = 0  # which of several tasks the rows are of
    masked: MaskedTokens | None = None  # if masked tokens are predicted


@dataclass(frozen=True, eq=False)
class Texts:
    """The queries and documents of all micro-batches of a step.

    Attributes:
        queries: the index of the text of each of n queries.
        documents: the index of the text of each of m documents.
        right: (n,), the index among the documents of the first one of each query.
        others: (n, m), whether a document counts as a wrong one for a query: it is not its first
            one, and has another text.
    """

    queries: Int[Tensor, " n"]
    documents: Int[Tensor, " m"]
    right: Int[Tensor, " n"]
    others: Bool[Tensor, "n m"]


def queries_and_documents(batches: Sequence[TextsBatch], device: torch.device) -> Texts:
    """Tell queries from documents, with indices into the texts of all batches."""
    sizes = [size for batch in batches for size in batch.sizes]
    keys = [key for batch in batches for key in batch.keys]
    starts = np.cumsum([0, *sizes])[:-1]
    is_query = np.zeros(len(keys), bool)
    is_query[starts] = True
    documents = np.flatnonzero(~is_query)
    right = np.searchsorted(documents, starts + 1)
    numbers = {key: number for number, key in enumerate(dict.fromkeys(keys))}
    own = np.array([numbers[key] for key in keys])[documents]
    others = own[right][:, None] != own
    return Texts(*(
        torch.from_numpy(array).to(device) for array in (starts, documents, right, others)
    ))  # fmt: skip


@dataclass(frozen=True, eq=False)
class TextsObjective(ABC):
    """An objective of the vectors of rows of texts; see `objectives.JointObjective`."""

    model: VectorModel | MultitaskModel

    def weight(self, batch: TextsBatch) -> int:
        """Return the number of rows."""
        return len(batch.sizes) * batch.counts

    def own_loss(self, batch: TextsBatch) -> Callable[[], Tensor] | None:
        """Return None: the loss is that of all micro-batches."""
        return None

    def joint_loss(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_rows size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the loss over all rows."""
        # Vectors of batches without a loss have a gradient too, of 0.
        nothing = torch.stack([0 * own.sum() for own in vectors]).sum()
        counted = [pair for pair in zip(batches, vectors, strict=True) if pair[0].counts]
        if not counted:
            return nothing
        return nothing + self.sum_over_rows(*map(list, zip(*counted, strict=True)))

    @abstractmethod
    def sum_over_rows(
        self, batches: Sequence[TextsBatch], vectors: Sequence[Float[Tensor, "_rows size"]]
    ) -> Float[Tensor, ""]:
        """Return the sum of the loss over the rows of batches that have one, at least one."""
