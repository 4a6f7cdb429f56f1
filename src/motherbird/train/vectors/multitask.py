"""Several tasks in one run: a teacher's vectors, ranking, scores of pairs, and masked tokens.

The result is one directory for all of them: `Embedder`, `LateEmbedder` with the same linear layer
for the vectors of tokens, and `MaskedLM`; the `Reranker` has a subdirectory.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ...arrays import Float32
from ...core import hf_config
from ...core.hf_config import HeadConfig
from ...core.measure import Metrics
from ...core.metrics import spearman
from ...core.weights import head_tensors
from ...engine import maxsim
from ...files import write_array
from ...models.dense import Dense
from ...models.embedder import Embedder
from ...nn import checkpoint
from ...nn.heads import MaskedLM, SequenceClassifier, pool
from ...nn.packed import Packed
from ...nn.vectors import MultitaskModel
from ..distributed import Distributed
from ..objectives import JointObjective
from ..objectives.contrastive import ContrastiveObjective
from ..objectives.late import LateObjective
from ..objectives.multitask import MultitaskObjective, Part
from ..objectives.texts import TextsBatch
from ..objectives.vectors import VectorsObjective
from ..predict import MICRO_TOKENS, outputs_of, vectors_of
from ..process import Session
from ..state import Best
from ..tuning_process import Trained
from ..tuning_run import SILENT, Caller, run, write_info
from . import card
from .distill import SAMPLE, linear_fit, scaled
from .multitask_plan import ACCURACY, COSINE, MRR, SPEARMAN, MultitaskPlan, plan
from .plan import VectorsProcess
from .recipe import Multitask, MultitaskTask
from .rows import TaskRows, TextRows
from .tune import mean_reciprocal_rank

SCORE, RERANKER = "score", "reranker"  # the label of a `Reranker`, and its subdirectory
PARTNERS = "partners.npy"  # in the directory of the state
LATE_MRR = "MRR@10 late"


class MultitaskProcess(VectorsProcess):
    """A process of such a run."""

    model: MultitaskModel  # type: ignore[assignment]
    train: TaskRows  # type: ignore[assignment]
    dev: TaskRows  # type: ignore[assignment]

    def __init__(self, session: Session, plan: MultitaskPlan) -> None:
        super().__init__(session, plan)
        self.plan = plan

    def initial_model(self) -> MultitaskModel:
        """Return the model before the first step."""
        plan, recipe = self.plan, self.plan.recipe
        encoder = plan.start.encoder(recipe.seed)
        bias: torch.Tensor
        if head_tensors(plan.start.directory):
            masked_lm = MaskedLM(encoder)
            stored = MaskedLM.load(plan.start.directory, dtype="float32")
            masked_lm.head.load_state_dict(stored.head.state_dict())
            assert stored.decoder.bias is not None  # see `plan`
            bias = stored.decoder.bias.detach()[plan.tokens]
        else:
            masked_lm = MaskedLM.with_new_head(encoder, recipe.seed)
            bias = self._frequencies()
        masked_lm.decoder.bias = nn.Parameter(bias)
        projection = nn.Linear(plan.config.hidden_size, plan.size, bias=False)
        if plan.projection is not None:
            projection.weight = nn.Parameter(torch.from_numpy(plan.projection.weight.copy()))
        classifier = None
        if any(task.kind == "scores" for task in recipe.task):
            classifier = nn.Linear(plan.config.hidden_size, 1)
            nn.init.zeros_(classifier.weight)
            nn.init.zeros_(classifier.bias)
        model = MultitaskModel(masked_lm, projection, classifier)
        self.keep_embeddings(model)
        return model

    def begin(self, model: Trained) -> None:
        """Give a new linear layer the best map to the teacher's vectors, for the model as it is."""
        if self.plan.projection is not None:
            return
        assert isinstance(model, MultitaskModel)
        kinds = [task.kind for task in self.plan.recipe.task]
        rows = self.train.tasks[kinds.index("vectors")]
        assert rows.targets is not None

        def pooled(packed: Packed) -> torch.Tensor:
            return pool(model.encoder(packed), packed, "mean")

        own = vectors_of(model, pooled, rows.ids[:SAMPLE], torch.float32)
        weight = linear_fit(own, rows.targets[:SAMPLE])
        model.projection.weight = nn.Parameter(scaled(weight))

    def _frequencies(self) -> torch.Tensor:
        """Return the logarithm of how often each token occurs in the rows that are masked.

        Without it, the frequencies would be learned slowly: a bias moves by about the learning
        rate in a step.
        """
        counts = np.ones(len(self.plan.tokens))
        for rows, masking in zip(self.train.tasks, self.train.maskings, strict=True):
            if masking is not None:
                counts += np.bincount(np.concatenate(rows.ids), minlength=len(counts))
                counts[list(masking.special_ids)] = 1  # they are never masked
        return torch.from_numpy(np.log(counts / counts.sum())).float()

    def keep_embeddings(self, model: Trained) -> None:
        """Keep the embeddings of tokens that occur; masked tokens give all of them a gradient."""
        super().keep_embeddings(model)
        if any(task.kind == "masked" for task in self.plan.recipe.task):
            model.encoder.embeddings.tok_embeddings.sparse = False

    def objective(self) -> JointObjective[TextsBatch]:
        """Return what the model is trained for."""
        return MultitaskObjective(self.model, [self._parts(t) for t in self.plan.recipe.task])

    def _parts(self, task: MultitaskTask) -> list[Part]:
        model = self.model
        if task.kind == "vectors":
            return [Part(task.weight, VectorsObjective(model, task.cosines))]
        if task.kind == "scores":
            return [Part(task.weight)]
        if task.kind == "masked":
            # A constant in place of the number of masked tokens, which differs between
            # micro-batches: the loss of a step must not depend on how rows are divided.
            rows = self.plan.train.tasks[self.plan.recipe.task.index(task)]
            return [Part(task.weight / (task.rate * float(np.mean(rows.lengths))))]
        dimensions = tuple(sorted({*task.dimensions, self.plan.size}))
        dense = Part(task.weight, ContrastiveObjective(model, task.temperature, dimensions))
        late = LateObjective(model, task.late_temperature)
        return [dense, *[Part(task.weight * task.late, late, per_token=True)] * bool(task.late)]

    def dev_metrics(self) -> Metrics:
        """Return the metrics of each task on what is held out."""
        found: Metrics = {}
        for number, task in enumerate(self.plan.recipe.task):
            rows = self.dev.tasks[number]
            if task.kind == "vectors":
                own = self._vectors_of_texts(rows)
                found[COSINE] = float((own * rows.targets).sum(axis=1).mean())
            elif task.kind == "pairs":
                found |= self._ranked(rows)
            elif task.kind == "scores":
                assert rows.targets is not None
                own = vectors_of(self.model, self.model.scores, rows.ids, self.stepper.dtype)
                found[SPEARMAN] = spearman(own[:, 0], rows.targets[:, 0]) or 0.0
            else:
                found[ACCURACY] = self._masked_accuracy(number)
        return found

    def _vectors_of_texts(self, rows: TextRows) -> Float32[np.ndarray, "texts size"]:
        def pooled(packed: Packed) -> torch.Tensor:
            return normalize(pool(self.model(packed), packed, "mean"), dim=-1)

        return vectors_of(self.model, pooled, rows.ids, self.stepper.dtype)

    def _ranked(self, rows: TextRows) -> Metrics:
        """Return how well the documents of all rows are ranked for each query."""
        is_query = np.zeros(len(rows.ids), bool)
        is_query[rows.starts[:-1]] = True
        texts = self._vectors_of_texts(rows)
        dense = texts[is_query] @ texts[~is_query].T

        def unit(packed: Packed) -> torch.Tensor:
            return normalize(self.model(packed), dim=-1)

        tokens = outputs_of(self.model, unit, rows.ids, self.stepper.dtype, per_token=True)
        documents = [tokens[n] for n in np.flatnonzero(~is_query)]
        packed = maxsim.pack(documents, self.plan.size)
        late = maxsim.scores([tokens[n] for n in rows.starts[:-1]], *packed)
        return {
            MRR: mean_reciprocal_rank(dense, rows.starts),
            LATE_MRR: mean_reciprocal_rank(late, rows.starts),
        }

    @torch.inference_mode()
    def _masked_accuracy(self, task: int) -> float:
        """Return how many of the masked tokens are predicted."""
        first, count = int(self.dev.starts[task]), len(self.dev.tasks[task])
        model, device = self.model.masked_lm, self.distributed.device.type
        model.eval()
        right = total = 0
        for batch in self.dev.micro_batches(range(first, first + count), MICRO_TOKENS, 1):
            assert batch.masked is not None
            lower = self.stepper.dtype != torch.float32
            with torch.autocast(device, self.stepper.dtype, enabled=lower):
                logits = model(batch.packed, batch.masked.positions)
            right += int((logits.argmax(dim=1).cpu() == batch.masked.targets).sum())
            total += len(batch.masked.targets)
        model.train()
        return right / max(1, total)


def train(
    recipe: Multitask,
    out: Path,
    *,
    sources: dict[str, str] | None = None,
    on_texts: Callable[[int, int], None] = lambda done, total: None,
    caller: Caller = SILENT,
) -> dict[str, Any]:
    """Train a model for several tasks, or resume it, and write one directory for all of them.

    Args:
        recipe: defines the run.
        out: directory of the model; if it is that of the same run, nothing is computed.
        sources: the command, for the card.
        on_texts: called on rank 0 with the number of texts whose teacher's vectors exist, and the
            number of all.
        caller: who is told what the run does; its device is the teacher's too.

    Returns:
        The content of finetune.json.

    Raises:
        InputError: the model, the texts or the directory cannot be used.
        DivergedError: the loss is not finite.
        StoppedError: a signal or ``max_steps`` stopped it; its state is saved.
    """

    def make(distributed: Distributed) -> MultitaskPlan:
        return distributed.in_turns(lambda: plan(recipe, sources or {}, caller.device))

    def prepare(made: MultitaskPlan, distributed: Distributed, work: Path) -> MultitaskPlan:
        found: list[Any] = []
        if distributed.is_main:
            done = 0

            def count(texts: int) -> None:
                nonlocal done
                done += texts
                on_texts(done, sum(map(len, made.texts)))

            for number, (task, teacher) in enumerate(zip(recipe.task, made.teachers, strict=True)):
                kept = Path(task.vectors) if task.vectors else work / "teacher"
                vectors = second = None
                if teacher is not None:
                    vectors = teacher.vectors(made.texts[number], kept, count)
                if task.kind == "scores" and vectors is not None:
                    second = _kept(work / PARTNERS, partial(made.partners, number, vectors))
                found.append((vectors, second))
        return made.with_targets(distributed.broadcast_object(found))

    return run(
        make, MultitaskProcess, _write, out, recipe.timeout, caller,
        prepare=prepare, signs=("checkpoints", "teacher"),
    )  # fmt: skip


def _kept(path: Path, compute: Callable[[], Any]) -> Any:
    """Return an array that is kept in a file, or compute it."""
    if not path.exists():
        write_array(path, compute())
    return np.load(path)


def _write(
    process: MultitaskProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the model of the best epoch, and return finetune.json."""
    made, model = process.plan, process.model
    info = process.finish(made, best, work, key)
    masked_lm = model.masked_lm
    assert masked_lm.decoder.bias is not None
    bias = masked_lm.decoder.bias.detach()
    whole = torch.full((made.config.vocab_size,), float(bias.min()))  # of tokens that never occur
    whole[torch.from_numpy(made.tokens).long()] = bias
    masked_lm.decoder.bias = nn.Parameter(whole)
    dense = Dense(model.projection.weight.detach().numpy())
    embedder = Embedder(model.encoder, max_length=made.recipe.max_length, dense=[dense])
    scorer = None
    if model.classifier is not None:
        scorer = SequenceClassifier(model.encoder, (SCORE,))
        scorer.head, scorer.classifier = model.head, model.classifier

    def write_more(directory: Path) -> None:
        embedder.write_modules(directory)
        if scorer is not None:
            (directory / RERANKER).mkdir()
            checkpoint.write(scorer, directory / RERANKER, made.start.tokenizer)
            hf_config.write_head(directory / RERANKER, HeadConfig((SCORE,), "number"))
        write_info(directory, info, work)
        card.write(directory, out.absolute().name, made, info, embedder)

    checkpoint.save(masked_lm, out, write_more=write_more)
    return info
