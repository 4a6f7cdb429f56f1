"""Runs of words: the same as a plain search over words finds."""

import json
import re

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.data.overlap import COMMON, RUN, evaluation_runs, runs, shared_run
from motherbird.errors import InputError

WORD = re.compile(r"[0-9a-z\x80-\U0010ffff]+")
texts = st.text(st.sampled_from("aAbBé1 .,\n-"), max_size=120)


def plain_runs(text: str, words: int) -> list[str]:
    """By definition: words are letters, digits and whatever is not ASCII, in lower case."""
    found = WORD.findall(text.lower())
    return [" ".join(found[i : i + words]) for i in range(len(found) - words + 1)]


@given(texts, st.integers(1, 5))
def test_runs_are_those_of_a_plain_search(text, words):
    hashes, starts, ends, data = runs(text, words)
    expected = plain_runs(text, words)
    assert [data[s:e].decode() for s, e in zip(starts, ends, strict=True)] == expected
    of = dict(zip(expected, hashes.tolist(), strict=True))
    assert [of[run] for run in expected] == hashes.tolist()  # equal runs, equal hashes
    assert len(set(of.values())) == len(of)  # other runs, other hashes


def test_the_hash_does_not_depend_on_what_stands_before():
    run = " ".join(f"word{i}" for i in range(RUN))
    alone = runs(run)[0]
    assert runs(f"Something else, then: {run}")[0][-1] == alone[0]
    assert runs(run.upper().replace(" ", "... "))[0][0] == alone[0]


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def test_a_shared_run_is_found(tmp_path):
    secret = "one two three four five six seven eight nine ten eleven twelve thirteen"
    write(tmp_path / "corpus.jsonl", [{"id": "1", "text": f"so {secret} end", "other": 5}])
    known = evaluation_runs([tmp_path])
    assert shared_run(f"Prefix. {secret.replace(' ', ', ').title()}!", known) == secret
    assert shared_run(secret.replace("seven", "7"), known) is None
    assert shared_run("short", known) is None
    assert shared_run("", known) is None


def test_words_in_lists_and_nested_objects_count(tmp_path):
    words = [f"w{i}" for i in range(RUN)]
    write(
        tmp_path / "a.jsonl", [{"tokens": words}, {"deep": {"text": [" ".join(reversed(words))]}}]
    )
    known = evaluation_runs([tmp_path / "a.jsonl"])
    assert shared_run(" ".join(words), known) and shared_run(" ".join(reversed(words)), known)


def test_formulas_are_no_evidence(tmp_path):
    """A run of many texts is none; one text in many rows is one."""
    licence = " ".join(f"legal{i}" for i in range(RUN))
    write(tmp_path / "a.jsonl", [{"text": f"{licence} {n}"} for n in range(COMMON + 1)])
    assert shared_run(licence, evaluation_runs([tmp_path])) is None
    write(tmp_path / "a.jsonl", [{"text": f"{licence} {n % COMMON}"} for n in range(99)])
    assert shared_run(licence, evaluation_runs([tmp_path])) is not None


def test_every_file_of_a_folder_counts(tmp_path):
    secret = " ".join(f"w{i}" for i in range(RUN))
    (tmp_path / "test.tsv").write_text(f"1\t{secret}\n")
    assert shared_run(secret, evaluation_runs([tmp_path])) == secret


def test_no_text(tmp_path):
    with pytest.raises(InputError, match="no text was found"):
        evaluation_runs([tmp_path])


def test_nothing_known():
    assert shared_run("a " * 50, np.empty(0, np.uint64)) is None


def test_evaluation_sets_find_themselves(shared):
    """Real ones: every text of 13 words or more is found, in whatever case."""
    known = evaluation_runs([shared / "data/tasks/trec"])
    assert len(known) > 1000
    from motherbird.data.overlap import _texts

    found = [bool(shared_run(text.upper(), known)) for text in _texts(shared / "data/tasks/trec")
             if len(runs(text)[0])]  # fmt: skip
    assert sum(found) / len(found) > 0.99  # the rest are formulas
