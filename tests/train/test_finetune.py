"""Fine-tuning: it learns, it resumes exactly, and what it writes is what it measured."""

import json
import signal
import time
from dataclasses import replace

import numpy as np
import pytest
import torch
from easy_labels import TASKS, labelled, parts
from hypothesis import given
from hypothesis import strategies as st

from motherbird import Classifier, InputError, Scorer, Tagger
from motherbird.errors import DivergedError, OutputExistsError, StoppedError
from motherbird.files import sha256
from motherbird.nn import SequenceClassifier, TokenClassifier
from motherbird.train import state
from motherbird.train.examples import Examples
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """The number of threads decides how a step is divided, and with it the last bits."""
    torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _still_one_thread(_same_start):
    torch.set_num_threads(1)


BEST = {"single": "accuracy", "multi": "macro_f1", "number": "spearman", "tags": "entity_f1"}


@pytest.fixture
def recipe(base) -> FineTuning:
    return FineTuning(
        task="classify", model=str(base), epochs=6, batch_size=16, lr=4e-3, dtype="float32",
        save_every=4, patience=0, seed=3,
    )  # fmt: skip


@pytest.mark.parametrize("kind", TASKS)
def test_it_learns_what_is_easy(kind, recipe, tmp_path):
    found = finetune(replace(recipe, task=TASKS[kind]), parts(kind), tmp_path / "out")
    # Ties of the true numbers limit their correlation to 0.87.
    assert found["test"][BEST[kind]] > {"number": 0.75, "multi": 0.75}.get(kind, 0.9)
    head = TokenClassifier if kind == "tags" else SequenceClassifier
    model = head.load(tmp_path / "out", dtype="float32")
    assert model.labels == (tuple(found["labels"]) or ("score",))
    log = [json.loads(line) for line in (tmp_path / "out/log.jsonl").read_text().splitlines()]
    best = max(line["evaluation"][BEST[kind]] for line in log if "evaluation" in line)
    assert found["dev"][BEST[kind]] == pytest.approx(best)
    assert not list(tmp_path.glob(".*"))


@pytest.fixture(scope="module")
def whole(base, tmp_path_factory):
    """The SHA-256 of the weights, and finetune.json, of a run without stops."""
    out = tmp_path_factory.mktemp("whole") / "out"
    found = finetune(
        FineTuning(
            task="classify", model=str(base), epochs=6, batch_size=16, lr=4e-3, dtype="float32",
            save_every=4, patience=0, seed=3,
        ),
        parts("single"), out,
    )  # fmt: skip
    return sha256(out / "model.safetensors"), found


def same(found: dict, expected: dict) -> bool:
    times = ("seconds",)
    return {k: v for k, v in found.items() if k not in times} == {
        k: v for k, v in expected.items() if k not in times
    }


def test_a_run_that_stops_often_is_the_same(recipe, whole, tmp_path):
    out = tmp_path / "out"
    stops = 0
    while not out.exists():
        try:
            found = finetune(recipe, parts("single"), out, max_steps=5)
        except StoppedError:
            stops += 1
            assert (tmp_path / ".out.unfinished").is_dir()
    assert stops == 7
    assert sha256(out / "model.safetensors") == whole[0]
    assert same(found, whole[1])


def killed_often(recipe, out, forked, chance, kills: int) -> int:
    """Kill a run at random moments until it ends by itself, after at most ``kills`` kills."""
    done = 0
    while not out.exists():
        child = forked(lambda talk: finetune(recipe, parts("single"), out)["epoch"])
        if done < kills:
            time.sleep(chance.uniform(0.05, 1.5))
            child.kill()
        done += child.wait() == -signal.SIGKILL
    return done


@pytest.mark.parametrize("kills", [3, pytest.param(20, marks=pytest.mark.slow)])
def test_a_run_that_is_killed_often_is_the_same(kills, recipe, whole, forked, tmp_path):
    chance, done, chain = np.random.default_rng(kills), 0, 0
    while done < kills:
        chain += 1
        out = tmp_path / f"out-{chain}"
        done += killed_often(recipe, out, forked, chance, min(5, kills - done))
        assert sha256(out / "model.safetensors") == whole[0]
        assert same(json.loads((out / "finetune.json").read_text()), whole[1])


def test_a_finished_run_is_not_computed_again(recipe, tmp_path):
    short = replace(recipe, epochs=1)
    first = finetune(short, parts("single"), tmp_path / "out")
    assert finetune(short, parts("single"), tmp_path / "out") == first
    with pytest.raises(OutputExistsError, match="another run"):
        finetune(replace(short, seed=4), parts("single"), tmp_path / "out")
    other = replace(parts("single"), test=labelled("single", 40, 9))
    with pytest.raises(OutputExistsError, match="another run"):
        finetune(short, other, tmp_path / "out")


def test_early_stopping_keeps_the_best_epoch(recipe, tmp_path):
    """With a rate of almost 0 nothing improves after the first epoch."""
    found = finetune(replace(recipe, lr=1e-12, patience=2), parts("single"), tmp_path / "out")
    assert found["epoch"] == 1
    log = (tmp_path / "out/log.jsonl").read_text().splitlines()
    assert len(log) == 3 * 6  # of 6 epochs


def test_a_label_of_dev_that_train_lacks_counts_as_wrong(recipe, tmp_path):
    good = parts("single")
    dev = replace(good.dev, labels=["unseen", *good.dev.labels[1:]])
    found = finetune(recipe, replace(good, dev=dev), tmp_path / "out")
    assert found["dev"]["accuracy"] == pytest.approx(39 / 40)


@given(
    lengths=st.lists(st.integers(1, 90), min_size=1, max_size=40),
    parts=st.integers(1, 4),
    ranks=st.integers(1, 3),
    micro_tokens=st.integers(8, 200),
)
def test_micro_batches(lengths, parts, ranks, micro_tokens):
    """Each document once, as many batches on each rank, and none too large."""
    examples = Examples(
        "single",
        [np.full(n, number, np.int32) for number, n in enumerate(lengths)],
        [np.array(number, np.int64) for number in range(len(lengths))],
    )
    batches = examples.micro_batches(range(len(lengths)), micro_tokens, parts * ranks, ranks)
    assert len(batches) % ranks == 0
    counted = [batch for batch in batches if batch.counts]
    assert sorted(t for batch in counted for t in batch.targets.tolist()) == list(
        range(len(lengths))
    )
    for batch in counted:
        assert len(batch.packed.ids) <= micro_tokens or len(batch.packed.lengths) == 1
        assert (
            batch.packed.ids[batch.packed.cu_seqlens[:-1].long()].tolist() == batch.targets.tolist()
        )


def test_layers_below_learn_slower():
    recipe = FineTuning(task="tag", layer_decay=0.5)
    names = ("classifier.weight", "model.layers.3.mlp.Wi.weight", "model.layers.0.attn.Wo.weight",
             "model.embeddings.norm.weight")  # fmt: skip
    assert [recipe.layer_scale(name, 4) for name in names] == [1, 1, 0.125, 0.0625]


@pytest.mark.parametrize("kind", TASKS)
def test_fit_and_evaluate_in_python(kind, base, tmp_path):
    """Metrics of the engine on dev are those that training measured with torch."""
    cls = {"classify": Classifier, "score": Scorer, "tag": Tagger}[TASKS[kind]]
    train, dev = labelled(kind, 96, 1), labelled(kind, 40, 2)
    model = cls.fit(
        train.texts, train.labels, tmp_path / "out", dev=(dev.texts, dev.labels), model=str(base),
        epochs=6, batch_size=16, lr=4e-3, dtype="float32",
    )  # fmt: skip
    measured = json.loads((tmp_path / "out/finetune.json").read_text())["dev"]
    found = cls.load(tmp_path / "out", dtype="float32").evaluate(dev.texts, dev.labels)
    assert found.keys() == measured.keys()
    for name in found:
        assert found[name] == pytest.approx(measured[name], abs=1e-3), name
    names = sorted(train.names(), key=lambda name: name != "O" if kind == "tags" else 0)
    assert model.labels == tuple(names or ["score"])
    with pytest.raises(InputError, match="one"):
        model.evaluate(dev.texts, dev.labels[1:])
    with pytest.raises(InputError, match="40 texts and 39 labels"):
        cls.fit(dev.texts, dev.labels[1:], tmp_path / "other", model=str(base))
    with pytest.raises(InputError, match="did you mean epochs"):
        cls.fit(train.texts, train.labels, tmp_path / "other", model=str(base), epoch=1)


def test_a_metric_that_is_not_measured_is_refused(recipe, tmp_path):
    with pytest.raises(InputError, match="entity_f1 is not measured"):
        finetune(replace(recipe, metric="entity_f1"), parts("single"), tmp_path / "out")
    found = finetune(replace(recipe, metric="auc", epochs=1), parts("single"), tmp_path / "out")
    assert found["dev"]["auc"] is not None


def test_thresholds_of_labels(recipe, tmp_path):
    """They are the best on dev, and `predict`, `evaluate` and `save` use them."""
    own, out = parts("multi"), tmp_path / "out"
    plain = finetune(replace(recipe, epochs=2), own, tmp_path / "plain")
    found = finetune(replace(recipe, epochs=2, thresholds=True), own, out)
    assert plain["thresholds"] == {} and set(found["thresholds"]) == {"good", "file"}
    assert set(found["thresholds"].values()) != {0.5}
    assert found["dev"]["macro_f1"] > plain["dev"]["macro_f1"]
    assert found["dev"]["loss"] == plain["dev"]["loss"]
    model = Classifier.load(out, dtype="float32")
    assert model.head_config.thresholds == found["thresholds"]
    probabilities = model.probabilities(own.test.texts)
    for prediction, row in zip(model.predict(own.test.texts), probabilities, strict=True):
        cuts = zip(model.labels, row, strict=True)
        assert {*prediction.labels} == {n for n, p in cuts if p >= found["thresholds"][n]}
    measured = model.evaluate(own.test.texts, own.test.labels)
    assert measured == pytest.approx(found["test"], abs=1e-4)
    model.save(tmp_path / "saved")
    assert Classifier.load(tmp_path / "saved").head_config == model.head_config
    with pytest.raises(InputError, match="thresholds is for texts with any number of labels"):
        finetune(replace(recipe, thresholds=True), parts("single"), tmp_path / "single")


def test_labels_that_are_integers(base, tmp_path):
    """NumPy's, as a column of a DataFrame gives them; a cross-encoder's are labels too."""
    data = labelled("single", 60, 1)
    numbers = np.array([label == "good" for label in data.labels]).astype(int)
    settings = {"model": str(base), "epochs": 6, "batch_size": 16, "lr": 4e-3, "dtype": "float32"}
    model = Classifier.fit(data.texts, numbers, tmp_path / "one", **settings)
    assert model.labels == ("0", "1")
    assert model.evaluate(data.texts, numbers)["accuracy"] > 0.9
    pairs = [(text, "good") for text in data.texts]
    scorer = Scorer.fit(pairs, numbers.astype(float), tmp_path / "two", **settings)
    assert scorer.head_config.kind == "number"
    scorer = Scorer.fit(pairs, numbers, tmp_path / "three", **settings)
    assert scorer.labels == ("0", "1") and scorer.head_config.kind == "single"
    assert scorer.evaluate(pairs, numbers)["accuracy"] > 0.9


def test_unfinished_work_of_other_settings_is_kept(recipe, tmp_path):
    with pytest.raises(StoppedError):
        finetune(recipe, parts("single"), tmp_path / "out", max_steps=7)
    before = sorted(path.name for path in (tmp_path / ".out.unfinished/checkpoints").iterdir())
    with pytest.raises(InputError, match="unfinished run of other settings"):
        finetune(replace(recipe, seed=4), parts("single"), tmp_path / "out")
    assert before == sorted(p.name for p in (tmp_path / ".out.unfinished/checkpoints").iterdir())
    again = replace(recipe, save_every=3)  # changes nothing of the result
    with pytest.raises(StoppedError, match="step 8"):
        finetune(again, parts("single"), tmp_path / "out", max_steps=1)


def test_a_run_that_diverges_says_so(recipe, tmp_path):
    with pytest.raises(DivergedError, match="use a lower learning rate"):
        finetune(replace(recipe, lr=1e30, warm_up=0.0), parts("single"), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_best_checkpoint_is_kept_until_a_better_one_is_written(recipe, tmp_path, monkeypatch):
    """A disk that is full once ends the run; the next call resumes it."""
    real, calls = state.save, []

    def save(*arguments):
        calls.append(arguments)
        if len(calls) == 6:
            raise OSError(28, "No space left on device")
        real(*arguments)

    monkeypatch.setattr(state, "save", save)
    with pytest.raises(OSError, match="No space"):
        finetune(recipe, parts("single"), tmp_path / "out")
    finetune(recipe, parts("single"), tmp_path / "out")
    assert (tmp_path / "out/model.safetensors").is_file()
