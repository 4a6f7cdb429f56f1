"""Tables and charts: every measurement is shown, and a wrong system is never the best."""

import copy
import json

import pytest

from motherbird.bench import report
from motherbird.errors import InputError


def row(system, speed, dtype="float32", workload="queries", **changes):
    return {
        "system": system, "workload": workload, "dtype": dtype, "batch": 4,
        "batch_of": "documents", "documents": 8, "tokens_per_s": speed, "ms": None,
        "spread": 0.02, "repeats": 3, "tried": {"1": 5.0}, "peak_mb": 1234.5, "loaded_mb": 900.0,
        "roofline_fraction": 0.5, "correct": True, "cosine": 1.0, "compared_with": "oracle",
        "reason": None, **changes,
    }  # fmt: skip


@pytest.fixture
def document():
    return {
        "machine": {
            "cpu": "Some | CPU", "isa_extensions": ["avx2"], "cores": 2, "threads": 2,
            "memory_gb": 24.0,
            "versions": {"torch": "2.13"}, "environment": {"ONEDNN_MAX_CPU_ISA": "AVX2"},
        },
        "model": "base",
        "roofline_tflops": {"float32": 0.3, "bfloat16": None, "int8": 1.0},
        "roofline_runs": [],
        "rows": [
            row("slow", 100.0),
            row("motherbird", 300.0, batch=2048, batch_of="tokens"),
            row("wrong", 900.0, correct=False, cosine=None, reason="wrong: 1 of 2 not finite"),
            row("other", 800.0, compared_with="itself"),
            row("fast", 200.0),
            row("fast", 5000.0, dtype="int8"),
            row("gone", None, correct=None, reason="not installed", documents=0, batch=None,
                peak_mb=None, roofline_fraction=None, spread=None, repeats=0),
            row("motherbird", 50.0, workload="latency", ms=20.04),
        ],
        "seconds": 1800.0,
        "finished": True,
    }  # fmt: skip


def test_the_best_peer_is_correct_not_ours_and_of_one_dtype(document):
    rows = document["rows"][:7]
    assert report.best_peer(rows[0], rows) == 200.0
    assert report.best_peer(rows[5], rows) == 5000.0
    assert report.best_peer(row("motherbird", 1.0, dtype="bfloat16"), rows) is None


def test_tables(document):
    (queries, lines), (latency, one) = report.tables(document)
    assert queries == "queries: 16 to 64 tokens" and latency.startswith("latency: ")
    names = [line[0] for line in lines]
    assert names == ["motherbird", "fast", "wrong", "other", "fast", "slow", "gone"]
    of_best = {line[0]: line[3] for line in lines if line[1] == "float32"}
    assert of_best == {"motherbird": "1.50x", "wrong": "4.50x", "other": "-", "fast": "1.00x",
                       "slow": "0.50x", "gone": "-"}  # fmt: skip
    assert one[0][4] == "20.0" and lines[0][8] == "2,048 tok"


def test_plain(document):
    text = report.plain(document)
    parts = ["Some | CPU, 2 cores", "float32 0.300, int8 1.000", "ONEDNN_MAX_CPU_ISA=AVX2",
             "30 minutes", "not installed", "wrong: 1 of 2 not finite", "1.50x"]  # fmt: skip
    assert [part for part in parts if part not in text] == []
    lines = text.splitlines()
    head = next(line for line in lines if line.startswith("system"))
    assert "ms" not in head.split()  # of queries: an empty column is left out
    document["finished"] = False
    assert "stopped before its end" in report.plain(document)


def test_markdown_has_everything(document):
    text = report.markdown([document], ["chart.svg"])
    assert text.startswith("## base on Some | CPU\n")
    assert "(chart.svg)" in text and "### latency" in text
    for name in ("motherbird", "slow", "fast", "wrong", "other", "gone", "not installed"):
        assert name in text
    tables = [line for line in text.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in tables} == {3, len(report.COLUMNS) + 1}


def test_the_page_keeps_its_prose():
    page = f"# Title\n\nBefore.\n\n{report.START}\nold\n{report.END}\n\nAfter.\n"
    once = report.into_page(page, "new\n", "page.md")
    assert once == f"# Title\n\nBefore.\n\n{report.START}\n\nnew\n\n{report.END}\n\nAfter.\n"
    assert report.into_page(once, "new\n", "page.md") == once
    for broken in ("no markers", report.START, f"{report.END} {report.START}", page + page):
        with pytest.raises(InputError, match="no table markers"):
            report.into_page(broken, "new", "page.md")


def test_reading(tmp_path, document):
    path = tmp_path / "r.json"
    path.write_text(json.dumps(document))
    assert report.read(path) == document
    path.write_text("[]")
    with pytest.raises(InputError, match="not a result"):
        report.read(path)


def test_a_run_with_fewer_instructions_has_a_name_of_its_own(document):
    limited = copy.deepcopy(document)
    limited["machine"]["environment"] = {"ATEN_CPU_CAPABILITY": "avx2"}
    assert report.chart_name(limited) == "performance-base-some-cpu-limited-to-avx2.svg"
    page = report.markdown([document, limited])
    assert page.count("## base on Some | CPU\n") == 1
    assert page.count("## base on Some | CPU, limited to AVX2\n") == 1


@pytest.mark.filterwarnings("ignore")
def test_the_chart(tmp_path, document):
    pytest.importorskip("matplotlib")
    path = tmp_path / report.chart_name(document)
    assert path.name == "performance-base-some-cpu.svg"
    report.chart(document, path)
    text = path.read_text()
    assert "<svg" in text and len(text) < 100_000
