"""Outcomes of targets in tables: the labels of a text are the targets that answer it well."""

import csv
import json

import pytest

from motherbird import InputError
from motherbird.data.outcomes import read_outcomes

ROWS = [("Who?", "1", "0.9", "x"), ("What, now?", "0", "0.4", "y"), ("Where\nto?", "true", "0", "")]


def test_files(tmp_path):
    with (tmp_path / "in.csv").open("w", encoding="utf-8-sig", newline="") as file:
        csv.writer(file).writerows([("query", "small", "large", "label"), *ROWS])
    rows = [
        {"query": text, "small": small in ("1", "true"), "large": float(large), "label": 3}
        for text, small, large, _ in ROWS
    ]
    (tmp_path / "in.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pyarrow.Table.from_pylist(rows), tmp_path / "in.parquet")
    for name in ("in.csv", "in.jsonl", "in.parquet"):
        found = read_outcomes(tmp_path / name, ["small", "large"])
        assert found.kind == "multi" and found.texts == [row[0] for row in ROWS]
        assert found.labels == [["small", "large"], [], ["small"]]
    low = read_outcomes(tmp_path / "in.csv", ["large"], text="query", good=0.2)
    assert low.labels == [["large"], ["large"], []]
    assert low.where == [f"{tmp_path / 'in.csv'}:{line}" for line in (2, 3, 5)]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "empty"),
        ("text,small\na,1\n", r'no column "large": .*in\.csv:2: .* are "text", "small"'),
        ("text,small,large\n", "no examples"),
        ("text,small,large\na,1,0\nb,1,\n", r'missing: .*in\.csv:3, column "large": write 0, 1'),
        ("text,small,large\na,1,0\nb,nan,1\n", r'missing: .*in\.csv:3, column "small"'),
        ("text,small,large\na,1,0\nb,good,1\n", r"not a number: 'good': .*in\.csv:3"),
        ("text,small,large\na,1,7\n", r"7\.0 is not within 0 and 1: .*in\.csv:2"),
        ("text,small,large\na,1,0\n,1,0\n", r'in\.csv:3, column "text"'),
        ("a,small,large\nx,1,0\n", "no column has a usual name of the text.*--text"),
        ('text,small,large\n"a,1,0\n', r"a quote is not closed.*in\.csv:2"),
        ("text,small,large\na,1\n", r"in\.csv:2"),
    ],
)
def test_a_file_that_cannot_be_used(content, says, tmp_path):
    (tmp_path / "in.csv").write_text(content)
    with pytest.raises(InputError, match=says):
        read_outcomes(tmp_path / "in.csv", ["small", "large"])


def test_the_routing_set(shared):
    """The label "strong" of the set is what only the strong model answers well."""
    file = shared / "data/tasks/routing/dev.jsonl.gz"
    found = read_outcomes(file, ["weak", "strong"])
    assert len(found) == 2289
    assert sum(own == ["strong"] for own in found.labels) == 441
    assert sum("weak" in own for own in found.labels) == pytest.approx(0.676 * 2289, abs=2)
