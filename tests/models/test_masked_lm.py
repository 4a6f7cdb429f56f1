"""MaskedLM: candidates for the masks of a text."""

from dataclasses import replace

import pytest
import torch

from motherbird import InputError, MaskedLM, nn
from motherbird.nn import pack

pytestmark = pytest.mark.usefixtures("no_type_checker")


@pytest.fixture
def module(toy, small_tokenizer):
    module = nn.MaskedLM(toy).eval()
    module.model.tokenizer = small_tokenizer
    return module


def test_fill(module):
    masked_lm = MaskedLM(module)
    text = "The [MASK] of the parser is [MASK]."
    answers = masked_lm.fill(text, top_k=7)
    assert [len(candidates) for candidates in answers] == [7, 7]
    ids = masked_lm.tokenizer.encode_masked(text)
    positions = [i for i, token in enumerate(ids) if token == 940]
    with torch.no_grad():
        probabilities = module(pack([ids])).softmax(-1)[positions]
    for candidates, truth in zip(answers, probabilities, strict=True):
        given_ = [c.probability for c in candidates]
        assert given_ == sorted(given_, reverse=True)
        assert {c.token_id for c in candidates} == set(truth.topk(7).indices.tolist())
        for c in candidates:
            assert c.probability == pytest.approx(truth[c.token_id].item(), rel=1e-4)
            assert c.text == masked_lm.tokenizer.decode([c.token_id]).strip()


def test_a_model_is_set_to_evaluation(toy, small_tokenizer):
    module = nn.MaskedLM(replace(toy, mlp_dropout=0.5, embedding_dropout=0.5)).train()
    module.model.tokenizer = small_tokenizer
    model = MaskedLM(module)
    assert model.fill("a [MASK]") == model.fill("a [MASK]")


@pytest.mark.parametrize(
    ("text", "top_k", "says"),
    [
        ("no mask", 5, "no \\[MASK\\]"),
        ("a [MASK]", 0, "invalid top_k 0"),
        ("a [MASK]", 1025, "1 to 1024"),
        ("a [MASK]", "5", "top_k is of type str"),
        (None, 5, "the text is missing .None."),
        (["a [MASK]"], 5, "of type list, not str"),
        (b"a [MASK]", 5, "of type bytes, not str"),
        ("\ud800 [MASK]", 5, "not valid Unicode"),
        ("word " * 600 + "[MASK]", 5, "more than the model's limit of 512"),
    ],
)
def test_fill_refuses(text, top_k, says, module):
    with pytest.raises(InputError, match=says):
        MaskedLM(module).fill(text, top_k)
