"""Tables in Markdown."""

import pytest

from motherbird.bench import report
from motherbird.markdown import cell, table


def test_a_table():
    assert table(("a", "b"), [("1", "2")]) == "| a | b |\n| --- | --- |\n| 1 | 2 |\n"
    assert table((), [("1", "2")]) == "|  |  |\n| --- | --- |\n| 1 | 2 |\n"
    assert table(("a",), []) == "| a |\n| --- |\n"


@pytest.mark.parametrize("text", ["a|b", "a\nb", "a\r\n\n|\tb", " | "])
def test_any_text_is_one_cell(text):
    (line,) = table(("a",), [(text,)]).splitlines()[2:]
    assert line.count("|") == 2 and line == f"| {cell(text)} |"


def test_a_reason_of_several_lines_is_one_row_of_the_page(monkeypatch):
    monkeypatch.setattr(report, "tables", lambda document: [("title", [["system", "a\nb"]])])
    monkeypatch.setattr(report, "facts", lambda document: [("model", "one\ntwo")])
    page = report.markdown([{"model": "m", "machine": {"cpu": "c"}}])
    assert "| model | one two |\n" in page and "| system | a b |\n" in page
