"""Parity with transformers: two loss curves, equal at every step.

One side is `pretrain` itself and its log.jsonl. The other is a plain loop over transformers: the
same rows and masks, every document a row of a padded batch, torch-optimi's StableAdamW, and a
separate formula for the learning rate. Large initial weights and a high rate make mistakes visible;
each control makes one.
"""

import json
import platform
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import optimi
import pytest
import torch
import transformers
from torch.nn.utils.rnn import pad_sequence

from motherbird import machine
from motherbird.core import bpe
from motherbird.data import stdlib
from motherbird.data.loader import Cursor, Loader, RowFilter, masking_of
from motherbird.data.prepare import prepare
from motherbird.data.prepared import PreparedDataset
from motherbird.train import init_weights, run_log
from motherbird.train.phase import Phase
from motherbird.train.pretrain import pretrain
from motherbird.train.recipe import Evaluate, Geometry, Recipe, Save, Train

SAME, DIFFERENT = 1e-5, 1e-4  # relative, of a step's loss
REPORT = Path(__file__).parents[2] / "benchmarks" / "parity_pretraining.json"


def recipe_of(geometry: Geometry, steps: int, seq_len: int, rows: int, lr: float) -> Recipe:
    """A run of one phase with warm-up, constant rate and decay; float32, without dropout."""
    tokens = steps * rows * seq_len
    phase = Phase(
        "only", tokens, seq_len, rows, warm_up=tokens // 10, decay=tokens // 2, final=0.01
    )
    return Recipe(
        (phase,),
        Train(lr, weight_decay=9e-4, micro_tokens=seq_len * rows // 2, dtype="float32", workers=0),
        geometry,
        save=Save(every=0),
        evaluate=Evaluate(every=0, tokens=128),
        seed=17,
    )


def write_documents(texts: list[str], path: Path) -> None:
    """Write documents of one to eight paragraphs."""
    with path.open("w", encoding="utf-8") as file:
        for text in texts:
            paragraphs = iter(text.split("\n\n"))
            for size in range(1, 1000):
                taken = "\n\n".join(islice(paragraphs, 1 + size % 8))
                if not taken:
                    break
                file.write(json.dumps({"text": taken}) + "\n")


@dataclass
class Ours:
    """The result of `pretrain`, and what the other loop needs to do the same."""

    recipe: Recipe
    prepared: PreparedDataset
    weights: Path
    losses: list[float]


def train_ours(recipe: Recipe, prepared: PreparedDataset, folder: Path) -> Ours:
    """Train a whole run, and save its initial weights for transformers."""
    torch.set_num_threads(1)
    run = folder / "run"
    pretrain(recipe, prepared.directory, run)
    lines = run_log.read(run)
    assert [line["step"] for line in lines] == list(range(1, recipe.steps() + 1))
    assert all(line["verdict"] == "apply" for line in lines)
    init_weights.model_of_run(run, 0)[0].save(folder / "weights")
    return Ours(recipe, prepared, folder / "weights", [line["loss"] for line in lines])


@dataclass
class Mistake:
    """What the other loop does differently; nothing by default."""

    theta: float | None = None
    window: int = 0
    joined: bool = False
    shown: int = 0
    late: int = 0
    decay_vectors: bool = False


def rate(recipe: Recipe, step: int) -> float:
    """The trapezoid again: a linear warm-up, the peak, and a 1 - sqrt decay."""
    [phase] = recipe.phases
    tokens = step * phase.rows * phase.seq_len
    fallen = max(0.0, (tokens - phase.tokens + phase.decay) / phase.decay)
    share = phase.final + (1 - phase.final) * (1 - fallen**0.5)
    return recipe.train.lr * min(1.0, tokens / phase.warm_up) * share


def model_of(ours: Ours, mistake: Mistake) -> torch.nn.Module:
    config = transformers.ModernBertConfig.from_pretrained(ours.weights)
    config.sparse_prediction = True
    if mistake.theta:
        config.rope_parameters["sliding_attention"]["rope_theta"] = mistake.theta
    config.local_attention += 2 * mistake.window
    model = transformers.ModernBertForMaskedLM.from_pretrained(
        ours.weights, config=config, attn_implementation="sdpa", dtype=torch.float32
    )
    assert model.config._attn_implementation == "sdpa"
    return model.train()


def train_theirs(ours: Ours, mistake: Mistake = Mistake(), steps: int | None = None) -> list[float]:  # noqa: B008
    """Return the losses of the plain loop."""
    torch.set_num_threads(1)
    [phase], train = ours.recipe.phases, ours.recipe.train
    model = model_of(ours, mistake)
    decayed = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    optimizer = optimi.StableAdamW(
        [
            {"params": decayed},
            {"params": others, "weight_decay": train.weight_decay if mistake.decay_vectors else 0},
        ],
        lr=train.lr, betas=(0.9, 0.98), eps=1e-6, weight_decay=train.weight_decay,
        decouple_lr=True, max_lr=train.lr, foreach=False, triton=False,
    )  # fmt: skip
    loader = Loader(
        ours.prepared, RowFilter(phase.seq_len), Cursor(ours.recipe.seed),
        masking_of(ours.prepared, train.masking), lambda _: phase.rows,
    )  # fmt: skip
    losses = []
    for step, batch in enumerate(islice(loader, steps or ours.recipe.steps())):
        ids, targets = torch.tensor(batch.ids), torch.tensor(batch.targets)
        places = torch.tensor(batch.positions)
        labels = torch.full_like(ids, -100).index_copy(0, places, targets)
        ids[places[: mistake.shown]] = targets[: mistake.shown]
        lengths = (batch.row_tokens if mistake.joined else batch.lengths).tolist()
        documents = sorted(
            zip(ids.split(lengths), labels.split(lengths), strict=True), key=lambda d: len(d[0])
        )
        loss = 0.0
        for first in range(0, len(documents), 8):
            fed, wanted = zip(*documents[first : first + 8], strict=True)
            part = model(
                input_ids=pad_sequence(fed, batch_first=True, padding_value=0),
                attention_mask=pad_sequence([torch.ones_like(each) for each in fed], True),
                labels=pad_sequence(wanted, batch_first=True, padding_value=-100),
                num_items_in_batch=len(targets),
            ).loss
            part.backward()
            loss += part.item()
        losses.append(loss)
        for group in optimizer.param_groups:
            group["lr"] = rate(ours.recipe, step - mistake.late if step else 0)
        optimizer.step()
        optimizer.zero_grad()
    return losses


def apart(one: list[float], other: list[float]) -> float:
    """Return the largest relative difference of two curves, up to the end of the shorter."""
    return max(abs(a - b) / b for a, b in zip(one, other, strict=False))


@pytest.fixture(scope="module")
def small(prose, small_tokenizer, tmp_path_factory) -> Ours:
    folder = tmp_path_factory.mktemp("parity")
    write_documents(prose, folder / "text.jsonl")
    small_tokenizer.save(folder / "tokenizer")
    prepared = prepare(folder / "text.jsonl", folder / "tokenizer", folder / "set", [128])
    geometry = Geometry(
        hidden_size=64, intermediate_size=96, num_hidden_layers=4, num_attention_heads=2,
        local_attention=16, initializer_range=0.125, dropout=0.0,
    )  # fmt: skip
    return train_ours(recipe_of(geometry, 30, 128, 8, 4e-3), prepared, folder)


def test_the_same_curve(small):
    theirs = train_theirs(small)
    assert len(theirs) == len(small.losses) == 30
    assert apart(small.losses, theirs) <= SAME
    assert small.losses[-1] < small.losses[0] - 0.5  # it learns, so the comparison means something


@pytest.mark.parametrize(
    "mistake",
    [
        Mistake(theta=160_000.0), Mistake(window=1), Mistake(joined=True), Mistake(shown=1),
        Mistake(late=1), Mistake(decay_vectors=True),
    ],
    ids=["theta", "window", "joined", "one token shown", "rate", "decay of norms"],
)  # fmt: skip
def test_a_mistake_is_seen(mistake, small):
    assert apart(small.losses, train_theirs(small, mistake, 12)) > DIFFERENT


@pytest.mark.slow
def test_the_same_curve_of_nano(tmp_path):
    """7 layers of 320, vocabulary 32,768, 100 steps of 2,048 tokens."""
    texts = [document.text for document in stdlib.read()]
    bpe.train(texts, 32_768).save(tmp_path / "tokenizer")
    write_documents(texts, tmp_path / "text.jsonl")
    prepared = prepare(tmp_path / "text.jsonl", tmp_path / "tokenizer", tmp_path / "set", [512])
    geometry = Geometry("nano", initializer_range=320**-0.5, dropout=0.0)
    ours = train_ours(recipe_of(geometry, 100, 512, 4, 1e-3), prepared, tmp_path)
    theirs = train_theirs(ours)
    config = transformers.ModernBertConfig.from_pretrained(ours.weights)
    shape = [config.num_hidden_layers, config.hidden_size, config.vocab_size]
    assert shape == [7, 320, 32_768]
    mistaken = train_theirs(ours, Mistake(theta=160_000.0), 12)
    report = {
        "command": "pytest tests/peers/test_pretraining.py -m slow",
        "machine": machine.describe(1),
        "python": platform.python_version(),
        "geometry": "nano: 7 layers of 320, vocabulary 32,768; float32, one thread, no dropout",
        "data": "sources of the standard library, documents intact, 4 rows of 512 a step",
        "allowed": SAME,
        "largest_relative_difference": apart(ours.losses, theirs),
        "largest_relative_difference_with_a_wrong_local_theta_in_12_steps": apart(
            ours.losses, mistaken
        ),
        "motherbird": ours.losses,
        "transformers": theirs,
    }
    REPORT.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    assert apart(ours.losses, theirs) <= SAME
    assert apart(ours.losses, mistaken) > DIFFERENT
