"""motherbird bench: end to end, what it refuses, and what is left when it is stopped."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from motherbird import files
from motherbird.bench import cpu, runner

ONE = ["--threads", "1", "--repeats", "1"]


@pytest.fixture
def fakes(monkeypatch):
    """Peers of tests/bench instead of the real ones, with processes but without torch in them."""
    monkeypatch.syspath_prepend(str(Path(__file__).parents[1] / "bench"))
    import fake_peer
    import numpy as np

    from motherbird.bench import check, peers, pool

    def in_this_process(function, arguments, **options):
        if function is cpu.set_up:
            return {
                "cpu": "a CPU",
                "cores": 1,
                "memory_gb": 1.0,
                "isa_extensions": [],
                "threads": 1,
                "versions": {},
                "environment": {},
            }, dict.fromkeys(cpu.roofline.DTYPES, 1.0)
        if function is cpu.roofline.rooflines:
            return {"float32": 2.0, "bfloat16": None, "int8": 0.5}
        system, job = arguments
        return np.concatenate([fake_peer.vectors([d]) for c in check.cases(system, job) for d in c])

    monkeypatch.setattr(peers, "PEERS", ("fake_peer",))
    monkeypatch.setattr(cpu, "call_once", in_this_process)
    monkeypatch.setattr(pool, "START_LIMIT", 5.0)
    monkeypatch.setattr(check, "LIMIT", 1.0)
    return fake_peer


@pytest.mark.slow
def test_end_to_end(motherbird, model, tmp_path, documented, has_shape, monkeypatch):
    """Ours and transformers, real processes, on a toy."""
    pytest.importorskip("transformers")
    monkeypatch.setattr(cpu, "ROOFLINE_SECONDS", 0.0)
    for name in ("RUN_SECONDS", "SHORTEST_RUN", "SEARCH_SECONDS"):
        monkeypatch.setattr(runner, name, 0.1)
    out = tmp_path / "result.json"
    result = motherbird(
        "bench", "cpu", "--model", model, "--workloads", "queries,long-fixed",
        "--systems", "motherbird/float32,transformers/float32", "--out", out, "--json", *ONE,
    )  # fmt: skip
    assert result.code == 0, result.err
    document = result.json
    assert has_shape(document, *documented("bench", "cpu"))
    assert document == json.loads(out.read_text()) and document["finished"]
    assert document["roofline_tflops"]["float32"] > 0 and len(document["roofline_runs"]) == 2
    rows = {(row["system"], row["workload"]): row for row in document["rows"]}
    assert len(rows) == len(document["rows"]) == 4
    for system in ("motherbird", "transformers"):
        row = rows[system, "queries"]
        assert row["correct"] and row["cosine"] > 0.99999 and row["reason"] is None
        assert row["tokens_per_s"] > 0 and 0 < row["roofline_fraction"] < 1
        assert row["peak_mb"] > 10 and row["documents"] > 0 and row["repeats"] == 1
        assert str(row["batch"]) in row["tried"] and len(row["tried"]) >= 3
        assert rows[system, "long-fixed"]["reason"] == "it takes at most 512 tokens"
        assert rows[system, "long-fixed"]["tokens_per_s"] is None
    assert "check: transformers/float32: worst cosine 1.000000" in result.err
    assert "queries: motherbird/float32: run 1, " in result.err


def test_every_failure_is_a_row(motherbird, model, fakes, documented, has_shape):
    result = motherbird(
        "bench", "cpu", "--model", model, "--workloads", "latency", "--json", *ONE,
        "--systems", "right,nan,raises,dies,absent",
    )  # fmt: skip
    assert result.code == 0, result.err
    assert has_shape(result.json, *documented("bench", "cpu"))
    rows = {row["system"]: row for row in result.json["rows"]}
    assert list(rows) == ["right", "nan", "raises", "dies", "absent"]
    assert rows["right"]["reason"] is None
    for name, part in {
        "nan": "wrong: 3 of 8 vectors are not finite", "raises": "two lines",
        "dies": "corrupted size", "absent": "absent not installed",
    }.items():  # fmt: skip
        assert part in rows[name]["reason"]
        assert (rows[name]["tokens_per_s"] is not None) == (name == "nan")
        assert rows[name]["correct"] is (False if name == "nan" else None)
    assert rows["right"]["ms"] > 0 and rows["right"]["correct"]
    assert result.json["roofline_tflops"] == {"float32": 2.0, "bfloat16": 1.0, "int8": 1.0}


def test_on_paper_and_in_a_file(motherbird, model, fakes, tmp_path, monkeypatch):
    """The file is written whenever a workload is done, not only at the end."""
    kept = []
    real = files.write_text
    monkeypatch.setattr(
        files, "write_text", lambda path, text: kept.append(text) or real(path, text)
    )
    out = tmp_path / "result.json"
    result = motherbird(
        "bench", "cpu", "--model", model, "--workloads", "queries,latency",
        "--systems", "right,nan", "--out", out, *ONE,
    )  # fmt: skip
    assert result.code == 0, result.err
    parts = [json.loads(text) for text in kept]
    assert [len(part["rows"]) for part in parts] == [2, 4, 4]
    assert [part["finished"] for part in parts] == [False, False, True]
    assert "queries: 16 to 64 tokens" in result.out and "latency: one query" in result.out
    assert "wrong: 3 of 8 vectors are not finite" in result.out
    assert [p.name for p in tmp_path.iterdir()] == ["result.json"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--workloads", "shrot-fixed"], "no workload 'shrot-fixed'.*short-fixed, short-variable"),
        (["--workloads", "queries,"], "no workload ''"),
        (["--systems", "tranformers"], "no system 'tranformers'.*transformers"),
        (["--systems", "openvino/float16"], "no system 'openvino/float16'"),
        (["--model", "no/such/folder/anywhere"], "no/such/folder"),
        (["--repeats", "0"], "--repeats"),
        (["--minutes", "0"], "--minutes"),
        (["--out", "no-such-folder/x.json"], "directory of the output does not exist"),
        (["--out", "."], "is a directory"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_refusals(arguments, says, motherbird):
    assert motherbird("bench", "cpu", *arguments).refused(says).out == ""


def test_names_of_systems():
    assert [s.key for s in cpu.parse_systems("openvino/int8, motherbird")] == [
        "motherbird/float32", "motherbird/bfloat16", "motherbird/int8", "openvino/int8"
    ]  # fmt: skip
    assert len(cpu.parse_systems(None)) == 23 and len(cpu.parse_workloads(None)) == 6


def test_other_models_run_in_the_dtype_of_the_higher_roofline():
    ours, *_, gte = cpu.parse_systems(None)
    for rooflines, dtype in (
        ({"float32": 0.3, "bfloat16": 0.9}, "bfloat16"),
        ({"float32": 0.3, "bfloat16": 0.01}, "float32"),
        ({"float32": 0.3, "bfloat16": None}, "float32"),
    ):
        assert cpu._resolve_dtype(gte, rooflines).key == f"gte/{dtype}"
        assert cpu._resolve_dtype(ours, rooflines) == ours


def test_random_weights_are_the_same_in_every_run(tmp_path, toy, monkeypatch):
    monkeypatch.setattr(cpu, "ROOFLINE_SECONDS", 0.0)
    for name in ("a", "b"):
        cpu.set_up(toy, tmp_path / name, 1)
    first, second = ((tmp_path / n / "model.safetensors").read_bytes() for n in ("a", "b"))
    assert first == second


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize(
    ("number", "code"),
    [(signal.SIGINT, 130), pytest.param(signal.SIGTERM, 143, marks=pytest.mark.slow)],
)
def test_a_signal_leaves_no_process_and_no_file(number, code, model, tmp_path):
    environment = {**os.environ, "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "motherbird", "bench", "cpu", "--model", str(model), *ONE,
               "--workloads", "queries", "--systems", "motherbird/float32"]  # fmt: skip
    with subprocess.Popen(command, stderr=subprocess.PIPE, env=environment) as process:
        end = time.monotonic() + 60
        while not workers(tmp_path):
            assert time.monotonic() < end
            time.sleep(0.05)
        process.send_signal(number)
        error = process.stderr.read().decode()
    assert process.returncode == code
    assert error.strip().startswith("error: stopped by ") and error.strip().count("\n") == 0
    assert workers(tmp_path) == [] and list(tmp_path.iterdir()) == []


def workers(folder):
    """Processes that write their log into a folder."""
    lines = subprocess.run(["ps", "-ww", "-eo", "args="], capture_output=True, text=True).stdout
    return [line for line in lines.splitlines() if str(folder) in line and "serve()" in line]


def test_report(motherbird, tmp_path, model, fakes):
    pytest.importorskip("matplotlib")
    out, page = tmp_path / "result.json", tmp_path / "page.md"
    motherbird("bench", "cpu", "--model", model, "--workloads", "latency", "--systems", "right",
               "--out", out, *ONE)  # fmt: skip
    page.write_text("# Speed\n<!-- tables: start -->\n<!-- tables: end -->\nprose\n")
    result = motherbird("bench", "report", out, "--page", page, "--json").done().json
    assert result == {"page": str(page), "charts": [str(tmp_path / "performance-toy-a-cpu.svg")]}
    assert "### latency" in page.read_text() and page.read_text().endswith("-->\nprose\n")
    assert Path(result["charts"][0]).stat().st_size < 100_000
    motherbird("bench", "report", page, "--page", page).refused()
    motherbird("bench", "report", out, "--page", tmp_path / "none.md").refused("cannot be read")


def test_out_is_json(motherbird, fakes, tmp_path):
    call = ("bench", "cpu", *ONE, "--out", tmp_path / "result.txt")
    motherbird(*call).refused("--out is not a .json file.*use a name that ends in .json")
