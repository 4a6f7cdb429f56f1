"""Dense layers after the pooling: what they compute, and the files of sentence-transformers."""

import json

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from motherbird import Embedder, InputError
from motherbird.errors import DamagedError
from motherbird.models.dense import Dense
from motherbird.nn import Encoder

pytestmark = pytest.mark.usefixtures("no_type_checker")

TEXTS = ["A short text.", "def f(x):\n    return x + 1\n", "Another text, longer than these."]


def layer(outputs, inputs, bias=True, activation="identity", seed=0):
    draw = np.random.default_rng(seed)
    weight = draw.normal(size=(outputs, inputs)).astype(np.float32) / 4
    return Dense(weight, draw.normal(size=outputs).astype(np.float32) if bias else None, activation)


@pytest.fixture
def encoder(toy, small_tokenizer):
    encoder = Encoder(toy).eval()
    encoder.tokenizer = small_tokenizer
    return encoder


CHAIN = (layer(24, 32, activation="tanh"), layer(40, 24, bias=False, seed=1))


@pytest.fixture
def saved(encoder, tmp_path):
    Embedder(encoder, dense=CHAIN).save(tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.parametrize("normalize", [True, False])
def test_layers_follow_the_pooling(normalize, encoder, tmp_path):
    embedder = Embedder(encoder, normalize=normalize, dense=CHAIN)
    pooled = Embedder(encoder, normalize=False).embed(TEXTS).astype(np.float64)
    one, two = CHAIN
    expected = np.tanh(pooled @ one.weight.T + one.bias) @ two.weight.T
    if normalize:
        expected /= np.linalg.norm(expected, axis=1, keepdims=True)
    assert embedder.size == 40 and embedder.embed([]).shape == (0, 40)
    np.testing.assert_allclose(embedder.embed(TEXTS), expected, atol=1e-5)
    embedder.save(tmp_path / "model")
    again = Embedder.load(tmp_path / "model", dtype="float32")
    np.testing.assert_allclose(again.embed(TEXTS), expected, atol=1e-4)
    cut = again.embed(TEXTS, truncate_dim=36)
    assert cut.shape == (3, 36)
    with pytest.raises(InputError, match="use 1 to 40"):
        again.embed(TEXTS, truncate_dim=41)
    again.save(tmp_path / "again")
    for name in ("modules.json", "2_Dense/config.json", "3_Dense/model.safetensors"):
        first, second = (tmp_path / place / name for place in ("model", "again"))
        assert first.read_bytes() == second.read_bytes()


def test_the_files(saved):
    modules = json.loads((saved / "modules.json").read_text())
    kinds = ["Transformer", "Pooling", "Dense", "Dense", "Normalize"]
    assert [m["type"] for m in modules] == [f"sentence_transformers.models.{k}" for k in kinds]
    assert [m["path"] for m in modules] == ["", "1_Pooling", "2_Dense", "3_Dense", "4_Normalize"]
    assert json.loads((saved / "2_Dense/config.json").read_text()) == {
        "in_features": 32, "out_features": 24, "bias": True,
        "activation_function": "torch.nn.modules.activation.Tanh",
    }  # fmt: skip
    assert load_file(saved / "2_Dense/model.safetensors").keys() == {"linear.weight", "linear.bias"}
    assert load_file(saved / "3_Dense/model.safetensors").keys() == {"linear.weight"}


@pytest.mark.parametrize(
    ("changes", "error", "says"),
    [
        ({"use_residual": True}, InputError, "use_residual = true is not supported"),
        ({"activation_function": "torch.nn.ReLU"}, InputError, "'torch.nn.ReLU' is not supported"),
        ({"activation_function": "own.Tanh"}, InputError, "'own.Tanh' is not supported"),
        ({"module_input_name": "token_embeddings"}, InputError, "module_input_name = 'token_emb"),
        ({"out_features": 25}, DamagedError, r"out_features and in_features are \(25, 32\)"),
        ({"bias": False}, DamagedError, r"the tensors are not linear.weight \(linear.bias\)"),
    ],
    ids=str,
)
def test_settings_that_cannot_be_computed(changes, error, says, saved):
    file = saved / "2_Dense/config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))
    with pytest.raises(error, match=says):
        Embedder.load(saved)


def test_files_that_are_missing_or_damaged(saved):
    file = saved / "2_Dense/model.safetensors"
    tensors = load_file(file)
    (saved / "motherbird.json").unlink()
    save_file(tensors | {"linear.bias": np.full(24, np.nan, np.float32)}, file)
    with pytest.raises(DamagedError, match="linear.bias contains NaN"):
        Embedder.load(saved)
    file.rename(saved / "2_Dense/pytorch_model.bin")
    with pytest.raises(InputError, match="a format that can run code"):
        Embedder.load(saved)
    (saved / "2_Dense/pytorch_model.bin").unlink()
    with pytest.raises(DamagedError, match="the file is missing: .*2_Dense/model.safetensors"):
        Embedder.load(saved)
    (saved / "2_Dense/config.json").unlink()
    with pytest.raises(DamagedError, match="the file is missing: .*2_Dense/config.json"):
        Embedder.load(saved)


@pytest.mark.parametrize(
    ("dense", "says"),
    [
        ([layer(8, 31)], "Dense 0 takes rows of 31, those before it have 32"),
        ([layer(8, 32), layer(8, 9)], "Dense 1 takes rows of 9, those before it have 8"),
        ([np.ones((8, 32))], "an item of dense is of type ndarray"),
    ],
    ids=["first", "second", "type"],
)
def test_layers_that_do_not_follow_each_other(dense, says, encoder):
    with pytest.raises(InputError, match=says):
        Embedder(encoder, dense=dense)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((np.ones(3),), r"the weight of a Dense has shape \(3,\)"),
        ((np.ones((2, 3)), np.ones(3)), "2 outputs and a bias of 3"),
        ((np.full((2, 3), np.inf),), "the weight of a Dense contains NaN or infinity"),
        ((np.ones((2, 3)), None, "relu"), "unknown activation 'relu': use identity or tanh"),
        (([[1.0]],), "the weight of a Dense is of type list"),
    ],
    ids=str,
)
def test_a_layer_that_cannot_be_made(arguments, says):
    with pytest.raises(InputError, match=says):
        Dense(*arguments)
