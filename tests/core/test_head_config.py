"""What config.json says about the logits of a classifier."""

import json

import pytest

from motherbird import InputError
from motherbird.core.hf_config import HeadConfig, read_head, write_head

pytestmark = pytest.mark.usefixtures("no_type_checker")

AB = {"id2label": {"0": "a", "1": "b"}}
ONE = {"id2label": {"0": "LABEL_0"}}
MULTI = {"problem_type": "multi_label_classification", **AB}
SIGMOID = {"activation_fn": "torch.nn.modules.activation.Sigmoid", "version": "5.1.0"}
IDENTITY = {"activation_fn": "torch.nn.modules.linear.Identity"}


@pytest.mark.parametrize(
    ("raw", "wanted"),
    [
        (AB, HeadConfig(("a", "b"))),
        ({**AB, "problem_type": None}, HeadConfig(("a", "b"))),
        (MULTI, HeadConfig(("a", "b"), "multi")),
        ({**AB, "motherbird": {"temperature": 2}}, HeadConfig(("a", "b"), temperature=2)),
        (
            {**MULTI, "motherbird": {"thresholds": {"b": 0.3}}},
            HeadConfig(("a", "b"), "multi", thresholds={"b": 0.3}),
        ),
        (ONE, HeadConfig(("LABEL_0",), "number", activation="sigmoid")),
        ({**ONE, "problem_type": "regression"}, HeadConfig(("LABEL_0",), "number")),
        (
            {**ONE, "sbert_ce_default_activation_function": "torch.nn.modules.linear.Identity"},
            HeadConfig(("LABEL_0",), "number"),
        ),
        ({**ONE, "sentence_transformers": IDENTITY}, HeadConfig(("LABEL_0",), "number")),
        (
            {**ONE, "problem_type": "regression", "sentence_transformers": SIGMOID},
            HeadConfig(("LABEL_0",), "number", activation="sigmoid"),
        ),
        ({**ONE, "problem_type": "multi_label_classification"}, HeadConfig(("LABEL_0",), "multi")),
        ({}, HeadConfig(("LABEL_0", "LABEL_1"))),
    ],
)
def test_what_is_read(raw, wanted, tmp_path):
    assert read_head(raw, "config.json") == wanted
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "modernbert", **raw}))
    write_head(tmp_path, wanted)
    written = json.loads((tmp_path / "config.json").read_text())
    assert read_head(written, "config.json") == wanted
    assert written["model_type"] == "modernbert"


def test_a_key_that_is_not_needed_is_removed(tmp_path):
    (tmp_path / "config.json").write_text(json.dumps({**AB, "motherbird": {"temperature": 2}}))
    write_head(tmp_path, HeadConfig(("a", "b")))
    assert "motherbird" not in json.loads((tmp_path / "config.json").read_text())


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        ({**AB, "problem_type": "ranking"}, "unknown problem_type 'ranking': c.json: use single_"),
        ({**AB, "problem_type": "regression"}, "computes 2 numbers.*c.json"),
        ({**AB, "motherbird": []}, '"motherbird" is not an object: c.json'),
        ({**AB, "motherbird": {"temperature": 0}}, "temperature 0 is not a number above 0: c.json"),
        ({**AB, "motherbird": {"temperature": "1"}}, "temperature '1' is not"),
        ({**AB, "motherbird": {"thresholds": {"a": 0.5}}}, "thresholds are for models"),
        ({**MULTI, "motherbird": {"thresholds": [0.5]}}, "thresholds is not an object"),
        ({**MULTI, "motherbird": {"thresholds": {"c": 0.5}}}, "threshold for 'c', which is not a"),
        ({**MULTI, "motherbird": {"thresholds": {"a": 2}}}, "2 of 'a' is not a probability"),
        ({**ONE, "sentence_transformers": {"activation_fn": "torch.nn.Tanh"}}, "'torch.nn.Tanh'"),
    ],
)
def test_what_cannot_be_read(raw, says):
    with pytest.raises(InputError, match=says):
        read_head(raw, "c.json")


def test_unknown_kinds():
    with pytest.raises(InputError, match="unknown kind 'many': use single, multi, number"):
        HeadConfig(("a", "b"), "many")
    with pytest.raises(InputError, match="unknown activation 'tanh': use sigmoid, identity"):
        HeadConfig(("a",), "number", activation="tanh")
