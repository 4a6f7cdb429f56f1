"""What a fine-tuned model says about itself: README.md and report.html."""

import json
import re
from dataclasses import replace

import numpy as np
import pytest
from easy_labels import labelled, parts
from html_page import check_alone

from motherbird import Classifier
from motherbird.data.labelled import Labelled
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Parts

pytestmark = pytest.mark.usefixtures("unchecked")

KINDS = ["single", "multi", "number", "tags", "pairs"]


@pytest.fixture
def recipe(base):
    return FineTuning(
        "classify", model=str(base), epochs=3, batch_size=16, lr=4e-3, dtype="float32"
    )


def read(model, name):
    return (model / name).read_text(encoding="utf-8")


# --- the card


@pytest.mark.parametrize("kind", KINDS)
def test_the_card(kind, finetuned):
    hub = pytest.importorskip("huggingface_hub")
    model = finetuned(kind)
    card = hub.ModelCard(read(model, "README.md"))
    about = card.data.to_dict()
    pair = kind in ("number", "pairs")
    assert about["library_name"] == ("sentence-transformers" if pair else "transformers")
    assert about["pipeline_tag"] == {
        "number": "text-ranking", "tags": "token-classification"
    }.get(kind, "text-classification")  # fmt: skip
    assert "base_model" not in about  # it is a directory
    wanted = {
        "single": ["accuracy", "f1", "matthews_correlation", "roc_auc"],
        "multi": ["accuracy", "f1", "roc_auc"], "number": ["spearmanr"], "tags": ["f1", "accuracy"],
    }  # fmt: skip
    assert about["metrics"] == wanted[{"pairs": "single"}.get(kind, kind)]
    info = json.loads(read(model, "finetune.json"))
    for name, value in info["test"].items():
        assert f"| {name} | {info['dev'][name]:.4f} | {value:.4f} |\n" in card.text
    label = {"single": "bad", "multi": "file", "tags": "J", "pairs": "other"}.get(kind)
    if label is not None:  # of texts with tags, each has one span
        own = parts(kind, dev=60)
        counts = [len(part) if kind == "tags" else sum(label in each for each in part.labels)
                  for part in (own.train, own.dev, own.test)]  # fmt: skip
        assert f"| {label} | {' | '.join(map(str, counts))} |\n" in card.text
    assert "lr = 0.004\n" in card.text and "epochs = 4\n" in card.text
    assert "patience" not in card.text  # it is the default
    assert f"temperature {info['temperature']}" in card.text or info["temperature"] == 1


@pytest.mark.parametrize("kind", KINDS)
def test_the_code_of_the_card_runs(kind, finetuned, monkeypatch, capsys):
    pytest.importorskip("transformers")
    pytest.importorskip("sentence_transformers")
    model = finetuned(kind)
    monkeypatch.chdir(model.parent)
    blocks = re.findall(r"```python\n(.*?)```", read(model, "README.md"), re.DOTALL)
    assert len(blocks) == 2
    for code in blocks:
        exec(code, {})
    assert len(capsys.readouterr().out.splitlines()) >= 2


def test_the_card_of_lists(base, tmp_path):
    data = labelled("single", 20, 1)
    settings = {"model": "motherbird-nano", "epochs": 1, "max_length": 8}
    Classifier.fit(data.texts, data.labels, tmp_path / "out", **settings)
    text = read(tmp_path / "out", "README.md")
    assert "base_model" not in text  # the included model is not one of the Hub
    out = str(tmp_path / "out")
    call = f"Classifier.fit(texts, labels, {out!r}, model='motherbird-nano', epochs=1, max_length=8"
    assert call in text
    assert "| train | lists | 18 |" in text and "| dev | 10% of train | 2 |" in text
    assert "truncated to 8 tokens" in text and "they need 50 texts in dev" in text


def test_labels_and_texts_are_escaped(recipe, tmp_path):
    """In a table of Markdown, and in HTML; matplotlib does not read $ as mathematics."""
    names = {"good": "<b>a|b</b>\n$x$", "bad": "<script>alert(1)</script>"}

    def rename(data):
        texts = [f"{text} <img src=x> \0" for text in data.texts]
        return Labelled(texts, [names[label] for label in data.labels], data.where, "single")

    own = parts("single")
    own = Parts(rename(own.train), rename(own.dev), rename(own.test))
    finetune(replace(recipe, epochs=1), own, tmp_path / "out")
    assert "| <b>a/b</b> $x$ |" in read(tmp_path / "out", "README.md")
    page = check_alone(read(tmp_path / "out", "report.html"))
    assert not {"b", "img"} & page.tags
    assert "<img src=x>" in page.text and "alert(1)" in page.text


def test_many_labels(recipe, tmp_path):
    """The card lists the first labels, and the report the most frequent confusions."""
    draw = np.random.default_rng(0)
    words = [f"word{n}" for n in range(250)]

    def some(count):
        texts = [f"a {word} of text" for word in draw.choice(words, count)]
        labels = [str(draw.choice([text.split()[1], "word0"])) for text in texts]
        return Labelled(texts, labels, [f"row {n}" for n in range(count)], "single")

    train = Labelled([f"a {w} of text" for w in words], words, words, "single")
    finetune(replace(recipe, epochs=1), Parts(train, some(60)), tmp_path / "out")
    assert "| 50 more |  |  |\n" in read(tmp_path / "out", "README.md")
    page = check_alone(read(tmp_path / "out", "report.html"))
    assert "The most frequent ones." in page.text
    rows = page.rows[page.rows.index(["true", "predicted", "texts"]) + 1 :]
    counts = [int(row[2]) for row in rows if len(row) == 3 and row[2].isdigit()]
    assert 0 < len(counts) <= 20 and counts == sorted(counts, reverse=True)


# --- the report


@pytest.mark.parametrize("kind", KINDS)
def test_the_report(kind, finetuned):
    model = finetuned(kind)
    page = check_alone(read(model, "report.html"))
    info = json.loads(read(model, "finetune.json"))
    for name, value in info["test"].items():
        assert [name, f"{info['dev'][name]:.4f}", f"{value:.4f}"] in page.rows
    assert ["epoch 4"] in [row[:1] for row in page.rows]
    for words in (
        "loss",
        "learning rate",
        "held out",
        f"Epoch {info['epoch']}, the best of at most 4",
    ):
        assert words in page.text, words
    for words, kinds in (
        ("Confusions of test", {"single", "pairs"}),
        ("Calibration", {"single", "pairs", "multi"}),
        ("Numbers of test", {"number"}),
        ("Spans of test that are missed or wrong", {"tags"}),
        ("Wrong predictions of test with the highest loss", {"single", "pairs", "multi", "number"}),
    ):
        assert (words in page.text) == (kind in kinds), words


def rows_after(page, head):
    """The rows of a table, by its head."""
    start = page.rows.index(head) + 1
    return [row for row in page.rows[start:] if len(row) == len(head)]


def test_figures_of_the_report(finetuned):
    """Compared with scikit-learn, for the predictions of the engine."""
    sklearn = pytest.importorskip("sklearn.metrics")
    model, test = finetuned("single"), parts("single").test
    page = check_alone(read(model, "report.html"))
    classifier = Classifier.load(model, dtype="float32")
    predicted = [each.label for each in classifier.predict(test.texts)]
    matrix = sklearn.confusion_matrix(test.labels, predicted, labels=["bad", "good"])
    assert ["bad", *map(str, matrix[0])] in page.rows
    assert ["good", *map(str, matrix[1])] in page.rows
    scores = sklearn.precision_recall_fscore_support(test.labels, predicted, labels=["bad"])
    row = next(row for row in page.rows if row[0] == "bad" and len(row) == 7)
    assert row[4:] == [f"{float(scores[n][0]):.3f}" for n in range(3)]


def test_wrong_predictions_of_the_report(recipe, tmp_path):
    """25 labels of test are wrong, and the model is right about almost all."""
    own = parts("single")
    other = {"good": "bad", "bad": "good"}
    labels = [other[x] if n < 25 else x for n, x in enumerate(own.test.labels)]
    test = replace(own.test, labels=labels)
    finetune(recipe, replace(own, test=test), tmp_path / "out")
    classifier = Classifier.load(tmp_path / "out", dtype="float32")
    rows = check_alone(read(tmp_path / "out", "report.html")).rows
    shown = [row for row in rows if len(row) == 5 and row[0].startswith("row ")]
    order = [int(row[0].split()[1]) for row in shown]
    predicted = [each.label for each in classifier.predict(test.texts)]
    losses = -np.log(classifier.probabilities(test.texts))
    losses = {
        n: losses[n, classifier.labels.index(labels[n])]
        for n in range(len(labels)) if predicted[n] != labels[n]
    }  # fmt: skip
    assert len(losses) > 20 == len(order) and min(losses[n] for n in order) > 0
    assert [losses[n] for n in order] == sorted(losses.values(), reverse=True)[:20]
    assert shown[0][1:4] == [test.texts[order[0]], labels[order[0]], predicted[order[0]]]


def test_a_run_without_known_labels_in_dev(recipe, tmp_path):
    """The run does not fail after training because there is nothing to measure."""
    own = parts("single")
    unknown = replace(own.dev, labels=["else"] * len(own.dev))
    finetune(replace(recipe, epochs=1), Parts(own.train, unknown), tmp_path / "out")
    page = check_alone(read(tmp_path / "out", "report.html"))
    assert ["loss", "-"] in page.rows


def test_a_report_of_few_texts(recipe, tmp_path):
    own = replace(parts("tags"), test=None)
    found = finetune(replace(recipe, task="tag"), replace(own, dev=own.dev.select([0])),
                     tmp_path / "out")  # fmt: skip
    assert found["dev"]["accuracy"] is not None
    check_alone(read(tmp_path / "out", "report.html"))
