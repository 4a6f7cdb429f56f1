"""What a run of several tasks trains on and with, before the first step."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from ...arrays import Float32, Int64
from ...core.masking import masking_for
from ...core.rng import shuffled
from ...core.tokenizer import Tokenizer
from ...core.weights import head_tensors
from ...data.pairs import Pairs, read_pairs, split_off
from ...data.samples import sample_texts
from ...errors import InputError, counted
from ...models.dense import Dense
from .initial import Start, find_start
from .plan import VectorsPlan
from .recipe import Multitask
from .rows import TaskRows, TextRows, choose_partners, paired, text_rows
from .teacher import Teacher
from .tune import DEV, MOST_DEV

HELD_OUT, MOST_HELD_OUT = 50, 2000  # one of so many texts is not trained on; at most
CHOICE = 0x63686F696365  # first part of the key of the choice of pairs
PARTNERS = 0x706172746E6572  # and of that of the second text of a pair that is scored
COSINE, MRR, SPEARMAN, ACCURACY = "cosine", "MRR@10", "spearman", "masked accuracy"
METRICS = {"vectors": COSINE, "scores": SPEARMAN, "pairs": MRR, "masked": ACCURACY}

Targets = Float32[np.ndarray, "_texts size"]


@dataclass(frozen=True, eq=False, kw_only=True)
class MultitaskPlan(VectorsPlan):
    """What a run trains on and with, before the first step."""

    recipe: Multitask
    train: TaskRows  # type: ignore[assignment]
    dev: TaskRows  # type: ignore[assignment]
    projection: Dense | None  # of the model before the first step; None for a new one
    size: int  # of a vector
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
            tokens = sum(own.lengths) / len(own) * (2 if task.kind == "scores" else 1)
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

    def partners(self, task: int, vectors: Targets) -> Int64[np.ndarray, " texts"]:
        """Choose the second text of each pair of a task of scores, within dev and the rest.

        It depends on rounding, so that one process does it, once for a run.
        """
        key = (PARTNERS, self.recipe.seed)
        parts = np.split(vectors, [len(self.dev.tasks[task])])
        return np.concatenate([choose_partners(own, key) for own in parts])

    def with_targets(self, found: Sequence[tuple[Targets | None, Any]]) -> "MultitaskPlan":
        """Return the plan with the teacher's vectors of each task, and `partners` of scores."""
        train, dev = list(self.train.tasks), list(self.dev.tasks)
        for number, (vectors, second) in enumerate(found):
            if vectors is None:
                continue
            at = [len(dev[number])]
            parts = zip((dev, train), np.split(vectors, at), strict=True)
            seconds = [None, None] if second is None else np.split(second, at)
            for (rows, own), others in zip(parts, seconds, strict=True):
                if others is None:
                    rows[number] = replace(rows[number], targets=own)
                else:
                    rows[number] = paired(rows[number], own, others)
        return replace(
            self, train=replace(self.train, tasks=train), dev=replace(self.dev, tasks=dev)
        )


def plan(recipe: Multitask, sources: dict[str, str], device: str | None = None) -> MultitaskPlan:
    """Load what the run starts from, and choose and tokenize the texts.

    Raises:
        InputError: the model cannot be used, or texts cannot be read.
    """
    start = find_start(recipe.model, None)
    projection = _projection(start, any(task.kind == "vectors" for task in recipe.task))
    if not (start.config.decoder_bias and start.config.tie_word_embeddings):
        what = "the decoder of masked tokens has no bias, or weights of its own"
        raise InputError(what, str(start.directory), "start from another model")
    teachers = [None if t.teacher is None else Teacher(t.teacher, device) for t in recipe.task]
    sizes = [teacher.size for task, teacher in zip(recipe.task, teachers, strict=True)
             if task.kind == "vectors" and teacher is not None]  # fmt: skip
    size = sizes[0] if projection is None else projection.outputs
    if sizes and sizes[0] != size:
        what = f"the teacher has vectors of {sizes[0]} dimensions, and the model of {size}"
        where = next(task.teacher for task in recipe.task if task.kind == "vectors")
        raise InputError(what, str(where))
    if wrong := [d for task in recipe.task for d in task.dimensions if d > size]:
        what = f"dimensions = {wrong[0]} is more than the {size} of a vector"
        raise InputError(what, how="leave it out")
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
        if len(chosen) < 4:
            raise InputError("there are too few texts to set some aside", ", ".join(data))
        count = min(MOST_HELD_OUT, max(2, -(-len(chosen) // HELD_OUT)))
        of_one = limit // 2 if task.kind == "scores" else limit
        some = [text_rows(start.tokenizer, t, of_one) for t in (chosen[count:], chosen[:count])]
        parts.append((some[0], some[1]))
        texts.append(chosen if task.teacher is not None else [])
    maskings = [
        masking_for(start.tokenizer, task.rate) if task.kind == "masked" else None
        for task in recipe.task
    ]
    return MultitaskPlan(
        recipe=recipe, start=start, sources=sources, projection=projection, size=size, texts=texts,
        train=TaskRows([own for own, _ in parts], maskings, recipe.seed),
        dev=TaskRows([dev for _, dev in parts], maskings, recipe.seed),
        teachers=teachers,
    )  # fmt: skip


def _projection(start: Start, can_begin: bool) -> Dense | None:
    """Return the linear layer of a model, or None for an encoder alone, whose layer is new.

    Args:
        start: the model.
        can_begin: whether there is a teacher of vectors, with which a new one begins.

    Raises:
        InputError: the model has other modules, or no linear layer where none can begin.
    """
    dense: Sequence[Dense] = start.modules.get("dense", ())
    simple = [each for each in dense if each.bias is None and each.activation == "identity"]
    where, how = str(start.directory), "start from one of motherbird distill dense"
    if start.static is not None:
        raise InputError("static vectors are not an encoder", where, how)
    is_mean = start.modules.get("pooling", "mean") == "mean"
    if start.late or not is_mean or len(dense) > 1 or len(simple) < len(dense):
        what = "the model is not one of mean pooling and one linear layer"
        raise InputError(what, where, how)
    if not dense and not can_begin:
        what = "the model has no linear layer, and without a task of vectors none can begin"
        raise InputError(what, where, how)
    others = {name.partition(".")[0] for name in head_tensors(start.directory)}
    if others & {"classifier", "linear"}:
        raise InputError("the model has the head of another task", where, how)
    return simple[0] if simple else None


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
