"""Several tasks in one run: a teacher's vectors, ranking of documents, and masked tokens.

The result is one directory for all of them: `Embedder`, `LateEmbedder` with the same linear layer
for the vectors of tokens, and `MaskedLM`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn.functional import normalize

from ...arrays import Float32
from ...core import maxsim
from ...core.masking import masking_for
from ...core.measure import Metrics
from ...core.rng import shuffled
from ...core.tokenizer import Tokenizer
from ...core.weights import head_tensors
from ...data.pairs import Pairs, read_pairs, split_off
from ...data.samples import sample_texts
from ...errors import InputError, counted
from ...models.dense import Dense
from ...models.embedder import Embedder
from ...nn import checkpoint
from ...nn.heads import MaskedLM, pool
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
from .initial import find_start
from .plan import VectorsPlan, VectorsProcess
from .recipe import Multitask, MultitaskTask
from .rows import TaskRows, TextRows, text_rows
from .teacher import Teacher
from .tune import DEV, MOST_DEV, mean_reciprocal_rank

HELD_OUT, MOST_HELD_OUT = 50, 2000  # one of so many texts is not trained on; at most
CHOICE = 0x63686F696365  # first part of the key of the choice of pairs
COSINE, MRR, LATE_MRR, ACCURACY = "cosine", "MRR@10", "MRR@10 late", "masked accuracy"
METRICS = {"vectors": COSINE, "pairs": MRR, "masked": ACCURACY}


@dataclass(frozen=True, eq=False, kw_only=True)
class MultitaskPlan(VectorsPlan):
    """What a run trains on and with, before the first step."""

    recipe: Multitask
    train: TaskRows  # type: ignore[assignment]
    dev: TaskRows  # type: ignore[assignment]
    projection: Dense  # of the model before the first step
    texts: Sequence[list[str]]  # those of each task that has a teacher, those of dev first
    teachers: Sequence[Teacher | None]

    @property
    def epochs(self) -> int:
        """The number of epochs."""
        return self.recipe.epochs or 1

    @property
    def metric(self) -> str:
        """The metric of the first task."""
        return METRICS[self.recipe.task[0].kind]

    def lines(self) -> list[str]:
        """Return what will be done as lines of text."""
        found = []
        for task, own, dev in zip(self.recipe.task, self.train.tasks, self.dev.tasks, strict=True):
            tokens = sum(own.lengths) / len(own)
            found.append(
                f"{task.kind}: {len(own):,} rows of {tokens:.0f} tokens on average, each with "
                f"weight {task.weight:g}; {len(dev):,} more are held out"
            )
        return [
            *found,
            f"{counted(self.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}, learning "
            f"rate {self.recipe.peak(self.config):.2g}",
        ]

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine."""
        found = super().key() | {"teachers": [each and each.digest for each in self.teachers]}
        for task in found["recipe"]["task"]:
            for name in ("data", "teacher", "vectors"):  # what they name is in the digests
                task.pop(name, None)
        return found

    def with_targets(self, found: "Sequence[Targets | None]") -> "MultitaskPlan":
        """Return the plan with the teacher's vectors of the texts of each task."""
        train, dev = list(self.train.tasks), list(self.dev.tasks)
        for number, vectors in enumerate(found):
            if vectors is not None:
                own, rest = np.split(vectors, [len(dev[number])])
                dev[number] = replace(dev[number], targets=own)
                train[number] = replace(train[number], targets=rest)
        return replace(
            self, train=replace(self.train, tasks=train), dev=replace(self.dev, tasks=dev)
        )


Targets = Float32[np.ndarray, "texts size"]


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
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(recipe.seed)
            masked_lm = MaskedLM(encoder)
        if head_tensors(plan.start.directory):
            stored = MaskedLM.load(plan.start.directory, dtype="float32")
            masked_lm.head.load_state_dict(stored.head.state_dict())
            masked_lm.decoder.load_state_dict(stored.decoder.state_dict())
        bias = masked_lm.decoder.bias
        assert bias is not None  # see `plan`
        masked_lm.decoder.bias = nn.Parameter(bias.detach()[plan.tokens])
        projection = nn.Linear(plan.projection.inputs, plan.projection.outputs, bias=False)
        projection.weight = nn.Parameter(torch.from_numpy(plan.projection.weight.copy()))
        model = MultitaskModel(masked_lm, projection)
        self.keep_embeddings(model)
        return model

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
        if task.kind == "masked":
            # A constant in place of the number of masked tokens, which differs between
            # micro-batches: the loss of a step must not depend on how rows are divided.
            rows = self.plan.train.tasks[self.plan.recipe.task.index(task)]
            return [Part(task.weight / (task.rate * float(np.mean(rows.lengths))))]
        dimensions = tuple(sorted({*task.dimensions, self.plan.projection.outputs}))
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
        packed = maxsim.pack(documents, self.plan.projection.outputs)
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

            for task, teacher, texts in zip(recipe.task, made.teachers, made.texts, strict=True):
                kept = Path(task.vectors) if task.vectors else work / "teacher"
                found.append(teacher and teacher.vectors(texts, kept, count))
        return made.with_targets(distributed.broadcast_object(found))

    return run(
        make, MultitaskProcess, _write, out, recipe.timeout, caller,
        prepare=prepare, signs=("checkpoints", "teacher"),
    )  # fmt: skip


def plan(recipe: Multitask, sources: dict[str, str], device: str | None = None) -> MultitaskPlan:
    """Load what the run starts from, and choose and tokenize the texts.

    Raises:
        InputError: the model has no linear layer, or texts cannot be read.
    """
    start = find_start(recipe.model, None)
    dense: Sequence[Dense] = start.modules.get("dense", ())
    simple = len(dense) == 1 and dense[0].bias is None and dense[0].activation == "identity"
    if start.late or start.modules.get("pooling", "mean") != "mean" or not simple:
        what = "the model is not one of mean pooling and one linear layer"
        raise InputError(what, str(start.directory), "start from one of motherbird distill dense")
    if not (start.config.decoder_bias and start.config.tie_word_embeddings):
        what = "the decoder of masked tokens has no bias, or weights of its own"
        raise InputError(what, str(start.directory), "start from another model")
    teachers = [None if t.teacher is None else Teacher(t.teacher, device) for t in recipe.task]
    for task, teacher in zip(recipe.task, teachers, strict=True):
        if teacher is not None and teacher.size != dense[0].outputs:
            what = f"the teacher has vectors of {teacher.size} dimensions, and the model of "
            raise InputError(f"{what}{dense[0].outputs}", str(task.teacher))
        if wrong := [d for d in task.dimensions if d > dense[0].outputs]:
            raise InputError(f"dimensions = {wrong[0]} is more than the {dense[0].outputs} of a "
                             "vector", how="leave it out")  # fmt: skip
    longest = start.config.max_position_embeddings
    limit = min(recipe.max_length or longest, longest)
    parts: list[tuple[TextRows, TextRows]] = []
    texts: list[list[str]] = []
    for task in recipe.task:
        data = [str(path) for path in task.data]
        if task.kind == "pairs":
            pairs = _chosen(read_pairs(data, scored=False), task.rows, recipe.seed)
            own, held_out = split_off(pairs, DEV, recipe.seed, MOST_DEV)
            made = [_pair_rows(start.tokenizer, each, limit) for each in (own, held_out)]
            parts.append((made[0], made[1]))
            texts.append([])
            continue
        chosen = sample_texts(data, task.rows, recipe.seed, ())
        if len(chosen) < 2:
            raise InputError("one text is too few to set some aside", ", ".join(data))
        count = min(MOST_HELD_OUT, -(-len(chosen) // HELD_OUT))
        some = [text_rows(start.tokenizer, t, limit) for t in (chosen[count:], chosen[:count])]
        parts.append((some[0], some[1]))
        texts.append(chosen if task.kind == "vectors" else [])
    maskings = [
        masking_for(start.tokenizer, task.rate) if task.kind == "masked" else None
        for task in recipe.task
    ]
    return MultitaskPlan(
        recipe=recipe, start=start, sources=sources, projection=dense[0], texts=texts,
        train=TaskRows([own for own, _ in parts], maskings, recipe.seed),
        dev=TaskRows([dev for _, dev in parts], maskings, recipe.seed),
        teachers=teachers,
    )  # fmt: skip


def _chosen(pairs: Pairs, most: int, seed: int) -> Pairs:
    """Return so many rows at random, or all."""
    if len(pairs) <= most:
        return pairs
    return pairs.select(sorted(shuffled(range(most), len(pairs), (CHOICE, seed)).tolist()))


def _pair_rows(tokenizer: Tokenizer, pairs: Pairs, limit: int) -> TextRows:
    """Tokenize queries with their documents, row by row."""
    texts = [text for query, own in zip(pairs.queries, pairs.documents, strict=True)
             for text in (query, *own)]  # fmt: skip
    found = text_rows(tokenizer, texts, limit)
    return replace(found, sizes=[1 + len(own) for own in pairs.documents])


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

    def write_more(directory: Path) -> None:
        embedder.write_modules(directory)
        write_info(directory, info, work)
        card.write(directory, out.absolute().name, made, info, embedder)

    checkpoint.save(masked_lm, out, write_more=write_more)
    return info
