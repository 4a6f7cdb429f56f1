"""Training for retrieval: a vector for each text ("dense"), or for each token ("late")."""

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ... import __version__, machine, strict
from ...core import maxsim
from ...core.config import EncoderConfig
from ...core.measure import Metrics
from ...data.pairs import Pairs
from ...errors import InputError, counted
from ...models.dense import Dense
from ...models.embedder import Embedder
from ...models.late_embedder import Kind, LateEmbedder
from ...nn.vectors import VectorModel
from .. import run_log, state
from ..objectives import JointObjective
from ..objectives.contrastive import ContrastiveObjective
from ..objectives.late import LateObjective
from ..objectives.texts import TextsBatch
from ..predict import outputs_of, vectors_of
from ..process import Session
from ..rows import steps_per_epoch
from ..state import Best
from ..tuning_process import TuningProcess
from ..tuning_run import INFO, SILENT, Caller, restore_embeddings, run
from .initial import Start, find_start
from .recipe import LATE_SIZE, VectorTuning
from .rows import TextRows

DEV, MOST_DEV = 0.05, 500  # fraction and largest number of queries that are set aside
RANKS = 10  # of MRR@10


@dataclass(frozen=True, eq=False)
class VectorPlan:
    """What a run trains on and with, before the first step."""

    recipe: VectorTuning
    start: Start
    untrained: "Embedder | LateEmbedder"  # the model before the first step, with the tokenizer
    projection: NDArray[np.float32] | None  # of the model before the first step
    train: TextRows
    dev: TextRows
    # for the card: where each part is from, and the command or the call that trains
    sources: dict[str, str] = field(default_factory=dict)

    @property
    def config(self) -> EncoderConfig:
        """The configuration of the encoder."""
        return self.start.config

    @property
    def epochs(self) -> int:
        """The largest number of epochs."""
        return self.recipe.epochs_for(len(self.train))

    @property
    def steps_per_epoch(self) -> int:
        """The number of steps of an epoch."""
        return steps_per_epoch(len(self.train), self.recipe.batch_size)

    @cached_property
    def tokens(self) -> NDArray[np.int32]:
        """The ids of all tokens that occur, ascending."""
        return np.union1d(self.train.tokens(), self.dev.tokens())

    @property
    def metric(self) -> str:
        """How often the right document is first; with scores, the one that the teacher prefers."""
        return "accuracy" if self.train.scores else "MRR@10"

    def lines(self) -> list[str]:
        """Return what will be done as lines of text."""
        train, dev, recipe = self.train, self.dev, self.recipe
        documents = len(train.ids) / len(train) - 1
        length = sum(train.lengths) / len(train.ids)
        cut = f"; {train.truncated:,} texts truncated" if train.truncated else ""
        scored = ", with scores" if train.scores else ""
        size = self.untrained.size
        of = "token" if recipe.task == "late" else "text"
        return [
            f"{len(train):,} queries with {documents:.1f} documents each{scored}, dev "
            f"{len(dev):,}; {length:.0f} tokens of a text on average{cut}",
            f"a vector of {size} dimensions for each {of}; the projection is "
            + ("none" if self.projection is None else "trained too"),
            f"at most {counted(self.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}, "
            f"learning rate {recipe.peak(self.config):.2g}; the best epoch by {self.metric} on dev "
            "is kept",
        ]

    def key(self) -> dict[str, Any]:
        """Return what the result depends on, besides the machine."""
        settings = strict.plain(self.recipe)
        for name in ("timeout", "save_every"):
            settings.pop(name)
        data = [self.train.digest(), self.dev.digest()]
        return {"recipe": settings, "base": self.start.digest(), "data": data}


def plan(recipe: VectorTuning, train: Pairs, dev: Pairs, sources: dict[str, str]) -> VectorPlan:
    """Read what the run starts from, and tokenize the texts.

    Raises:
        InputError: the model cannot be used, or is of another kind.
    """
    start = find_start(recipe.model, recipe.preset)
    encoder = start.encoder(recipe.seed)
    projection = _initial_projection(recipe, start)
    dense = [] if projection is None else [Dense(projection)]
    untrained: Embedder | LateEmbedder
    if recipe.task == "late":
        given = {key: value for key, value in start.modules.items() if start.late}
        given |= {
            "projection": dense, "query_length": recipe.query_length,
            "document_length": recipe.document_length, "add_prefixes": True,
            "max_length": recipe.max_length or given.get("max_length"),
            "prompts": {"query": recipe.query_prompt, "document": recipe.document_prompt},
        }  # fmt: skip
        untrained = LateEmbedder(encoder, **given)
    else:
        prompts = {"query": recipe.query_prompt, "document": recipe.document_prompt}
        if not any(prompts.values()):
            prompts = start.modules.get("prompts", {})
        pooling = recipe.pooling or start.modules.get("pooling", "mean")
        length = recipe.max_length or start.modules.get("max_length")
        untrained = Embedder(encoder, pooling, prompts, None, length, dense=dense)
        if wrong := [d for d in recipe.dimensions if d > untrained.size]:
            what = f"dimensions = {wrong[0]} is more than the {untrained.size} of a vector"
            raise InputError(what, how="leave it out")
    own, held_out = (_rows(untrained, recipe, part) for part in (train, dev))
    return VectorPlan(recipe, start, untrained, projection, own, held_out, sources)


def _initial_projection(recipe: VectorTuning, start: Start) -> NDArray[np.float32] | None:
    """Return the projection of the model, one of another size that begins as it, or a new one."""
    width = start.config.hidden_size
    stored: Sequence[Dense] = start.modules.get("projection" if start.late else "dense", ())
    if len(stored) > 1 or any(d.bias is not None or d.activation != "identity" for d in stored):
        what = "the model has other Dense modules than one without bias and activation"
        raise InputError(what, str(start.directory), "start from another model")
    size = recipe.size or (LATE_SIZE if recipe.task == "late" and not start.late else None)
    if size is None or (stored and stored[0].outputs == size):
        return stored[0].weight if stored else None
    if stored and stored[0].outputs > size:  # the directions in which vectors differ most
        _, values, axes = np.linalg.svd(stored[0].weight.astype(np.float64), full_matrices=False)
        return np.ascontiguousarray(values[:size, None] * axes[:size]).astype(np.float32)
    random = np.random.default_rng(recipe.seed).normal(size=(max(size, width), min(size, width)))
    axes, _ = np.linalg.qr(random)
    return np.ascontiguousarray(axes if size >= width else axes.T).astype(np.float32)


def _rows(model: "Embedder | LateEmbedder", recipe: VectorTuning, pairs: Pairs) -> TextRows:
    """Tokenize queries and documents, row by row."""
    documents = [text for own in pairs.documents for text in own]
    limits = {
        "query": recipe.query_length or model.max_length,
        "document": recipe.document_length or model.max_length,
    }
    found: dict[str, list[list[int]]] = {}
    truncated = 0
    texts_of: dict[Kind, list[str]] = {"query": pairs.queries, "document": documents}
    for kind, texts in texts_of.items():
        limit = min(limits[kind], model.max_length)
        if isinstance(model, LateEmbedder):
            whole = model.token_ids(texts, kind, max_length=model.max_length)
            ids = model.token_ids(texts, kind, max_length=limit)
        else:
            prompt = model.prompts.get(kind, "")
            whole = model.tokenizer.encode_batch([prompt + text for text in texts])
            ids = [model.tokenizer.truncate(each, limit) for each in whole]
        truncated += sum(len(a) < len(b) for a, b in zip(ids, whole, strict=True))
        found[kind] = ids
    ids, rest = [], iter(found["document"])
    for query, own in zip(found["query"], pairs.documents, strict=True):
        ids += [query, *(next(rest) for _ in own)]
    return TextRows(
        [np.array(text, np.int32) for text in ids],
        [1 + len(own) for own in pairs.documents],
        scores=[np.array(scores, np.float32) for scores in pairs.scores],
        truncated=truncated,
    )


class VectorProcess(TuningProcess[TextsBatch]):
    """A process of a run that trains for retrieval."""

    model: VectorModel
    train: TextRows

    def __init__(self, session: Session, plan: VectorPlan) -> None:
        super().__init__(session, plan)
        self.plan = plan
        self.train = plan.train.renumbered(plan.tokens)
        self.dev = plan.dev.renumbered(plan.tokens)

    def initial_model(self) -> VectorModel:
        """Return the model before the first step."""
        plan = self.plan
        projection = None
        if plan.projection is not None:
            size, width = plan.projection.shape
            projection = nn.Linear(width, size, bias=False)
            projection.weight = nn.Parameter(torch.from_numpy(plan.projection.copy()))
        of = plan.untrained.pooling if isinstance(plan.untrained, Embedder) else "tokens"
        model = VectorModel(plan.start.encoder(plan.recipe.seed), of, projection)
        self.keep_embeddings(model)
        return model

    def objective(self) -> JointObjective[TextsBatch]:
        """Return what the model is trained for."""
        recipe = self.plan.recipe
        if recipe.task == "late":
            return LateObjective(self.model, recipe.temperature or 1.0, recipe.scaled)
        dimensions = tuple(sorted({*recipe.dimensions, self.model.size}))
        return ContrastiveObjective(self.model, recipe.temperature or 0.05, dimensions)

    def dev_metrics(self) -> Metrics:
        """Return how well the documents of dev are ranked; see `VectorPlan.metric`."""
        rows = self.dev
        if self.plan.recipe.task == "late":
            scores = self._late_scores()
        else:
            own = vectors_of(self.model, self.model, rows.ids, self.stepper.dtype)
            is_query = np.zeros(len(own), bool)
            is_query[rows.starts[:-1]] = True
            scores = own[is_query] @ own[~is_query].T
        firsts = np.array(rows.starts[:-1]) - np.arange(len(rows))  # of each row's documents
        if rows.scores:
            right = [
                np.argmax(scores[n, first : first + len(wanted)]) == np.argmax(wanted)
                for n, (first, wanted) in enumerate(zip(firsts, rows.scores, strict=True))
            ]
            return {"accuracy": float(np.mean(right))}
        answers = scores[np.arange(len(rows)), firsts]
        ranks = (scores > answers[:, None]).sum(axis=1) + 1
        return {"MRR@10": float(np.where(ranks <= RANKS, 1 / ranks, 0).mean())}

    def _late_scores(self) -> NDArray[np.float32]:
        """Return the score of each document of dev for each query."""
        rows, starts = self.dev, set(self.dev.starts[:-1])
        found = outputs_of(self.model, self.model, rows.ids, self.stepper.dtype, per_token=True)
        documents = [own for n, own in enumerate(found) if n not in starts]
        packed = maxsim.pack(documents, self.model.size)
        return np.stack([maxsim.scores(found[n], *packed) for n in rows.starts[:-1]])


def finetune_vectors(
    recipe: VectorTuning,
    train: Pairs,
    dev: Pairs,
    out: Path,
    *,
    sources: dict[str, str] | None = None,
    caller: Caller = SILENT,
) -> dict[str, Any]:
    """Train a model for retrieval, or resume it, and write the one of the best epoch.

    Args:
        recipe: defines the run.
        train: rows to train on.
        dev: rows by which the best epoch is chosen.
        out: directory of the model; if it is that of the same run, nothing is computed.
        sources: where the rows are from, for the card.
        caller: who is told what the run does.

    Returns:
        The content of finetune.json.

    Raises:
        InputError: the model, the texts or the directory cannot be used.
        DivergedError: the loss is not finite.
        StoppedError: a signal or ``max_steps`` stopped it; its state is saved.
    """
    return run(
        lambda distributed: distributed.in_turns(lambda: plan(recipe, train, dev, sources or {})),
        VectorProcess, _write, out, recipe.timeout, caller,
    )  # fmt: skip


def _write(
    process: VectorProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the model of the best epoch, and return finetune.json."""
    made, model = process.plan, process.model
    model.load_state_dict(state.find(work, best.step).weights_and_optimizer_state()[0])
    metrics = process.dev_metrics()
    lines = list(run_log.read(work))
    info: dict[str, Any] = {
        "dev": metrics, "epoch": best.epoch,
        "curve": [line["evaluation"][made.metric] for line in lines if "evaluation" in line],
        "seconds": round(sum(line["seconds"] for line in lines), 1),
        "documents": {"train": len(made.train), "dev": len(made.dev)},
        "truncated": made.train.truncated, "sources": made.sources, **key,
        "motherbird": __version__, "machine": machine.describe(process.stepper.threads.count),
    }  # fmt: skip
    model, trained = model.cpu().eval(), made.untrained
    restore_embeddings(model.encoder, trained.encoder, made.tokens)
    trained.encoder.load_state_dict(model.encoder.state_dict())
    if model.projection is not None:
        dense = (Dense(model.projection.weight.detach().numpy()),)
        if isinstance(trained, Embedder):
            trained.dense = dense
        else:
            trained.projection = dense

    def write_more(directory: Path) -> None:
        text = json.dumps(info, indent=1, ensure_ascii=False) + "\n"
        (directory / INFO).write_text(text, encoding="utf-8")
        shutil.copyfile(work / run_log.LOG, directory / run_log.LOG)

    trained.save(out, write_more)
    return info
