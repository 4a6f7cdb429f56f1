"""Labels are mapped by name: their order in a checkpoint and in data changes no result."""

import json
from dataclasses import replace

import pytest
from easy_labels import TASKS, labelled, parts, reverse_labels

from motherbird import Classifier, Tagger
from motherbird.nn import SequenceClassifier, checkpoint
from motherbird.train.finetune import finetune
from motherbird.train.tuning import FineTuning

pytestmark = pytest.mark.usefixtures("unchecked")


def results(kind, model, data):
    if kind == "tags":
        return Tagger.load(model, dtype="float32").tag(data.texts)
    found = Classifier.load(model, dtype="float32").predict(data.texts)
    return [(each.label, pytest.approx(each.probability, abs=1e-5), each.labels) for each in found]


@pytest.mark.parametrize("kind", ["single", "multi", "tags"])
def test_the_order_of_labels_changes_nothing(kind, finetuned, tmp_path):
    first = finetuned(kind, **({"thresholds": True} if kind == "multi" else {}))
    labels = reverse_labels(first, tmp_path / "turned")
    data = labelled(kind, 40, 3).select(range(39, -1, -1))  # their first texts have other labels
    assert results(kind, first, data) == results(kind, tmp_path / "turned", data)
    cls = Tagger if kind == "tags" else Classifier
    before, after = (
        cls.load(model, dtype="float32").evaluate(data.texts, data.labels)
        for model in (first, tmp_path / "turned")
    )
    assert after == pytest.approx(before, abs=1e-5)
    further = []
    for number, model in enumerate((first, tmp_path / "turned")):
        recipe = FineTuning(task=TASKS[kind], model=str(model), epochs=1, lr=1e-4, dtype="float32")
        further.append(
            finetune(recipe, replace(parts(kind), test=data), tmp_path / f"further-{number}")
        )
    assert [found["labels"] for found in further] == [[*labels], [*labels[::-1]]]
    for part in ("dev", "test"):
        assert further[1][part] == pytest.approx(further[0][part], abs=1e-4)


def test_the_order_of_the_keys_of_id2label_changes_nothing(finetuned, tmp_path):
    first = finetuned("single")
    checkpoint.save(SequenceClassifier.load(first, dtype="float32"), tmp_path / "model")
    (tmp_path / "model/motherbird.json").unlink()
    raw = json.loads((tmp_path / "model/config.json").read_text())
    raw["id2label"] = dict(reversed(raw["id2label"].items()))
    (tmp_path / "model/config.json").write_text(json.dumps(raw))
    assert Classifier.load(tmp_path / "model").labels == Classifier.load(first).labels
