"""The scripts of benchmarks/ follow the package: they can be imported, and their parts run."""

import argparse
import importlib
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from motherbird import Dense

HOME = Path(__file__).resolve().parents[2] / "benchmarks"
SCRIPTS = sorted(path.stem for path in HOME.glob("*.py"))


@pytest.fixture
def script(monkeypatch):
    """script(name) imports a benchmark; its modules are forgotten after the test."""
    monkeypatch.syspath_prepend(str(HOME))
    yield importlib.import_module
    for name in SCRIPTS:
        sys.modules.pop(name, None)


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_benchmark_has_help(name, script, monkeypatch, capsys):
    pytest.importorskip("transformers")
    module = script(name)
    if name == "common":
        return
    monkeypatch.setattr(sys, "argv", [name, "--help"])
    with pytest.raises(SystemExit) as stop:
        module.main()
    assert stop.value.code == 0 and "usage:" in capsys.readouterr().out


@pytest.mark.usefixtures("unchecked")
def test_the_control_experiment_trains(tiny, smoke_set, script, monkeypatch, tmp_path):
    transformers = pytest.importorskip("transformers")
    from motherbird.data.prepared import PreparedDataset

    def model(recipe, prepared):
        return transformers.BertForMaskedLM(
            transformers.BertConfig(
                vocab_size=1024, hidden_size=32, num_hidden_layers=1, num_attention_heads=2,
                intermediate_size=32,
            )
        )  # fmt: skip

    control = script("control_bert")
    monkeypatch.setattr(control, "model_like", model)
    options = argparse.Namespace(
        work=tmp_path, tokens=200, every=100, lr=1e-3, device="cpu", minutes=1.0
    )
    control.train(options, tiny, PreparedDataset(smoke_set))
    log = json.loads((tmp_path / "state.json").read_text())["log"]
    assert log[-1]["tokens"] >= 200 and any("evaluation" in line for line in log)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs /proc")
@pytest.mark.slow
def test_the_engine_is_measured(script):
    engine = script("engine")
    found = engine.start(repeats=1)
    assert found["embed"]["seconds"] > 0 and found["fill-mask"]["peak_mb"] > 50
    kept = engine.neighbors(12)
    assert kept["portable float32"] == {"kept": 1.0, "cosine": 1.0}
    assert 0.5 < kept["portable int8"]["kept"] <= 1


def test_training_speed_computes(script):
    worker = script("training_speed").WORKER.replace(
        "EncoderConfig(num_hidden_layers=6)", "EncoderConfig(num_hidden_layers=1)"
    )
    command = [sys.executable, "-c", worker, json.dumps({"short": [8, 9]}), "float32"]
    done = subprocess.run(command, input="short\n", capture_output=True, text=True, check=True)
    seconds, loss, norm = json.loads(done.stdout)
    assert seconds > 0 and torch.tensor([loss, norm]).isfinite().all()


@pytest.mark.parametrize(
    "code, wanted",
    [
        ("def f(a):\n    return a", 'def f(a):\n    """What."""\n    return a'),
        ("class A:\n    @property\n    def b(self): ...",
         'class A:\n    """What."""\n    @property\n    def b(self): ...'),
        ("def f(): return 1", None), ("a = 1", None), ("def f(", None), ("", None),
    ],
)  # fmt: skip
def test_docstrings_are_put_back(script, code, wanted):
    assert script("functions").with_docstring(code, "What.") == wanted


def test_a_rotation_changes_no_product_and_orders_dimensions(script):
    release = script("release")
    draw = np.random.default_rng(0)
    weight = draw.normal(size=(6, 8)).astype(np.float32)
    rows = draw.normal(size=(50, 8)).astype(np.float32)

    class Small:
        dense = (Dense(weight),)

        def embed(self, texts, **options):
            return rows @ weight.T

    rotated = rows @ release.by_variance(Small(), ["text"]).weight.T
    own = Small().embed([])
    assert np.allclose(rotated @ rotated.T, own @ own.T, atol=1e-4)
    sizes = np.square(rotated).sum(axis=0)
    assert np.all(np.diff(sizes) <= 1e-4 * sizes[0])


def test_the_card_is_made_from_measurements(script):
    text = script("release").card(HOME / "nano")
    assert "| mean |" in text and "](../" not in text
