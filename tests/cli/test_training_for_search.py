"""``motherbird finetune dense``, ``late`` and ``multitask``, and ``motherbird distill dense``."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from motherbird import Dense, Embedder, LateEmbedder
from motherbird.cli.training import read_settings
from motherbird.nn import Encoder
from motherbird.train.vectors.recipe import Multitask

RECIPES = Path(__file__).resolve().parents[2] / "recipes/retrieval"

ROWS = [
    {"query": f"open {thing}", "positive": f"open({thing}) opens it.", "negative": "Nothing."}
    for thing in ("a file", "a door", "the window", "this box", "my bag", "a shop", "its mouth")
]


@pytest.fixture
def pairs(tmp_path):
    return write(tmp_path / "pairs.jsonl", ROWS)


def write(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


SMALL = ("--epochs", 1, "--batch-size", 4, "--max-length", 32, "--set", "dtype=float32")


def test_dense_and_then_late(motherbird, model, pairs, tmp_path):
    call = ("finetune", "dense", "--train", pairs, "--model", model, *SMALL)
    done = motherbird(*call, "--out", tmp_path / "dense", "--dimensions", "8,16",
                      "--query-prompt", "query: ")  # fmt: skip
    assert done.code == 0 and "MRR@10" in done.out
    for says in ("6 queries with 2.0 documents each, dev 1", "the projection is none", "epoch 1"):
        assert says in done.err
    dense = Embedder.load(tmp_path / "dense")
    assert dense.prompts["query"] == "query: " and dense.max_length == 32
    info = json.loads((tmp_path / "dense/finetune.json").read_text())
    assert info["recipe"]["dimensions"] == [8, 16]
    assert info["sources"]["train"] == "pairs.jsonl"
    assert info["sources"]["command"].startswith("motherbird finetune dense --train")
    late = motherbird("finetune", "late", "--train", pairs, "--dev", pairs, "--model",
                      tmp_path / "dense", *SMALL, "--size", 8, "--out", tmp_path / "late",
                      "--json")  # fmt: skip
    found = late.done().json
    assert (
        found["documents"] == {"train": 7, "dev": 7} and LateEmbedder.load(found["model"]).size == 8
    )
    again = motherbird("finetune", "late", "--train", pairs, "--dev", pairs, "--model",
                       tmp_path / "dense", *SMALL, "--size", 8, "--out", tmp_path / "late",
                       "--json")  # fmt: skip
    assert again.done().json == found  # nothing is computed


def test_scores_and_ids(motherbird, model, tmp_path):
    queries = write(tmp_path / "queries.jsonl", [{"id": n, "text": f"query {n}"} for n in range(4)])
    documents = write(
        tmp_path / "documents.jsonl", [{"id": f"d{n}", "text": f"document {n}"} for n in range(8)]
    )
    rows = [
        {"query_id": n, "document_ids": [f"d{n}", f"d{n + 4}"], "scores": [1.5, -2]}
        for n in range(4)
    ]
    call = ("finetune", "late", "--train", write(tmp_path / "rows.jsonl", rows), "--model", model,
            *SMALL, "--size", 8, "--queries", queries, "--documents", documents)  # fmt: skip
    found = motherbird(*call, "--out", tmp_path / "out", "--json").done().json
    assert 0 <= found["dev"]["accuracy"] <= 1
    rows[2]["document_ids"][1] = "d99"
    write(tmp_path / "rows.jsonl", rows)
    motherbird(*call, "--out", tmp_path / "more").refused(
        'no text with the id "d99": .*rows.jsonl:3'
    )


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"positive": " "}, r'"positive" is empty: .*pairs.jsonl:8: remove the row'),
        ({"query": None}, r'"query" is .*not a text: .*pairs.jsonl:8'),
        ({"scores": [1.0]}, r'"scores" has 1 score for 2 documents: .*pairs.jsonl:8'),
        ({"scores": [1.0, "x"]}, "something other than finite numbers"),
        ({"scores": [1.0, 2.0]}, "1 of 8 rows have scores: .*score all rows, or none"),
    ],
)
def test_bad_rows(motherbird, model, tmp_path, row, says):
    path = write(tmp_path / "pairs.jsonl", [*ROWS, {**ROWS[0], **row}])
    call = ("finetune", "late", "--train", path, "--model", model, "--out", tmp_path / "out")
    motherbird(*call).refused(says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--model", "nowhere-1"], "no such directory: nowhere-1"),
        (["--train", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--query", "question"], 'no column is called "question": .*set --query'),
        (["--dimensions", "8,x"], "is not a list such as 64,128"),
        (["--dimensions", "4096"], "dimensions = 4096 is more than the"),
        (["--set", "temperature=0"], "temperature = 0.0 has to be more than 0"),
        (["--set", "colour=blue"], "colour"),
        (["--out", "."], "."),
    ],
)
def test_mistakes(motherbird, model, pairs, tmp_path, options, says):
    call = ["finetune", "dense", "--train", pairs, "--model", model, "--out", tmp_path / "out"]
    motherbird(*call, *options).refused(says)
    assert not (tmp_path / "out").exists()


def test_scores_are_for_late_alone(motherbird, model, tmp_path):
    """`finetune dense` uses none, and does not look at a column of that name."""
    rows = [{**row, "scores": [1.0, 0.5], "labels": [3]} for row in ROWS]
    path = write(tmp_path / "pairs.jsonl", rows)
    call = ("finetune", "dense", "--train", path, "--dev", path, "--model", model, *SMALL)
    assert "MRR@10" in motherbird(*call, "--out", tmp_path / "out", "--json").done().json["dev"]


def test_a_recipe_needs_no_option_twice(motherbird, model, pairs, tmp_path):
    file = tmp_path / "r.toml"
    file.write_text('epochs = 2\nbatch_size = 4\nmax_length = 32\ndtype = "float32"\n')
    call = ("finetune", "late", "--train", pairs, "--model", model, "--recipe", file, "--epochs", 1)
    found = motherbird(*call, "--out", tmp_path / "out", "--json").done().json
    assert found["recipe"]["epochs"] == 1 and found["recipe"]["max_length"] == 32
    file.write_text('task = "dense"\n')
    motherbird(*call, "--out", tmp_path / "b").refused("of the task 'dense', not 'late': .*r.toml")


def test_a_student_of_a_teacher(motherbird, model, prose, tmp_path):
    pytest.importorskip("sentence_transformers")
    data = write(tmp_path / "texts.jsonl", [{"text": text[:400]} for text in prose[:100]])
    call = ("distill", "dense", "--teacher", model, "--model", model, "--data", data, "--texts",
            200, "--epochs", 1, "--set", "dtype=float32")  # fmt: skip
    found = motherbird(*call, "--out", tmp_path / "out", "--json").done().json
    assert found["dev"]["cosine"] > 0.5 and len(found["curve"]) == 1
    assert Embedder.load(tmp_path / "out").size == 32
    motherbird(*call, "--out", tmp_path / "more", "--preset", "nano").refused("static vectors")
    motherbird(*call, "--out", tmp_path / "out", "--lr", 1e-4).refused("the model of another run")


@pytest.mark.parametrize("name", ["1-head", "4-tasks", "5-tasks"])
def test_recipes_of_the_packaged_model(name):
    settings = read_settings(Multitask, str(RECIPES.parent / f"nano/{name}.toml"), (), {})
    assert all(task.data and task.rows >= 16000 for task in settings.task)


def test_several_tasks(motherbird, model, pairs, tmp_path):
    """The recipe of this project, on a small model and small files."""
    torch.manual_seed(0)
    encoder = Encoder.load(model, dtype="float32")
    weight = np.eye(8, encoder.config.hidden_size)
    Embedder(encoder, dense=[Dense(weight)]).save(tmp_path / "dense")
    LateEmbedder(encoder, [Dense(weight)], add_prefixes=True).save(tmp_path / "late")
    rows = [{"text": f"{row['query']} number {n}"} for row in ROWS for n in range(20)]
    texts = write(tmp_path / "texts.jsonl", rows)
    own = (f"model={tmp_path / 'dense'}", f"task.0.teacher={tmp_path / 'dense'}",
           f"task.2.teacher={tmp_path / 'dense'}", f"task.0.data=['{texts}']",
           f"task.1.data=['{pairs}']", f"task.2.data=['{texts}']", f"task.3.data=['{texts}']",
           "batch_size=64", "dtype=float32")  # fmt: skip
    call = ("finetune", "multitask", RECIPES / "multitask.toml", *given(own))
    done = motherbird(*call, "--out", tmp_path / "out")
    assert done.code == 0 and "masked accuracy" in done.out
    for says in ("vectors: 137 rows", "pairs: 6 rows", "with weight 0.2", "scores: 137 rows"):
        assert says in done.err, says
    assert LateEmbedder.load(tmp_path / "out").size == 8
    found = motherbird(*call, "--out", tmp_path / "out", "--json").done().json
    assert set(found["dev"]) == {
        "cosine", "MRR@10", "MRR@10 late", "masked accuracy", "spearman",
    }  # fmt: skip
    card = (tmp_path / "out/README.md").read_text()
    assert "[[task]]" in card and str(tmp_path) not in card.partition("```sh\nmotherbird fine")[0]
    for changed, says in (
        (f"task.1.data=['{texts}']", "query"),
        ("task.1.kind=nothing", "task.1.kind"),
        (f"model={tmp_path / 'late'}", "not one of mean pooling and one linear layer"),
    ):
        motherbird(*call, *given([changed]), "--out", tmp_path / "more").refused(says)
    assert not (tmp_path / "more").exists()


def given(changes):
    return [word for change in changes for word in ("--set", change)]
