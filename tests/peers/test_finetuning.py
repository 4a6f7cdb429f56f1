"""Fine-tuning beside transformers: the same weights, texts, order and optimizer, padded there."""

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
    AutoTokenizer,
)

from motherbird import Classifier, Scorer, Tagger
from motherbird.core.batching import pad
from motherbird.core.hub import NANO
from motherbird.core.spans import spans
from motherbird.data.labelled import Labelled, read_labelled
from motherbird.data.loader import Cursor
from motherbird.train import run_log
from motherbird.train.distributed import Distributed
from motherbird.train.finetune import finetune
from motherbird.train.rows import training_batches
from motherbird.train.tuning import FineTuning
from motherbird.train.tuning_plan import Parts, initial_model, plan

STEPS = 50


def data(kind: str, count: int, seed: int) -> Labelled:
    """Random words with labels that depend on them."""
    draw = np.random.default_rng(seed)
    sizes = draw.integers(2, 30, size=count)
    words = [draw.choice(list("abcdefgh"), size=size).tolist() for size in sizes]
    plain = [" ".join(each) for each in words]
    where = [f"row {number}" for number in range(count)]
    if kind == "single":
        return Labelled(plain, ["no" if "a" in each else "yes" for each in words], where, kind)
    if kind == "multi":
        return Labelled(plain, [sorted({*"abc"} & {*each}) for each in words], where, kind)
    if kind == "number":
        pairs = list(zip(plain, reversed(plain), strict=True))
        return Labelled(pairs, [float(each.count("a")) for each in words], where, kind)
    tags = [["B-A" if word == "a" else "O" for word in each] for each in words]
    return Labelled(words, tags, where, kind)


TASKS = {"single": "classify", "multi": "classify", "number": "score", "tags": "tag"}


@pytest.mark.parametrize("kind", TASKS)
def test_losses_are_those_of_transformers(kind, base, tmp_path):
    compare(str(base), kind, Parts(data(kind, STEPS * 16, 1), data(kind, 40, 2)), tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["sst2", "trec", "wnut17"])
def test_losses_of_the_included_model_on_real_texts(name, shared, tmp_path):
    task = "tag" if name == "wnut17" else "classify"
    whole = read_labelled(shared / "data/tasks" / name / "train.jsonl.gz", task)
    last = STEPS * 16
    parts = Parts(whole.select(range(last)), whole.select(range(last, last + 100)))
    compare(NANO, whole.kind, parts, tmp_path, lr=1e-4)


def compare(model: str, kind: str, parts: Parts, tmp_path, lr: float = 1e-3) -> None:
    """Train 50 steps with both, and compare the loss of each step.

    The higher the rate, the faster do differences of rounding grow: at 1e-3, two kernels of
    attention of transformers differ by more than 1e-4 after 24 steps with the included model.
    """
    recipe = FineTuning(
        task=TASKS[kind], model=model, epochs=1, batch_size=16, lr=lr, warm_up=0.1,
        weight_decay=1e-5, optimizer="adamw", dtype="float32", seed=7,
    )  # fmt: skip
    finetune(recipe, parts, tmp_path / "out")
    ours = [line["loss"] for line in run_log.read(tmp_path / "out")]
    made = plan(recipe, parts)
    start = initial_model(made)
    start.save(tmp_path / "start")
    peer = load_peer(kind, tmp_path / "start", start.size)
    decayed = [p for p in peer.parameters() if p.ndim > 1]
    rest = [p for p in peer.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW(
        [{"params": decayed, "weight_decay": 1e-5 / lr}, {"params": rest, "weight_decay": 0}],
        lr=lr, betas=(0.9, 0.98), eps=1e-6,
    )  # fmt: skip
    alone = Distributed(0, 1, torch.device("cpu"))
    theirs = []
    steps = training_batches(made.train, Cursor(7), 16, 1 << 20, alone, threads=1)
    for step, ([batch], _) in enumerate(steps):
        rise, decay = step / 5, (STEPS - step) / (STEPS - 5)
        optimizer.param_groups[0]["lr"] = optimizer.param_groups[1]["lr"] = lr * min(rise, decay)
        documents = [each.tolist() for each in batch.packed.ids.split(batch.packed.lengths)]
        ids, mask = map(torch.from_numpy, pad(documents))
        labels = padded_labels(kind, batch, mask)
        loss = peer(input_ids=ids, attention_mask=mask, labels=labels).loss
        theirs.append(loss.item())
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert len(ours) == len(theirs) == STEPS
    np.testing.assert_allclose(ours, theirs, rtol=1e-4)


def load_peer(kind, directory, labels):
    problem = {"single": "single_label_classification", "multi": "multi_label_classification",
               "number": "regression"}.get(kind)  # fmt: skip
    cls = AutoModelForTokenClassification if kind == "tags" else AutoModelForSequenceClassification
    more = {} if kind == "tags" else {"problem_type": problem}
    return cls.from_pretrained(directory, num_labels=labels, attn_implementation="eager", **more)


def padded_labels(kind, batch, mask):
    if kind != "tags":
        return batch.targets
    labels = torch.full(mask.shape, -100)
    labels[mask.bool()] = batch.targets
    return labels


@pytest.mark.parametrize("kind", TASKS)
def test_what_is_written_loads_in_transformers_with_equal_logits(kind, base, tmp_path):
    parts = Parts(data(kind, 64, 1), data(kind, 40, 2))
    recipe = FineTuning(task=TASKS[kind], model=str(base), epochs=2, lr=1e-3, dtype="float32")
    finetune(recipe, parts, tmp_path / "out")
    cls = AutoModelForTokenClassification if kind == "tags" else AutoModelForSequenceClassification
    peer = cls.from_pretrained(tmp_path / "out").eval()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    texts = parts.dev.texts
    if kind == "tags":
        texts = [" ".join(words) for words in texts]
    pairs = ([t[0] for t in texts], [t[1] for t in texts]) if kind == "number" else (texts,)
    encoded = tokenizer(*pairs, padding=True, return_tensors="pt")
    with torch.no_grad():
        theirs = peer(encoded.input_ids, attention_mask=encoded.attention_mask).logits.numpy()
    if kind == "tags":
        tagger = Tagger.load(tmp_path / "out", dtype="float32")
        documents, _ = tagger.tokenize_words(parts.dev.texts)
        for row, document, found in zip(
            theirs, documents, tagger.tag(parts.dev.texts), strict=True
        ):
            tags = [peer.config.id2label[int(row[i].argmax())] for i in document.first]
            assert [tuple(span) for span in spans(tags, "BIO")] == [
                (span.label, span.first_word, span.end_word) for span in found
            ]
        return
    if kind == "number":
        ours = Scorer.load(tmp_path / "out", dtype="float32").score(texts)
        np.testing.assert_allclose(ours, theirs[:, 0], atol=1e-4)
        return
    classifier = Classifier.load(tmp_path / "out", dtype="float32")
    assert [peer.config.id2label[i] for i in range(len(classifier.labels))] == [*classifier.labels]
    assert peer.config.problem_type.startswith(kind)
    scaled = torch.from_numpy(theirs / classifier.head_config.temperature)
    expected = scaled.softmax(-1) if kind == "single" else scaled.sigmoid()
    np.testing.assert_allclose(classifier.probabilities(texts), expected.numpy(), atol=1e-4)
