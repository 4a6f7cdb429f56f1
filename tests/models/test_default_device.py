"""torch.set_default_device is about the user's tensors: ours are where the model is."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from motherbird import Embedder, MaskedLM, nn
from motherbird.nn import devices, heads, init

DOCUMENTS = [[937, 5, 6, 7, 938], [937, 100, 938], [937, *range(200), 938]]


@pytest.fixture
def directory(toy, small_tokenizer, tmp_path):
    model = nn.MaskedLM(toy)
    model.model.tokenizer = small_tokenizer
    model.save(tmp_path / "model")
    return tmp_path / "model"


def results(directory, attention, dtype):
    embedder = Embedder.load(directory, dtype=dtype, attention=attention)
    arrays = [embedder.embed(["a", "another text, " * 30, "b c"])]
    masked_lm = MaskedLM.load(directory, dtype=dtype, attention=attention)
    arrays.append(np.array([c.probability for c in masked_lm.fill("a [MASK] b")[0]]))
    if attention == "auto":  # the engine
        return arrays
    module = nn.MaskedLM.load(directory, dtype=dtype, attention=attention).train()
    rows = [heads.masked_lm.Example(ids, [1, 2], [5, 6]) for ids in DOCUMENTS]
    module.loss(*module.collate(rows)).backward()
    arrays += [p.grad.numpy() for p in module.parameters()]
    for head, more in ((nn.TokenClassifier, [0, -100]), (nn.SequenceClassifier, 1)):
        torch.manual_seed(0)
        with torch.device("cpu"):
            model = head(module.model, ("a", "b")).eval()
        labels = [more if isinstance(more, int) else (more * len(i))[: len(i)] for i in DOCUMENTS]
        rows = [(ids, label) for ids, label in zip(DOCUMENTS, labels, strict=True)]
        example = heads.token_classifier.Example if more != 1 else heads.sequence_classifier.Example
        arrays.append(model.loss(*model.collate([example(*row) for row in rows])).detach().numpy())
    return arrays


CASES = [("tiled", "float32"), ("banded", "float32"), ("oracle", "float32"), ("auto", "int8")]


@pytest.mark.parametrize(("attention", "dtype"), CASES)
def test_a_default_device_changes_nothing(attention, dtype, directory):
    expected = results(directory, attention, dtype)
    torch.set_default_device("meta")  # where nothing can be computed
    try:
        found = results(directory, attention, dtype)
        assert devices.resolve_device(None) == torch.device("cpu")
    finally:
        torch.set_default_device(None)
    for one, other in zip(expected, found, strict=True):
        np.testing.assert_array_equal(one, other)


def test_tiling_under_a_default_device(toy):
    larger = replace(toy, hidden_size=64, num_attention_heads=4, num_hidden_layers=8)
    small, large = nn.Encoder(toy), nn.Encoder(larger)
    torch.set_default_device("meta")
    try:
        init.tile(small, large, toy, larger)
    finally:
        torch.set_default_device(None)
    assert torch.equal(large.embeddings.tok_embeddings.weight[:, 16:48],
                       small.embeddings.tok_embeddings.weight)  # fmt: skip
