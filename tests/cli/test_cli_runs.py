"""motherbird runs, and export of a run: output, JSON as documented, errors in one line."""

import json
import shutil
from pathlib import Path

import pytest

from motherbird.disk import locked


@pytest.fixture(scope="module")
def made(sources, small_tokenizer, tmp_path_factory):
    """A run of nine steps in three phases, the last of them not finished."""
    from motherbird.data.prepare import prepare
    from motherbird.train.phase import Phase
    from motherbird.train.pretrain import pretrain
    from motherbird.train.recipe import Evaluate, Geometry, Recipe, Save, Train

    home = tmp_path_factory.mktemp("runs")
    small_tokenizer.save(home / "tokenizer")
    prepare(sources, home / "tokenizer", home / "set", [256, 1024], held_out=0.5)
    shape = Geometry(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        local_attention=16, initializer_range=0.18,
    )  # fmt: skip
    recipe = Recipe(
        (Phase("short", 512 * 6, 256, 2), Phase("long", 1024 * 3, 1024, 1, decay=1024)),
        Train(4e-3, micro_tokens=1024, dtype="float32", workers=0),
        shape,
        save=Save(every=2, keep=9),
        evaluate=Evaluate(every=2, tokens=128),
    )
    for _ in range(2):
        pretrain(recipe, home / "set", home / "runs" / "one", max_steps=4)
    return home / "runs" / "one"


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / "runs" / "one")


def test_list(motherbird, run, documented, has_shape):
    text = motherbird("runs", "list", run.parent).done().out
    assert text.startswith(f"{run}: step 8 of 9 (long), ") and ", stopped, " in text
    found = motherbird("runs", "list", run.parent, "--json").done().json
    (shape,) = documented("runs", "list")
    assert has_shape(found, shape) and len(found) == 1
    with locked(run / "LOCK"):
        assert ", running, " in motherbird("runs", "list", run).done().out
    (run / "run.json").write_text("{}")
    assert (
        f"{run}: the run was written by another version"
        in motherbird("runs", "list", run).done().out
    )
    shutil.rmtree(run)
    assert motherbird("runs", "list", run.parent).done().out == f"no runs in {run.parent}\n"
    motherbird("runs", "list", run).refused("directory does not exist")


def test_show(motherbird, run, documented, has_shape):
    motherbird("runs", "rewind", run, "--to-step", "6", "--set", "train.lr=1e-3").done()
    found = motherbird("runs", "show", run, "--json").done().json
    whole, evaluation = documented("runs", "show")
    assert has_shape(found, whole) and has_shape(found["evaluation"], evaluation)
    text = motherbird("runs", "show", run).done().out
    assert text.startswith(f"{run}: step 6 of 9, short\n") and found["sha256"] in text
    assert "rewound      from 8 to 6, set: train.lr=1e-3\n" in text
    assert f"accuracy {found['evaluation']['accuracy']:.2%} at step 6\n" in text


def test_average(motherbird, run, tmp_path, documented, has_shape):
    call = ("runs", "average", run, "--out", tmp_path / "out")
    text = motherbird(*call, "--last", "1", "--step", "7").refused("no checkpoint for step 7").out
    assert text == ""
    said = motherbird(*call, "--step", "4", "--step", "6").done().out
    assert said == f"{tmp_path / 'out'}: the mean of steps 4, 6\n"
    found = motherbird(*call, "--last", "1", "--json").done().json
    (shape,) = documented("runs", "average")
    assert has_shape(found, shape) and found["steps"] == [8]
    assert motherbird("info", tmp_path / "out").done().out
    data = made_elsewhere(run, tmp_path)
    motherbird(*call, "--best", "1").refused("set --data to its directory")
    motherbird(*call, "--best", "1", "--data", data).done()


def made_elsewhere(run: Path, tmp_path: Path) -> Path:
    """The dataset under another name, so that the run does not find it."""
    about = json.loads((run / "run.json").read_text())
    data = shutil.copytree(about["data_path"], tmp_path / "moved")
    (run / "run.json").write_text(json.dumps({**about, "data_path": str(tmp_path / "gone")}))
    return data


def test_rewind(motherbird, run, documented, has_shape):
    call = ("runs", "rewind", run, "--to-step")
    change = ("--set", "phases.1.lr=1e-3", "--set", "save.every=1")
    found = motherbird(*call, "6", *change, "--json").done().json
    (shape,) = documented("runs", "rewind")
    assert has_shape(found, shape)
    assert (found["step"], found["from"], found["set"]) == (6, 8, [*change[1::2]])
    assert motherbird(*call, "4").done().out == f"{run}: back from step 6 to step 4\n"
    motherbird(*call, "4").refused("at step 4 already, and nothing is set")
    motherbird(*call, "5").refused("no checkpoint for step 5.*existing steps: 0, 2, 4")
    motherbird(*call, "2", "--set", "seed=1").refused("seed cannot be changed in an existing run")
    motherbird(*call, "2", "--set", "train.masking=2").refused("masking = 2.0 has to be")
    motherbird(*call, "x").refused("--to-step")
    motherbird("runs", "rewind", run).refused("--to-step")
    with locked(run / "LOCK"):
        motherbird(*call, "2").refused("another process .* is working on it")


def test_report(motherbird, run, tmp_path, documented, has_shape):
    pytest.importorskip("matplotlib")
    assert motherbird("runs", "report", run).done().out == f"{run / 'report.html'}\n"
    out = tmp_path / "page.html"
    found = motherbird("runs", "report", run, "--out", out, "--json").done().json
    (shape,) = documented("runs", "report")
    assert has_shape(found, shape) and Path(found["out"]).read_text().startswith("<!doctype html>")
    other = tmp_path / "other.html"
    other.write_text("<p>another page")
    for path, says in (
        (other, "not a motherbird report"),
        (run / "run.json", "--out is not a .html file.*use a name that ends in .html"),
        (tmp_path / "no" / "x.html", "does not exist"),
    ):
        motherbird("runs", "report", run, "--out", path).refused(says)
    assert other.read_text() == "<p>another page"


@pytest.mark.parametrize("name", ["show", "report", "rewind", "average"])
def test_what_is_no_run(name, motherbird, tmp_path):
    more = {"rewind": ["--to-step", "1"], "average": ["--last", "1", "--out", tmp_path / "out"]}
    (tmp_path / "empty").mkdir()
    for folder in (tmp_path / "empty", tmp_path / "gone"):
        call = ("runs", name, folder, *more.get(name, []))
        motherbird(*call).refused("not the directory of a run")
        assert motherbird(*call, "--json").refused().json["error"]["code"] == "input"
    assert [p.name for p in tmp_path.rglob("*")] == ["empty"]


def test_damage_is_one_line(motherbird, run):
    for path in run.glob("checkpoints/*/state.safetensors"):
        path.write_bytes(path.read_bytes()[:-1])
    result = motherbird("runs", "show", run)
    assert result.code == 1 and result.out == ""
    assert result.err.splitlines()[-1].startswith("error: no checkpoint can be used: step-00000008")
    motherbird("runs", "rewind", run, "--to-step", "6").refused("changed after", code=1)


# --- export


def test_export_of_a_run(motherbird, run, tmp_path):
    call = ("export", run, "--out", tmp_path / "out")
    said = motherbird(*call).done().out
    assert said.startswith(f"{tmp_path / 'out'}: step 8 of {run}, ")
    found = motherbird(*call, "--format", "hf", "--step", "6", "--json").done().json
    assert list(found) == ["run", "step", "sha256", "out"] and found["step"] == 6
    about = motherbird("info", tmp_path / "out", "--json").done().json
    assert about["architecture"] == "ModernBertForMaskedLM"
    motherbird(*call, "--dtype", "bfloat16").done()
    about = motherbird("info", tmp_path / "out", "--json").done().json
    assert about["tensors"]["dtypes"] == ["bfloat16"]
    data = made_elsewhere(run, tmp_path)
    motherbird(*call).refused("set --data to its directory")
    motherbird(*call, "--data", data).done()


def test_export_of_a_run_by_way_of_hf(motherbird, run, tmp_path):
    pytest.importorskip("onnxruntime")
    call = ("export", run, "--out", tmp_path / "out", "--format", "onnx", "--step", "4")
    found = motherbird(*call, "--json").done().json
    assert (found["model"], found["head"], found["passed"]) == ("one", "logits", True)
    assert (tmp_path / "out" / "onnx" / "model.onnx").is_file()


def test_exports_that_are_refused(motherbird, run, model, tmp_path):
    call = ("export", run, "--out", tmp_path / "out")
    motherbird(*call, "--step", "5").refused("no checkpoint for step 5")
    motherbird(*call, "--revision", "main").refused("has no revisions")
    motherbird(*call, "--dtype", "int8").refused("without --head, in float32 or bfloat16")
    motherbird(*call, "--head", "none").refused("without --head, in float32 or bfloat16")
    motherbird(*call, "--format", "tflite").refused("'tflite' is unknown")
    motherbird("export", run, "--out", run / "out").refused("inside the input")
    other = ("export", model, "--out", tmp_path / "out", "--format", "hf")
    motherbird(*other, "--step", "5").refused("need the directory of a run")
    motherbird(*other, "--data", "x").refused("need the directory of a run")
    assert not (tmp_path / "out").exists()


def test_a_checkpoint_in_place_of_a_model(motherbird, run, tmp_path, monkeypatch):
    monkeypatch.chdir(run.parent)
    for given in ("one/checkpoints/step-00000004", run / "checkpoints" / "step-00000004" / "."):
        says = (
            "config.json is missing.*: this is a checkpoint of a run: "
            r"motherbird export one --step 4 --out DIR\n"
        )
        motherbird("fill-mask", "a [MASK]", "--model", given).refused(says)
        motherbird("export", given, "--format", "hf", "--out", tmp_path / "out").refused(says)
    motherbird("export", "one", "--step", "4", "--out", "DIR").done()


def test_list_of_a_file(motherbird, tmp_path):
    (tmp_path / "file").write_text("x")
    motherbird("runs", "list", tmp_path / "file").refused("this is a file, not a directory: .*file")
    motherbird("runs", "list", tmp_path / "new").refused("the directory does not exist: .*new")
