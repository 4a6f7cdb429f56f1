"""Training for retrieval: a vector for each text ("dense"), or for each token ("late")."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from ...arrays import Float32
from ...core.measure import Metrics
from ...data.pairs import Pairs
from ...engine import maxsim
from ...errors import InputError, counted
from ...models.dense import Dense
from ...models.embedder import Embedder
from ...models.late_embedder import Kind, LateEmbedder
from ...models.modules import prompt_name
from ...nn.vectors import VectorModel
from ..objectives import JointObjective
from ..objectives.contrastive import ContrastiveObjective
from ..objectives.late import LateObjective
from ..objectives.texts import TextsBatch
from ..predict import outputs_of, vectors_of
from ..process import Session
from ..state import Best
from ..tuning_run import SILENT, Caller, run, write_info
from . import card
from .initial import Start, find_start
from .plan import VectorsPlan, VectorsProcess
from .recipe import LATE_SIZE, VectorTuning
from .rows import TextRows

DEV, MOST_DEV = 0.05, 500  # fraction and largest number of queries that are set aside
RANKS = 10  # of MRR@10


@dataclass(frozen=True, eq=False, kw_only=True)
class RetrievalPlan(VectorsPlan):
    """What a run trains on and with, before the first step."""

    recipe: VectorTuning
    untrained: "Embedder | LateEmbedder"  # the model before the first step, with the tokenizer
    projection: NDArray[np.float32] | None  # of the model before the first step

    @property
    def epochs(self) -> int:
        """The largest number of epochs."""
        return self.recipe.epochs_for(len(self.train))

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
            *self._expansion(),
            f"at most {counted(self.epochs, 'epoch')} of {counted(self.steps_per_epoch, 'step')}, "
            f"learning rate {recipe.peak(self.config):.2g}; the best epoch by {self.metric} on dev "
            "is kept",
        ]

    def _expansion(self) -> list[str]:
        if not isinstance(self.untrained, LateEmbedder) or self.untrained.expand_to is None:
            return []
        to = self.untrained.expand_to
        return [f"queries are filled up with [MASK] to {to} tokens, which all tokens see"]


def plan(recipe: VectorTuning, train: Pairs, dev: Pairs, sources: dict[str, str]) -> RetrievalPlan:
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
        untrained = LateEmbedder(encoder, dense, **_late_arguments(recipe, start))
        untrained.check_files()
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
    return RetrievalPlan(
        recipe=recipe, start=start, untrained=untrained, projection=projection, train=own,
        dev=held_out, sources=sources,
    )  # fmt: skip


def _late_arguments(recipe: VectorTuning, start: Start) -> dict[str, Any]:
    """Return arguments of LateEmbedder: those of the model, changed by the recipe."""
    found = dict(start.modules) if start.late else {}
    found.pop("projection", None)
    for name in ("query_length", "document_length", "max_length"):
        if (value := getattr(recipe, name)) is not None:
            found[name] = value
    if recipe.query_prompt or recipe.document_prompt:
        found["prompts"] = {"query": recipe.query_prompt, "document": recipe.document_prompt}
    if found.get("expand_to"):
        if length := found.get("query_length"):
            found["expand_to"] = min(length, found.get("max_length") or length)
        # All tokens see the masks in training, so that they do in the model that is saved.
        found["attend_to_expansion"] = True
    return found | {"add_prefixes": True}


def _initial_projection(recipe: VectorTuning, start: Start) -> NDArray[np.float32] | None:
    """Return the projection of the model, with fewer dimensions its main directions.

    It is a new one if the model has none, or for more dimensions.
    """
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
    limits = (
        model.lengths if isinstance(model, LateEmbedder)
        else {"query": recipe.query_length or model.max_length,
              "document": recipe.document_length or model.max_length}
    )  # fmt: skip
    found: dict[str, list[list[int]]] = {}
    truncated = 0
    texts_of: dict[Kind, list[str]] = {"query": pairs.queries, "document": documents}
    for kind, texts in texts_of.items():
        limit = min(limits[kind], model.max_length)
        if isinstance(model, LateEmbedder):
            pieces, cut = model.divide(texts, kind, limit)
            found[kind] = [piece.ids for piece in pieces]
        else:
            name = prompt_name(model.prompts, kind)
            prompt = "" if name is None else model.prompts[name]
            whole = model.tokenizer.encode_batch([prompt + text for text in texts])
            cut = sum(len(each) > limit for each in whole)
            found[kind] = [model.tokenizer.truncate(each, limit) for each in whole]
        truncated += cut
    ids, rest = [], iter(found["document"])
    for query, own in zip(found["query"], pairs.documents, strict=True):
        ids += [query, *(next(rest) for _ in own)]
    return TextRows(
        [np.array(text, np.int32) for text in ids],
        [1 + len(own) for own in pairs.documents],
        scores=[np.array(scores, np.float32) for scores in pairs.scores],
        truncated=truncated,
    )


def mean_reciprocal_rank(scores: Float32[np.ndarray, "n m"], starts: Sequence[int]) -> float:
    """Return MRR@10 of the first document of each row among all documents.

    Args:
        scores: of each document for the query of each row.
        starts: see `TextRows.starts`.
    """
    firsts = np.array(starts[:-1]) - np.arange(len(scores))  # of each row's documents
    answers = scores[np.arange(len(scores)), firsts]
    ranks = (scores > answers[:, None]).sum(axis=1) + 1
    return float(np.where(ranks <= RANKS, 1 / ranks, 0).mean())


class RetrievalProcess(VectorsProcess):
    """A process of a run that trains for retrieval."""

    def __init__(self, session: Session, plan: RetrievalPlan) -> None:
        super().__init__(session, plan)
        self.plan = plan
        # Ids of tokens of documents that have no vector.
        self.skipped = np.zeros(0, np.int64)
        if isinstance(plan.untrained, LateEmbedder):
            self.skipped = np.flatnonzero(np.isin(plan.tokens, plan.untrained.skipped_ids))

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
            skipped = tuple(self.skipped.tolist())
            return LateObjective(self.model, recipe.temperature or 1.0, recipe.scaled, skipped)
        dimensions = tuple(sorted({*recipe.dimensions, self.model.size}))
        return ContrastiveObjective(self.model, recipe.temperature or 0.05, dimensions)

    def dev_metrics(self) -> Metrics:
        """Return how well the documents of dev are ranked; see `RetrievalPlan.metric`."""
        rows, starts = self.dev, self.dev.starts
        is_query = np.zeros(len(rows.ids), bool)
        is_query[starts[:-1]] = True
        if self.plan.recipe.task == "late":
            found = self._token_vectors(is_query)
            if rows.scores:  # the documents of each row alone
                right = [
                    np.argmax(maxsim.maxsim_many(found[first], found[first + 1 : end]))
                    == np.argmax(wanted)
                    for (first, end), wanted in zip(pairwise(starts), rows.scores, strict=True)
                ]
                return {"accuracy": float(np.mean(right))}
            packed = maxsim.pack([found[n] for n in np.flatnonzero(~is_query)], self.model.size)
            scores = maxsim.scores([found[n] for n in starts[:-1]], *packed)
        else:
            own = vectors_of(self.model, self.model, rows.ids, self.stepper.dtype)
            scores = own[is_query] @ own[~is_query].T
        return {"MRR@10": mean_reciprocal_rank(scores, starts)}

    def _token_vectors(self, is_query: NDArray[np.bool_]) -> list[NDArray[np.float32]]:
        """Return the vectors of the tokens of each text of dev."""
        ids = self.dev.ids
        found = outputs_of(self.model, self.model, ids, self.stepper.dtype, per_token=True)
        return [
            vectors if of_query else vectors[~np.isin(own, self.skipped)]
            for vectors, own, of_query in zip(found, ids, is_query, strict=True)
        ]


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
        sources: where the rows of each part are from, for the card.
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
        RetrievalProcess, _write, out, recipe.timeout, caller,
    )  # fmt: skip


def _write(
    process: RetrievalProcess, best: Best, work: Path, out: Path, key: dict[str, Any]
) -> dict[str, Any]:
    """Write the model of the best epoch, and return finetune.json."""
    made, model = process.plan, process.model
    info = process.finish(made, best, work, key)
    trained = made.untrained
    trained.encoder.load_state_dict(model.encoder.state_dict())
    if model.projection is not None:
        dense = (Dense(model.projection.weight.detach().numpy()),)
        if isinstance(trained, Embedder):
            trained.dense = dense
        else:
            trained.projection = dense

    def write_more(directory: Path) -> None:
        write_info(directory, info, work)
        card.write(directory, out.absolute().name, made, info, trained)

    trained.save(out, write_more)
    return info
