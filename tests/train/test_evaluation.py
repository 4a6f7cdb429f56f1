"""Evaluation on held-out rows gives the model's loss, the same every time."""

import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird.core import bpe
from motherbird.data.loader import RowFilter
from motherbird.data.prepare import prepare
from motherbird.data.prepared import PreparedDataset
from motherbird.errors import InputError
from motherbird.nn import MaskedLM
from motherbird.train import run_log
from motherbird.train.evaluation import (
    TextEvaluation,
    evaluate,
    evaluate_by_source,
    held_out_batches,
    unigram_entropy,
)

HELD_OUT = RowFilter(64, held_out=True)


@pytest.fixture
def model(tiny, smoke_set):
    torch.manual_seed(0)
    return MaskedLM(tiny.model.config(PreparedDataset(smoke_set).tokenizer))


def figures(batches, model, threads=1):
    torch.set_num_threads(threads)
    return evaluate(model, batches)


def test_loss_and_accuracy_are_the_models(model, smoke_set):
    held_out = held_out_batches(PreparedDataset(smoke_set), HELD_OUT, 6, 2, 0.15)
    assert len(held_out) == 3
    model.train()
    found = figures(held_out, model)
    assert model.training
    model.eval()
    loss = right = masked = 0.0
    for batch in held_out:
        with torch.no_grad():
            logits = model(batch.packed, batch.positions)
            loss += float(model.loss(batch.packed, batch.positions, batch.targets))
        right += int((logits.argmax(-1) == batch.targets).sum())
        masked += len(batch.positions)
    assert found.masked == masked and found.accuracy == pytest.approx(right / masked)
    assert found.loss == pytest.approx(loss / masked, rel=1e-6)
    tokens = sum(len(batch.packed.ids) for batch in held_out)
    assert 0.08 < masked / tokens < 0.2


def test_threads_and_repetition_change_nothing(model, smoke_set):
    held_out = held_out_batches(PreparedDataset(smoke_set), HELD_OUT, 7, 2, 0.15)
    again = held_out_batches(PreparedDataset(smoke_set), HELD_OUT, 7, 2, 0.15)
    assert figures(held_out, model) == figures(again, model) == figures(held_out, model, 2)


def test_nothing_held_out_is_no_evaluation(tiny, smoke_set, train, tmp_path):
    home = smoke_set.parent
    prepare(home / "library", home / "tokenizer", tmp_path / "set", [64, 256])
    assert not held_out_batches(PreparedDataset(tmp_path / "set"), HELD_OUT, 6, 2, 0.15)
    train(replace(tiny, evaluate=replace(tiny.evaluate, every=1)), tmp_path / "set",
          tmp_path / "run", steps=2)  # fmt: skip
    assert all("evaluation" not in line for line in run_log.read(tmp_path / "run"))


def test_evaluate_by_source_counts_what_is_there(model, smoke_set):
    prepared = PreparedDataset(smoke_set)
    model.model.tokenizer = prepared.tokenizer
    found = dict(evaluate_by_source(model, prepared, 64, tokens=10**6, rate=0.15))
    names = [name for name, about in prepared.about.sources.items() if about.held_out]
    assert list(found) == [*names, "all"]
    ids, _, _ = prepared.rows(64, held_out=True).gather(
        range(len(prepared.rows(64, held_out=True)))
    )
    text = ids[~np.isin(ids, prepared.tokenizer.special_ids)].tolist()
    every = found["all"]
    assert every.unigram == pytest.approx(unigram_entropy([text], []))
    assert every.bytes_per_token == len(prepared.tokenizer.decode(text).encode()) / len(text)
    assert every.nats_per_byte == every.loss / every.bytes_per_token
    # Untrained, so the loss is about that of a uniform distribution over the vocabulary.
    assert every.loss == pytest.approx(math.log(model.model.config.vocab_size), abs=1.0)
    assert 0.08 < every.masked / len(text) < 0.2


@pytest.fixture
def short_texts(tmp_path, smoke_set):
    """A dataset of two sources; all held-out text of one is two tokens."""
    home = smoke_set.parent
    for name, texts in (("long", [f"word {n} " * 300 for n in range(20)]), ("short", ["a", "b"])):
        (tmp_path / name).mkdir()
        for number, text in enumerate(texts):
            (tmp_path / name / f"{number}.txt").write_text(text)
    (tmp_path / "m.toml").write_text(
        '[[source]]\nname = "long"\npath = "long"\n[[source]]\nname = "short"\npath = "short"\n'
    )
    return prepare(
        tmp_path / "m.toml", home / "tokenizer", tmp_path / "set", [64, 256], held_out=0.6
    )


def test_no_masked_token_is_no_loss(model, short_texts):
    """It is None for that source, and does not hide what was measured for others."""
    assert short_texts.about.sources["short"].held_out == 2
    found = dict(evaluate_by_source(model, short_texts, 64, tokens=10**5, rate=0.01))
    assert found["short"] == TextEvaluation()
    assert found["short"].masked == 0 and found["short"].gain is None
    assert found["short"].nats_per_byte is None
    assert found["long"].loss > 0 and found["all"].masked == found["long"].masked > 0


def test_a_run_whose_held_out_text_has_no_masked_token(tiny, short_texts, train, tmp_path):
    """It is not evaluated, and goes on."""
    few = replace(tiny.evaluate, every=1, tokens=1, masking=1e-9)
    train(replace(tiny, evaluate=few), short_texts.directory, tmp_path / "run", steps=2)
    assert all("evaluation" not in line for line in run_log.read(tmp_path / "run"))


def test_another_tokenizer_is_refused(model, smoke_set):
    model.model.tokenizer = bpe.train([" ".join(map(str, range(5000)))], 384)
    prepared = PreparedDataset(smoke_set)
    says = "tokenizer is not the dataset's: .*: prepare the text with --tokenizer ./own$"
    with pytest.raises(InputError, match=says):
        next(evaluate_by_source(model, prepared, 64, tokens=100, rate=0.15, model_name="./own"))


def test_nothing_held_out_is_refused(model, smoke_set, tmp_path):
    home = smoke_set.parent
    prepare(home / "library", home / "tokenizer", tmp_path / "set", [64, 256])
    with pytest.raises(InputError, match="no held-out documents"):
        list(
            evaluate_by_source(model, PreparedDataset(tmp_path / "set"), 64, tokens=100, rate=0.15)
        )
