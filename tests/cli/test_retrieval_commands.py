"""``motherbird evaluate retrieval`` and ``motherbird distill static``."""

import json
import re

import numpy as np
import pytest
from retrieval_set import write_set

from motherbird import Dense, Embedder, LateEmbedder, Reranker, StaticEmbedder, maxsim_many
from motherbird.nn import Encoder, SequenceClassifier
from motherbird.retrieval.embedders import open_embedder, open_late
from motherbird.retrieval.evaluate import _Search
from motherbird.retrieval.measure import means, measure
from motherbird.retrieval.passages import open_divide
from motherbird.retrieval.ranking import by_words, fuse
from motherbird.retrieval.sets import read_set

pytest.importorskip("ir_measures")


@pytest.fixture
def folder(tmp_path):
    return write_set(tmp_path / "sets/animals")


def test_modes_of_a_set(motherbird, folder, model, tmp_path):
    call = ("evaluate", "retrieval", "--data", folder, "--model", model)
    found = motherbird(*call, "--json", "--out", tmp_path / "each.jsonl").done().json
    assert found["model"] == str(model) and found["seconds"] > 0
    [row] = found["sets"]
    assert (row["dataset"], row["split"], row["documents"]) == ("animals", "test", 5)
    assert (row["queries"], row["without"], row["empty"]) == (2, 1, 1)
    assert list(row["modes"]) == ["bm25", "dense", "hybrid"]
    assert row["modes"]["bm25"]["recall@100"] == 0.75  # "hive" has no word of the query
    assert found["mean"] == row["modes"]
    lines = [json.loads(line) for line in (tmp_path / "each.jsonl").read_text().splitlines()]
    assert [line["query"] for line in lines] == ["q1", "q2"]
    for mode, metrics in row["modes"].items():
        each = [line["modes"][mode]["nDCG@10"] for line in lines]
        assert np.mean(each) == pytest.approx(metrics["nDCG@10"])
    difference = row["differences"]["dense"]
    assert difference["low"] <= difference["mean"] <= difference["high"]
    assert difference["mean"] == pytest.approx(
        row["modes"]["dense"]["nDCG@10"] - row["modes"]["bm25"]["nDCG@10"]
    )


@pytest.mark.parametrize("command", ["retrieval", "mteb"])
def test_help_says_which_texts_are_truncated(motherbird, command):
    said = " ".join(motherbird("evaluate", command, "--help").done().out.split())
    assert "are computed in windows" in said and "read whole" not in said
    assert re.search(r"other models.* truncate .*queries of late|queries of late.* truncate", said)


def test_a_model_of_both_kinds_of_vectors(motherbird, folder, model, tmp_path):
    """hybrid has the kinds that are named, and vectors of texts if none is."""
    encoder = Encoder.load(model, dtype="stored")
    dense = [Dense(np.random.default_rng(0).normal(size=(8, 32)))]
    Embedder(encoder, dense=dense).save(tmp_path / "both")
    call = ("evaluate", "retrieval", "--data", folder, "--model", tmp_path / "both", "--json")

    def modes(names):
        [row] = motherbird(*call, "--mode", names).done().json["sets"]
        return row["modes"]

    found = modes("dense,late,bm25,hybrid")
    assert list(found) == ["dense", "late", "bm25", "hybrid"]
    one, other, alone = modes("dense,hybrid"), modes("late,hybrid"), modes("hybrid")
    assert (one["dense"], other["late"]) == (found["dense"], found["late"])
    assert alone["hybrid"] == one["hybrid"]
    data = read_set(folder, "test")
    words = by_words(data.queries, data.documents)
    both = str(tmp_path / "both")
    search = _Search(data, [], open_embedder(both), open_late(both), None, None)
    vectors = {kind: search.ranking(kind) for kind in ("dense", "late")}
    fused = fuse(words, vectors, len(data.documents))
    assert means(measure(data, fused)) == pytest.approx(found["hybrid"])


@pytest.fixture
def ranker(model, tmp_path):
    encoder = Encoder.load(model, dtype="stored")
    ranker = SequenceClassifier(encoder.config, ("relevant",))
    ranker.model.load_state_dict(encoder.state_dict())
    ranker.save(tmp_path / "ranker", tokenizer=encoder.tokenizer)
    return tmp_path / "ranker"


def test_late_interaction_and_a_reranker(motherbird, folder, late, ranker):
    call = ("evaluate", "retrieval", "--data", folder, "--model", late, "--reranker", ranker)
    found = motherbird(*call, "--mode", "late,bm25,hybrid,rerank", "--json").done().json
    assert (found["model"], found["reranker"]) == (str(late), str(ranker))
    [row] = found["sets"]
    assert list(row["modes"]) == ["late", "bm25", "hybrid", "rerank"]
    assert row["modes"]["late"]["recall@100"] == 1 == row["modes"]["rerank"]["recall@100"]
    data = read_set(folder, "test")
    model, scores = LateEmbedder.load(late), Reranker.load(ranker)
    texts = [text for text in data.documents if text]
    documents = model.embed_tokens(texts)
    for mode, order in (
        ("late", [maxsim_many(q, documents) for q in model.embed_tokens(data.queries, "query")]),
        ("rerank", [scores.score(query, texts) for query in data.queries]),
    ):
        first = [
            next(rank for rank, n in enumerate(np.argsort(-own, kind="stable"), 1) if n in relevant)
            for own, relevant in zip(order, data.relevant, strict=True)
        ]
        assert row["modes"][mode]["MRR@10"] == pytest.approx(np.mean([1 / n for n in first]))
    motherbird(*call[:-2], "--mode", "dense").refused("a vector for each token.*use the mode late")
    short = motherbird(*call[:-2], "--mode", "late", "--truncate-dim", 1, "--json").done().json
    assert short["truncate_dim"] == 1 and short["mean"]["late"] != found["mean"]["late"]
    motherbird(*call[:-2], "--mode", "bm25", "--truncate-dim", 1).refused("needs the mode late")
    shown = motherbird(*call, "--mode", "bm25,rerank").done().out
    assert "rerank - bm25" in shown


def test_models_of_other_architectures(motherbird, folder, late, ranker, monkeypatch):
    """sentence-transformers computes them."""
    pytest.importorskip("sentence_transformers")
    call = ("evaluate", "retrieval", "--data", folder, "--model", late, "--reranker", ranker)
    call += ("--mode", "late,rerank", "--dtype", "float32", "--json")
    ours = motherbird(*call).done().json["mean"]
    monkeypatch.setattr("motherbird.retrieval.embedders.is_ours", lambda directory: False)
    theirs = json.loads(motherbird(*call).out)["mean"]
    assert theirs["rerank"] == ours["rerank"] and theirs.keys() == ours.keys()
    motherbird(*call, "--truncate-dim", 1).refused("sentence-transformers cannot keep")


def test_a_table_of_several_sets(motherbird, folder):
    write_set(folder.parent / "more")
    out = motherbird("evaluate", "retrieval", "--data", folder.parent, "--mode", "bm25").done().out
    lines = out.splitlines()
    assert [line.split()[0] for line in lines if line[0] != " "] == [
        "nDCG@10", "animals", "more", "mean"
    ]  # fmt: skip
    assert lines[-1].split()[1] == lines[1].split()[-1]
    assert "1 query without a relevant document" in out


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--mode", "sparse"], "no mode 'sparse': use bm25, dense, late, hybrid, rerank"),
        (["--truncate-dim", 9], "--truncate-dim needs the mode late"),
        (["--mode", "late", "--truncate-dim", 999], "invalid truncate_dim 999: use 1 to 320"),
        (["--mode", "rerank", "--reranker", "x"], "rerank sorts the documents of another mode"),
        (["--mode", "bm25,rerank"], "Missing option '--reranker'"),
        (["--reranker", "x"], "Missing option '--mode with rerank'"),
        (["--mode", "bm25,rerank", "--reranker", "motherbird-nano"], "cannot score pairs of texts"),
        (["--split", "dev"], "there is no split dev: .*use --split test"),
        (["--model", "nowhere"], "nowhere"),
        (["--data", "nowhere"], "the directory does not exist"),
        (["--out", "each.csv"], "--out is not a .jsonl file"),
        (["--max-queries", 0], "--max-queries"),
        (["--documents", "last"], "--documents"),
        (["--documents", "first", "--mode", "bm25"], "--documents needs dense or late"),
        (["--passage-tokens", 9], "--passage-tokens needs --documents first or passages"),
        (["--chart", "chart.pdf"], "--chart is not a .svg or .png file: .*ends in .svg or .png"),
        (["--table", "table.csv"], "--table is not a .md file"),
        (["--baseline", "nowhere.jsonl"], "the baseline is not a file: nowhere.jsonl"),
    ],
)
def test_refused(motherbird, folder, options, says):
    motherbird("evaluate", "retrieval", "--data", folder, *options).refused(says)


def test_late_interaction_needs_a_projection(motherbird, folder, model):
    call = ("evaluate", "retrieval", "--data", folder, "--model", model, "--mode")
    for mode in ("late", "dense,late"):
        motherbird(*call, mode).refused("not a late-interaction model: .*use the mode dense")


def test_documents_in_passages(motherbird, folder, model, late):
    call = ("evaluate", "retrieval", "--data", folder, "--json", "--mode")
    modes = {}
    for mode, directory in (("dense", model), ("late", late)):
        for reading in ("whole", "first", "passages"):
            options = [] if reading == "whole" else ["--passage-tokens", 4]
            found = motherbird(*call, mode, "--model", directory, "--documents", reading, *options)
            [row] = found.done().json["sets"]
            assert row["long_documents"] == reading
            assert row["passage_tokens"] == (None if reading == "whole" else 4)
            modes[mode, reading] = row["modes"][mode]
    data = read_set(folder, "test")
    embedder = Embedder.load(model)
    texts = [text for text in data.documents if text]
    for reading in ("first", "passages"):
        divide = open_divide(str(model), reading, 4)
        vectors = [embedder.embed(own, normalize=True) for own in divide(texts)]
        assert max(map(len, vectors)) == (1 if reading == "first" else 5)
        queries = embedder.embed(data.queries, prompt_name="query", normalize=True)
        ranks = []
        for query, relevant in zip(queries, data.relevant, strict=True):
            order = np.argsort([-(own @ query).max() for own in vectors], kind="stable")
            ranks.append(next(rank for rank, n in enumerate(order, 1) if n in relevant))
        expected = np.mean([1 / rank for rank in ranks])
        assert modes["dense", reading]["MRR@10"] == pytest.approx(expected)
    [row] = motherbird(*call, "bm25").done().json["sets"]
    assert row["long_documents"] is None


def test_other_models_truncate(motherbird, folder, model, monkeypatch):
    pytest.importorskip("sentence_transformers")
    monkeypatch.setattr("motherbird.retrieval.embedders.is_ours", lambda directory: False)
    monkeypatch.setattr("motherbird.retrieval.passages.is_ours", lambda directory: False)
    call = ("evaluate", "retrieval", "--data", folder, "--model", model, "--mode", "dense")
    call += ("--dtype", "float32", "--json")
    assert json.loads(motherbird(*call).out)["sets"][0]["long_documents"] == "truncated"
    [row] = json.loads(motherbird(*call, "--documents", "passages").out)["sets"]
    assert (row["long_documents"], row["passage_tokens"]) == ("passages", 512)


def test_a_comparison_with_an_earlier_evaluation(motherbird, folder, model, tmp_path):
    call = ("evaluate", "retrieval", "--data", folder, "--model", model, "--mode")
    both, one = tmp_path / "both.jsonl", tmp_path / "one.jsonl"
    before = motherbird(*call, "bm25,dense", "--out", both, "--json").done().json["sets"][0]
    assert before["baseline"] is None
    found = motherbird(*call, "dense,hybrid", "--baseline", both, "--json").done().json["sets"][0]
    compared = found["baseline"]
    assert (compared["queries"], compared["missing"], compared["unused"]) == (2, 0, 0)
    assert compared["differences"] == {"dense": {"mode": "dense", "mean": 0, "low": 0, "high": 0}}
    motherbird(*call, "bm25", "--max-queries", 1, "--out", one).done()
    found = motherbird(*call, "dense,hybrid", "--baseline", one, "--json").done().json["sets"][0]
    compared = found["baseline"]
    assert (compared["queries"], compared["missing"], compared["unused"]) == (1, 1, 0)
    each = {line["query"]: line for line in map(json.loads, both.read_text().splitlines())}
    difference = compared["differences"]["dense"]
    wanted = each["q1"]["modes"]["dense"]["nDCG@10"] - each["q1"]["modes"]["bm25"]["nDCG@10"]
    assert difference["mode"] == "bm25" and difference["mean"] == pytest.approx(wanted)
    shown = motherbird(*call, "dense", "--baseline", one).done().out
    assert "dense - baseline's bm25: " in shown
    assert "1 query not in the baseline, left out of the comparison" in shown
    shown = motherbird(*call, "bm25", "--max-queries", 1, "--baseline", both).done().out
    assert "1 query of the baseline not used" in shown


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("", "the baseline is empty: .*b.jsonl"),
        ('{"text": "a"}\n', "not the result of a query: .*b.jsonl:1: use a file of"),
        ("{line}{line}", "query 'q1' of animals occurs twice: .*b.jsonl:2"),
        ('{line}{"dataset": "a", "query": "b", "modes": {"late": {"nDCG@10": 1}}}',
         "the modes are not dense, late: .*b.jsonl:2"),
        ("{line", "b.jsonl:1"),
        ('{"dataset": "other", "query": "q1", "modes": {"bm25": {"nDCG@10": 1}}}',
         "the baseline has none of the queries: .*b.jsonl"),
        ("{line}", "the baseline has no mode bm25: .*b.jsonl: use --mode dense,late"),
    ],
)  # fmt: skip
def test_what_is_no_baseline(motherbird, folder, tmp_path, content, says):
    modes = {mode: {"nDCG@10": 0.5} for mode in ("dense", "late")}
    line = json.dumps({"dataset": "animals", "query": "q1", "modes": modes}) + "\n"
    path = tmp_path / "b.jsonl"
    path.write_text(content.replace("{line}", line))
    call = ("evaluate", "retrieval", "--data", folder, "--mode", "bm25", "--baseline", path)
    motherbird(*call).refused(says, code=1 if says == "b.jsonl:1" else 2)


def test_a_chart_and_a_table(motherbird, folder, model, tmp_path):
    pytest.importorskip("matplotlib")
    write_set(folder.parent / "$more$")
    call = ("evaluate", "retrieval", "--data", folder.parent, "--model", model)
    table, chart, each = (tmp_path / name for name in ("table.md", "chart.svg", "each.jsonl"))
    motherbird(*call, "--table", table, "--chart", chart, "--out", each).done()
    text = chart.read_text()
    assert all(f">{name}<" in text for name in ("$more$", "animals", "mean", "hybrid", "nDCG@10"))
    head, _, *rows = table.read_text().splitlines()
    assert head == "| nDCG@10 | documents | queries | bm25 | dense | hybrid |"
    assert [row.split()[1] for row in rows] == ["$more$", "animals", "mean"]
    motherbird(
        *call, "--chart", tmp_path / "chart.PNG", "--baseline", each, "--table", table
    ).done()
    assert (tmp_path / "chart.PNG").read_bytes().startswith(b"\x89PNG")
    assert "| animals | 2 | dense - baseline's dense | +0.0000 | +0.0000 to +0.0000 |" in (
        table.read_text()
    )


@pytest.fixture
def texts(tmp_path, prose):
    path = tmp_path / "texts.jsonl"
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in prose[:200]))
    return path


def test_static_vectors_learn_the_teacher(motherbird, model, texts, tmp_path):
    pytest.importorskip("sentence_transformers")
    call = ("distill", "static", "--teacher", model, "--tokenizer", model, "--data", texts)
    call += ("--texts", 400, "--epochs", 3, "--lr", 2e-3)
    found = motherbird(*call, "--out", tmp_path / "static", "--json").done().json
    assert found["cosine"]["after"] > found["cosine"]["before"] + 0.02
    assert found["documents"] <= 400 and found["model"] == str(tmp_path / "static")
    embedder = StaticEmbedder.load(tmp_path / "static")
    assert embedder.size == found["dimensions"]
    vectors = embedder.embed(["open a file", "read a line"], normalize=False)
    # The first dimensions are those that vary most.
    rows = embedder.table.std(axis=0)
    assert rows[: len(rows) // 4].mean() > rows[-len(rows) // 4 :].mean()
    assert np.isfinite(vectors).all()
    line = motherbird(*call, "--out", tmp_path / "fewer", "--dimensions", 8).done().out
    assert "cosine with the teacher" in line and StaticEmbedder.load(tmp_path / "fewer").size == 8
    evaluated = motherbird("evaluate", "retrieval", "--data", write_set(tmp_path / "set"),
                           "--model", tmp_path / "static", "--mode", "dense", "--json")  # fmt: skip
    assert 0 <= evaluated.done().json["mean"]["dense"]["nDCG@10"] <= 1


def test_the_vectors_of_the_teacher_are_kept(motherbird, model, texts, tmp_path, monkeypatch):
    """A run that fails after some texts computes the others only."""
    pytest.importorskip("sentence_transformers")
    from motherbird.train.vectors import static, teacher

    monkeypatch.setattr(teacher, "SHARD", 64)
    computed: list[int] = []
    embed = teacher.Teacher.embed

    def counted(self, some):
        if len(computed) == 5 and fails:
            raise MemoryError
        computed.append(len(some))
        return embed(self, some)

    monkeypatch.setattr(teacher.Teacher, "embed", counted)
    arguments = (str(model), str(model), [texts], tmp_path / "out")
    settings = static.StaticTraining(texts=300, epochs=1)
    fails = True
    with pytest.raises(MemoryError):
        static.distill_static(*arguments, settings)
    assert not (tmp_path / "out").exists()
    fails, before = False, sum(computed)
    static.distill_static(*arguments, settings)
    resumed = sum(computed)
    computed.clear()
    kept = tmp_path / "vectors"
    static.distill_static(*arguments[:3], tmp_path / "other", settings, vectors=kept)
    assert before > 64 and sum(computed) == resumed - 1  # one text when the teacher is loaded
    computed.clear()
    static.distill_static(*arguments[:3], tmp_path / "third", settings, vectors=kept)
    assert computed == [1]
    names = ("out", "other", "third")
    weights = [(tmp_path / name / "model.safetensors").read_bytes() for name in names]
    assert weights[0] == weights[1] == weights[2]


def test_texts_of_a_datasets_directory(motherbird, model, prose, tmp_path):
    pytest.importorskip("sentence_transformers")
    library = pytest.importorskip("datasets")
    library.Dataset.from_dict({"text": prose[:4]}).save_to_disk(tmp_path / "data")
    found = motherbird("distill", "static", "--teacher", model, "--tokenizer", model, "--data",
                       tmp_path / "data", "--texts", 100, "--epochs", 1, "--out",
                       tmp_path / "static", "--json")  # fmt: skip
    assert 0 < found.done().json["documents"] <= 100


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--teacher", "nowhere"], "nowhere"),
        (["--tokenizer", "{tmp}/sets"], "no such directory|tokenizer"),
        (["--data", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--column", "missing"], "no row has a column of texts"),
        (["--dimensions", 4000], "dimensions = 4000 is not within"),
        (["--texts", 3], "--texts"),
        (["--vectors", __file__], "it is not a directory"),
    ],
)
def test_distilling_is_refused(motherbird, model, texts, tmp_path, options, says):
    pytest.importorskip("sentence_transformers")
    call = ["distill", "static", "--teacher", model, "--tokenizer", model, "--data", texts]
    call += ["--out", tmp_path / "static"]
    options = [str(option).format(tmp=tmp_path) for option in options]
    motherbird(*call, *options).refused(says)
    assert not (tmp_path / "static").exists()
