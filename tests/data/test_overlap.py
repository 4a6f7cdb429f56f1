"""Sequences of words that documents share with evaluation texts."""

import json

import numpy as np
import pytest

from motherbird.data.overlap import COMMON, RUN, evaluation_runs, shared_run
from motherbird.data.sequences import sequences
from motherbird.errors import DamagedError, InputError


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


CHINESE = "天地玄黃宇宙洪荒日月盈昃辰宿列張寒來暑往秋收冬藏閏餘成歲律呂調陽"


@pytest.mark.parametrize("text", [CHINESE, "กรุงเทพมหานครอมรรัตนโกสินทร์มหินทรายุธยามหาดิลกภพนพรัตนราชธานี"])
def test_a_shared_sequence_without_spaces_is_found(tmp_path, text):
    write(tmp_path / "a.jsonl", [{"text": text}])
    known = evaluation_runs([tmp_path])
    assert shared_run(f"前文。{text}後文", known) in text
    assert shared_run(text[: len(text) // 2], known) is None


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


@pytest.mark.parametrize("indent", [None, 2])
def test_records_in_a_json_file_count(tmp_path, indent):
    secret = " ".join(f"w{i}" for i in range(RUN))
    rows = [{"text": secret, "tokens": secret.upper().split()}, {"text": "short"}]
    (tmp_path / "test.json").write_text(json.dumps(rows, indent=indent))
    assert shared_run(secret, evaluation_runs([tmp_path])) == secret


def test_short_texts_are_counted(tmp_path, caplog):
    """They have no sequence that could be found."""
    words = [f"w{i}" for i in range(RUN)]
    rows = [{"id": i, "label": "long", "text": " ".join(words[: RUN - 1])} for i in range(3)]
    write(tmp_path / "a.jsonl", [*rows, {"id": 9, "text": " ".join(words)}, {"id": 5}])
    (tmp_path / "b.txt").write_text("short")
    assert len(evaluation_runs([tmp_path])) == 1
    (record,) = caplog.records
    assert "fewer than 13 words are too short to be recognized, and" in record.getMessage()
    assert record.getMessage().endswith("documents with them are kept: 4 of 5")
    caplog.clear()
    assert len(evaluation_runs([tmp_path / "a.jsonl"])) == 1 and "3 of 4" in caplog.text
    caplog.clear()
    write(tmp_path / "a.jsonl", [{"id": "9", "text": " ".join(words)}])
    assert len(evaluation_runs([tmp_path / "a.jsonl"])) == 1 and not caplog.records


def test_a_pointer_of_git_lfs_is_an_error(tmp_path):
    (tmp_path / "test.jsonl").write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedError, match="LFS pointer.*git lfs pull"):
        evaluation_runs([tmp_path])


def test_no_text(tmp_path):
    with pytest.raises(InputError, match="no text was found"):
        evaluation_runs([tmp_path])


def test_nothing_known():
    assert shared_run("a " * 50, np.empty(0, np.uint64)) is None


def test_evaluation_sets_find_themselves(shared):
    """Real ones: every text of 13 words or more is found, in whatever case."""
    known = evaluation_runs([shared / "data/tasks/trec"])
    assert len(known) > 1000
    from motherbird.data.overlap import _rows

    rows = _rows(shared / "data/tasks/trec")
    found = [bool(shared_run(text.upper(), known)) for row in rows for text in row
             if len(sequences(text, RUN)[0])]  # fmt: skip
    assert sum(found) / len(found) > 0.99  # the rest are formulas
