"""The HTML report: complete in one file, well-formed, escaped, and small."""

import json
import shutil
from dataclasses import replace

import numpy as np
import pytest
from html_page import Page, check_alone

from motherbird.disk import locked
from motherbird.errors import InputError, OutputExistsError
from motherbird.train import report, run_info, run_log

pytestmark = pytest.mark.usefixtures("unchecked")

pytest.importorskip("matplotlib")


@pytest.fixture(scope="module")
def made(tiny, smoke_set, train, tmp_path_factory):
    """A run that was stopped once and is not finished."""
    run = tmp_path_factory.mktemp("runs") / "<b> & co"
    train(tiny, smoke_set, run, steps=8)
    train(tiny, smoke_set, run, steps=8)
    return run


@pytest.fixture
def run(made, tmp_path):
    return shutil.copytree(made, tmp_path / made.name)


def event(kind, step, **more):
    return {"time": 1e9 + step, "event": kind, "step": step, **more}


def test_the_page(run):
    report.report(run, run / "report.html")
    page = check_alone((run / "report.html").read_text())
    assert "b" not in page.tags
    assert "<b> & co" in page.text and "Step 16 of 26" in page.text
    for words in ("by --stop-after", "stopped", "loss, nats", "learning rate", "held out",
                  "gradient norm", "tokens/s", "lr = 0.004", "torch 2", "theta",
                  "perplexity", "kB"):  # fmt: skip
        assert words in page.text, words
    report.report(run, run / "report.html")  # an existing report is replaced


def test_the_page_escapes_what_it_tells(run):
    about = run_info.read(run)
    about.recipe["phases"][0]["name"] = "<script>alert(1)</script>"
    run_info.write(run, replace(about, made_with={**about.made_with, "cpu": "<img src=x>"}))
    with (run / run_log.EVENTS).open("a") as file:
        file.write(json.dumps(event("roll back", 9, reason="to 6: <i>loss</i> $x")) + "\n")
    report.report(run, run / "report.html")
    page = Page((run / "report.html").read_text())
    assert not {"script", "img", "i"} & page.tags
    assert "to 6: <i>loss</i> $x" in page.text and "<img src=x>" in page.text


def test_a_long_run_makes_a_small_page(run):
    lines = [
        {
            "step": step, "phase": "abc"[step // 2001], "consumed": step, "tokens": 4096,
            "masked": 1, "loss": None if step % 97 == 0 else 3 + step % 7 / 9, "lr": step / 1e6,
            "norm": 1 / step, "verdict": "apply", "seconds": 0.0 if step == 5 else 0.1 + step % 3,
            "wait": 0, "save": 0,
            "evaluation": {"loss": 3 + 1 / step, "accuracy": 0.5, "masked": 100},
        }
        for step in range(1, 6_001)
    ]  # fmt: skip
    (run / run_log.LOG).write_text("".join(json.dumps(line) + "\n" for line in lines))
    events = [event("start", 7 * i) for i in range(1500)]
    (run / run_log.EVENTS).write_text("".join(json.dumps(e) + "\n" for e in events))
    report.report(run, run / "report.html")
    assert (run / "report.html").stat().st_size < 1_000_000
    page = Page((run / "report.html").read_text())
    assert "The last 200 of 1,500." in page.text and "The last 200 of 6,000." in page.text


def test_a_run_without_a_step(run):
    for name in (run_log.LOG, run_log.EVENTS):
        (run / name).unlink()
    shutil.rmtree(run / "checkpoints")
    report.report(run, run / "report.html")
    page = Page((run / "report.html").read_text())
    assert "No step was logged yet." in page.text and "None yet." in page.text


def test_what_is_in_the_way_stays(run, tmp_path):
    for path in (run / "run.json", run):
        with pytest.raises(OutputExistsError):
            report.report(run, path)
    assert run_info.read(run)
    with pytest.raises(InputError, match="not the directory of a run"):
        report.report(tmp_path, tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_marks():
    story = [
        event("start", 0),
        event("skip", 3, reason="a spike"),
        event("stop", 5, signal=15),
        event("start", 5),
        event("start", 4),  # the one before was killed
        event("roll back", 9, reason="back from step 9 to 6"),
        event("start", 6),  # the same process
        event("stop", 10, signal=None),
        event("rewound", 10, to=3, set=["train.lr=1"]),
        event("start", 3),
        event("finish", 12, signal=None),
    ]
    found = report.marks(story, False)
    assert [(mark.kind, mark.step) for mark in found] == [
        ("stopped", 5), ("killed", 4), ("rolled back", 9), ("stopped", 10), ("rewound", 10),
        ("stopped", 12),
    ]  # fmt: skip
    assert "SIGTERM" in found[0].what and "began at step 5" in found[1].what
    assert "train.lr=1" in found[4].what and "finished" in found[5].what
    assert report.marks([event("start", 0)], True) == []
    assert [mark.kind for mark in report.marks([event("start", 0)], False)] == ["killed"]


def test_a_process_at_work_was_not_killed(run):
    with (run / run_log.EVENTS).open("a") as file:
        file.write(json.dumps(event("start", 16)) + "\n")
    with locked(run / "LOCK"):
        report.report(run, run / "a.html")
    report.report(run, run / "b.html")
    assert "killed" not in (run / "a.html").read_text()
    assert "killed" in (run / "b.html").read_text()


def test_smooth_is_a_mean_of_what_is_finite():
    y = np.array([1.0, np.nan, 3.0, 5.0, 7.0, 9.0])
    assert np.allclose(report.smooth(y), [2, 3, 4, 6, 6, 7])
    assert np.isnan(report.smooth(np.full(3, np.nan))).all()
    assert np.allclose(report.smooth(np.arange(1000.0))[500], 500)
