"""Terms of texts and queries: identifiers, stems, any script."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("Stemmer")

from motherbird.engine.terms import Terms
from motherbird.search import rules
from motherbird.search.query import Query
from motherbird.search.terms import LONGEST, terms


@pytest.mark.parametrize(
    "text, wanted",
    [
        ("HTTPServer2", "httpserver2 http server 2"),
        ("parseHTMLResponse", "parsehtmlresponse pars html respons"),
        ("HCA060T", "hca060t hca 060 t"),
        ("snake_case_name", "snake_case_name snake case name"),
        ("__init__", "init"),
        ("_private", "privat"),
        ("routes registered", "rout regist"),
        ("@nasa why? multi-agent NEAR(", "nasa whi multi agent near"),
        ("Straße größe 日本語", "straße größe 日本語"),
        ("_", ""),
    ],
)
def test_terms(text, wanted):
    assert terms(text) == wanted.split()


@given(st.text())
def test_a_document_has_the_terms_of_a_query_with_its_words(text):
    """And a term has no white space, so that terms can be joined by spaces."""
    found = terms(text)
    assert all(term and not term.isspace() and " " not in term for term in found)
    assert set(terms(f"before {text} after")) >= set(found)
    assert all(len(term) <= 4 * LONGEST for term in found)


@given(st.lists(st.text(st.characters(codec="ascii"), max_size=80), max_size=20))
def test_ascii_texts_have_the_terms_that_others_have(texts):
    """The engine finds their words, and remembers only so many, and none with too many terms."""
    few = Terms(lambda word: " ".join([word] * (len(word) % 9)), 3)
    for text in [*texts, *texts]:
        assert terms(f"{text} é") == [*terms(text), "é"]
        wanted = [word for word in re.findall(r"\w+", text) for _ in range(len(word) % 9)]
        assert few.of(text).split(" ") == (wanted or [""])


def test_stop_words_do_not_count_unless_there_is_nothing_else():
    assert Query("how are the routes registered").terms == ["rout", "regist"]
    assert Query("how to be").terms == ["how", "to", "be"]
    assert Query("").terms == []


@pytest.mark.parametrize(
    "text, name",
    [
        ("Session.get", "get"), ("HTTPAdapter", "HTTPAdapter"), ("get_user", "get_user"),
        ("std::vector", "vector"), ("close()", "close"), ("session", ""), ("how does it work", ""),
        ("_private", "_private"), ("a lone \" quote", ""), ("URL", "URL"), ("empty?", ""),
    ],
)  # fmt: skip
def test_names(text, name):
    assert Query(text).name == name


def test_names_in_a_question():
    assert Query("what does BaseModel do with model_config and Fields").names == {
        "BaseModel", "model_config",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("path", "factor"),
    [
        ("src/a.py", 1.0), ("tests/a.py", 0.3), ("a/test_b.py", 0.3), ("a/b_test.go", 0.3),
        ("a/FooTest.java", 0.3), ("a/FooSpec.scala", 0.3), ("a/b.test.ts", 0.3), ("latest.py", 1.0),
        ("contest/a.py", 1.0), ("a/greatest.py", 1.0), ("examples/a.py", 0.3),
        ("a/__init__.py", 0.6),
        ("a.pyi", 0.7), ("a/__init__.pyi", 0.42), ("tests/__init__.py", 0.18), ("conftest.py", 0.3),
        ("a/testimony.py", 1.0), ("vendor/a.c", 0.3), ("a/attest.rs", 1.0),
    ],
)  # fmt: skip
def test_files_that_are_lowered(path, factor):
    assert rules.factor(path, "python") == pytest.approx(factor)
    assert rules.factor(path, "prose") == pytest.approx(factor / 2)


def test_questions_about_tests():
    assert rules.asks_for_lowered(Query("which test checks routes"))
    assert rules.asks_for_lowered(Query("examples of streaming"))
    assert not rules.asks_for_lowered(Query("where are routes registered"))
