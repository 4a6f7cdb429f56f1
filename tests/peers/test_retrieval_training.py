"""Losses and gradients of training for retrieval equal those of sentence-transformers."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Dense, Embedder, LateEmbedder
from motherbird.nn import Encoder, SequenceClassifier
from motherbird.nn.vectors import VectorModel
from motherbird.train.examples import Examples
from motherbird.train.objectives.contrastive import ContrastiveObjective
from motherbird.train.objectives.labels import LabelsObjective
from motherbird.train.objectives.late import LateObjective
from motherbird.train.vectors.rows import TextRows

st = pytest.importorskip("sentence_transformers")


@pytest.fixture
def encoder(toy, small_tokenizer):
    torch.manual_seed(0)
    config = replace(
        toy, hidden_size=64, vocab_size=small_tokenizer.vocab_size,
        pad_token_id=small_tokenizer.id_of("pad"),
    )  # fmt: skip
    encoder = Encoder(config)
    with torch.no_grad():
        for name, weight in encoder.named_parameters():
            if "layers." in name and weight.ndim == 2:
                weight.mul_(3)
    encoder.tokenizer = small_tokenizer
    return encoder


@pytest.fixture
def columns(prose):
    """Ten queries, answers and wrong answers of 1 to 23 lines."""
    lines = [line.strip() for line in prose[0].splitlines() if line.strip()]
    cuts = [(7 * i, 7 * i + 1 + (11 * i) % 23) for i in range(30)]
    texts = ["\n".join(lines[start:end]) for start, end in cuts]
    return texts[:10], texts[10:20], texts[20:]


def rows_of(ids, scores=()):
    return TextRows([np.array(text, np.int32) for text in ids], [3] * 10, scores=scores)


def ours(objective, rows, parts):
    """The mean loss and its gradients, with the rows divided into micro-batches."""
    model = objective.model.train()
    batches = [rows.batch(numbers.tolist()) for numbers in np.array_split(np.arange(10), parts)]
    loss = objective.joint_loss(batches, [model(b.packed) for b in batches]) / len(rows)
    loss.backward()
    return loss.item(), {
        name.removeprefix("model.").replace("projection.", ""): p.grad.clone()
        for name, p in model.named_parameters()
    }


def same_gradients(peer, gradients):
    seen = 0
    for name, parameter in peer.named_parameters():
        own = name.split("model.", 1)[-1] if "model." in name else name.split("linear.")[-1]
        truth = parameter.grad
        assert (gradients[own] - truth).abs().max() <= 1e-5 * max(1, truth.abs().max()), name
        seen += 1
    assert seen == len(gradients)


def features(peer, columns, tasks=(None, None, None)):
    """What its data collator makes of columns."""
    found = []
    for texts, task in zip(columns, tasks, strict=True):
        more = {} if task is None else {"task": task}
        prompt = None if task is None else peer.prompts[task]
        found.append({**peer.preprocess(texts, prompt=prompt, **more), **more})
    return found


@pytest.mark.parametrize("loss", ["plain", "cached", "matryoshka"])
def test_dense(loss, encoder, columns, tmp_path):
    from sentence_transformers.sentence_transformer import losses

    weight = np.random.default_rng(0).normal(size=(24, 64)).astype(np.float32)
    Embedder(encoder, dense=[Dense(weight)]).save(tmp_path / "model")
    peer = st.SentenceTransformer(str(tmp_path / "model"), device="cpu")
    peer.train()
    made = {
        "plain": lambda: losses.MultipleNegativesRankingLoss(peer),
        "cached": lambda: losses.CachedMultipleNegativesRankingLoss(peer, mini_batch_size=3),
        "matryoshka": lambda: losses.MatryoshkaLoss(
            peer, losses.MultipleNegativesRankingLoss(peer), [24, 8]
        ),
    }[loss]()
    truth = made(features(peer, columns), None)
    truth.backward()

    projection = torch.nn.Linear(64, 24, bias=False)
    projection.weight = torch.nn.Parameter(torch.from_numpy(weight))
    model = VectorModel(encoder, "mean", projection)
    dimensions = (24, 8) if loss == "matryoshka" else ()
    texts = [text for row in zip(*columns, strict=True) for text in row]
    rows = rows_of(encoder.tokenizer.encode_batch(texts))
    found, gradients = ours(ContrastiveObjective(model, dimensions=dimensions), rows, 3)
    assert found == pytest.approx(truth.item(), abs=1e-5, rel=1e-5)
    same_gradients(peer, gradients)


@pytest.mark.parametrize("loss", ["contrastive", "divergence"])
def test_late(loss, encoder, columns, tmp_path):
    pytest.importorskip("sentence_transformers.multi_vector_encoder")
    from sentence_transformers.multi_vector_encoder import losses

    weight = np.random.default_rng(0).normal(size=(16, 64)).astype(np.float32)
    late = LateEmbedder(encoder, [Dense(weight)], add_prefixes=True)
    late.save(tmp_path / "model")
    peer = st.MultiVectorEncoder(str(tmp_path / "model"), device="cpu")
    peer.double().train()  # in float32, rounding decides between tokens with the same cosine
    own = features(peer, columns, ("query", "document", "document"))
    scores = np.random.default_rng(1).normal(size=(10, 2)).astype(np.float32)
    if loss == "contrastive":
        truth = losses.MultiVectorMultipleNegativesRankingLoss(peer, scale=0.5)(own)
    else:
        divergence = losses.MultiVectorDistillKLDivLoss(peer, temperature=2.0)
        truth = divergence(own, torch.from_numpy(scores).double())
    truth.backward()

    projection = torch.nn.Linear(64, 16, bias=False)
    projection.weight = torch.nn.Parameter(torch.from_numpy(weight))
    model = VectorModel(encoder, "tokens", projection).double()
    kinds = ["query", *["document"] * (len(columns) - 1)]
    pieces = [
        late.divide(texts, kind, late.lengths[kind])[0]
        for texts, kind in zip(columns, kinds, strict=True)
    ]
    ids = [piece.ids for row in zip(*pieces, strict=True) for piece in row]
    rows = rows_of(ids, list(scores) if loss == "divergence" else ())
    found, gradients = ours(LateObjective(model, 2.0, scaled=False), rows, 3)
    assert found == pytest.approx(truth.item(), abs=1e-5, rel=1e-5)
    same_gradients(peer, gradients)


def test_score(encoder, columns, tmp_path):
    """A reranker, by the squared error of the scores of a teacher."""
    from sentence_transformers.cross_encoder.losses import MSELoss

    ranker = SequenceClassifier(encoder, ("score",))
    ranker.save(tmp_path / "model", tokenizer=encoder.tokenizer)
    peer = st.CrossEncoder(str(tmp_path / "model"), device="cpu", max_length=512)
    peer.train()
    scores = np.random.default_rng(1).normal(size=10).astype(np.float32)
    truth = MSELoss(peer)([columns[0], columns[1]], torch.from_numpy(scores))
    truth.backward()
    ids, _ = encoder.tokenizer.encode_pairs(list(zip(*columns[:2], strict=True)), 512)
    rows = Examples(
        "number", [np.array(pair, np.int32) for pair in ids], [scores[n : n + 1] for n in range(10)]
    )
    objective = LabelsObjective(ranker.train(), "number")
    parts = [rows.batch(numbers.tolist()) for numbers in np.array_split(np.arange(10), 3)]
    loss = sum(objective.loss(part) for part in parts) / 10
    loss.backward()
    assert loss.item() == pytest.approx(truth.item(), abs=1e-5, rel=1e-5)
    own = {name.removeprefix("model."): p.grad for name, p in ranker.named_parameters()}
    for name, parameter in peer.named_parameters():
        short = name.split("model.")[-1]
        assert (own[short] - parameter.grad).abs().max() <= 1e-5, name
