"""Fine-tuning on a few texts of each label: contrastive training, then a logistic regression.

As in SetFit (Tunstall et al. 2022). The encoder learns which texts have the same label, for which
few texts give many pairs, and the classifier is fitted to its vectors.
"""

from collections.abc import Generator, Sequence
from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from ..arrays import Float, Int
from ..core.rng import shuffled
from ..data.loader import ORDER, Cursor
from ..errors import InputError, NoMemoryError
from ..nn.heads import SequenceClassifier
from .labels_process import LabelsProcess
from .objectives import Objective
from .objectives.labels import LabelledBatch
from .objectives.supervised_contrastive import SupervisedContrastiveObjective
from .process import Session
from .state import Progress
from .step import StepReport
from .tuning_plan import Plan

PENALTY = 0.1  # of the squares of the weights, for vectors of length 1
ITERATIONS = 200  # of L-BFGS, at most
TEXTS = 64  # whose vectors are computed at once


class FewShotProcess(LabelsProcess):
    """A process of a few-shot run. A step has pairs of texts of one label."""

    model: SequenceClassifier

    def __init__(self, session: Session, plan: Plan) -> None:
        super().__init__(session, plan)
        if self.distributed.world_size > 1:
            what = "few-shot training runs in a single process"
            raise InputError(what, how="start it without torchrun")

    def objective(self) -> Objective[LabelledBatch]:
        """Return what the model is trained for."""
        return SupervisedContrastiveObjective(self.model)

    def batches(
        self, progress: Progress
    ) -> Generator[tuple[list[LabelledBatch], Cursor], None, None]:
        """Return the only micro-batch of each step of an epoch, and the cursor after it."""
        cursor = progress.cursor
        labels = [int(target) for target in self.train.targets]
        order = in_pairs(labels, (cursor.seed, ORDER, cursor.phase))
        size = 2 * self.recipe.batch_size
        while cursor.consumed < len(order):
            taken = order[cursor.consumed : cursor.consumed + size]
            cursor = replace(cursor, consumed=cursor.consumed + len(taken))
            yield [self.train.batch(taken)], cursor

    def less_memory(self, progress: Progress, error: NoMemoryError) -> Progress:
        """Raise the error: the loss of a step needs all of its texts at once."""
        how = "use a lower --batch-size or a shorter --max-length"
        raise NoMemoryError(error.what, str(self.run), how) from error

    def complete(self, report: StepReport) -> tuple[StepReport, Progress, bool]:
        """Fit the classifier after the last epoch, and evaluate it on dev."""
        progress, cursor = report.progress, report.progress.cursor
        epoch = cursor.phase + 1
        if cursor.consumed == len(self.train) and epoch < self.plan.epochs:
            progress = replace(progress, cursor=replace(cursor, phase=epoch, consumed=0))
            return replace(report, phase=f"epoch {epoch}"), progress, False
        if cursor.consumed == len(self.train):
            self.fit_classifier()
        return super().complete(report)

    @torch.no_grad()
    def fit_classifier(self) -> None:
        """Set the weights of the classifier by a logistic regression."""
        model = self.model.eval()
        vectors = torch.cat([
            model.head(model.pooled(self.train.batch(range(first, last)).packed)).float().cpu()
            for first in range(0, len(self.train), TEXTS)
            for last in [min(first + TEXTS, len(self.train))]
        ])  # fmt: skip
        targets = torch.tensor([int(target) for target in self.train.targets])
        weight, bias = logistic_regression(vectors, targets, len(self.plan.labels))
        model.classifier.weight.copy_(weight)
        model.classifier.bias.copy_(bias)
        model.train()


def in_pairs(labels: Sequence[int], key: tuple[int, ...]) -> list[int]:
    """Return the order of texts in which two texts of one label follow each other.

    The last text of a label with an odd number of texts is alone. Labels, pairs and their texts are
    in a random order that depends on the key.
    """
    groups: list[list[int]] = []
    for label in sorted(set(labels)):
        members = [number for number, own in enumerate(labels) if own == label]
        order = shuffled(range(len(members)), len(members), (*key, label)).tolist()
        mixed = [members[place] for place in order]
        groups += [mixed[first : first + 2] for first in range(0, len(mixed), 2)]
    order = shuffled(range(len(groups)), len(groups), (*key, len(labels))).tolist()
    return [number for place in order for number in groups[place]]


def logistic_regression(
    vectors: Float[Tensor, "S D"], targets: Int[Tensor, " S"], labels: int
) -> tuple[Float[Tensor, "C D"], Float[Tensor, " C"]]:
    """Return weight and bias of a multinomial logistic regression with a penalty of the squares.

    The penalty does not depend on the length of the vectors.
    """
    scale = vectors.norm(dim=1).mean()
    inputs = (vectors / scale).double()
    weight = torch.zeros(labels, inputs.shape[1], dtype=torch.float64, requires_grad=True)
    bias = torch.zeros(labels, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weight, bias], max_iter=ITERATIONS, line_search_fn="strong_wolfe"
    )

    def loss() -> float:
        optimizer.zero_grad()
        with torch.enable_grad():
            fit = cross_entropy(inputs @ weight.T + bias, targets, reduction="sum")
            value = fit + PENALTY / 2 * weight.square().sum()
            value.backward()
        return value.item()

    optimizer.step(loss)
    return (weight.detach() / scale).float(), bias.detach().float()
