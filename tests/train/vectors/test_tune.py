"""Training for retrieval: it learns, resumes exactly, and what it saves loads."""

import json
import signal
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motherbird import Embedder, LateEmbedder, StaticEmbedder, maxsim
from motherbird.data.pairs import Pairs, read_pairs, read_texts, split_off
from motherbird.errors import InputError, OutputExistsError, StoppedError
from motherbird.files import sha256
from motherbird.models.dense import Dense
from motherbird.nn import Encoder
from motherbird.nn.vectors import VectorModel
from motherbird.strict import load
from motherbird.train.objectives.late import LateObjective
from motherbird.train.tuning_run import Caller
from motherbird.train.vectors.recipe import VectorTuning
from motherbird.train.vectors.rows import TextRows
from motherbird.train.vectors.tune import finetune_vectors

RECIPES = Path(__file__).resolve().parents[3] / "recipes/retrieval"
# In queries, and in documents.
THINGS = {
    "list": "row",
    "folder": "place",
    "time": "hour",
    "file": "page",
    "string": "text",
    "number": "count",
    "image": "view",
    "socket": "plug",
    "thread": "line",
    "lock": "key",
}
VERBS = {"open": "begin", "close": "end", "sort": "order", "print": "show", "find": "look up",
         "copy": "double"}  # fmt: skip


def pairs(scores: bool = False) -> tuple[Pairs, Pairs]:
    """Sixty queries, the last ten of which are dev, with an answer and a wrong one each."""
    queries = [f"How to {verb} a {thing}?" for verb in VERBS for thing in THINGS]
    texts = [[f"Call it to {verb} the {thing}.", f"There is no {thing} here."]
             for verb in VERBS.values() for thing in THINGS.values()]  # fmt: skip
    wanted = [[2.0, -1.0]] * len(queries) if scores else []
    whole = Pairs(queries, texts, wanted, [f"row {n}" for n in range(len(queries))])
    order = np.random.default_rng(0).permutation(len(queries)).tolist()
    return whole.select(order[:50]), whole.select(order[50:])


def recipe(base, task, **more) -> VectorTuning:
    settings = {"epochs": 4, "batch_size": 10, "lr": 3e-3, "dtype": "float32", "save_every": 3}
    return VectorTuning(task=task, model=str(base), **(settings | more))


@pytest.mark.parametrize("task", ["dense", "late"])
def test_it_learns_and_what_it_saves_loads(task, base, tmp_path):
    train, dev = pairs()
    still = recipe(base, task, lr=1e-12, epochs=1)
    untrained = finetune_vectors(still, train, dev, tmp_path / "a")
    found = finetune_vectors(recipe(base, task), train, dev, tmp_path / "b")
    assert found["dev"]["MRR@10"] > untrained["dev"]["MRR@10"]
    assert found["dev"]["MRR@10"] == max(found["curve"]) and len(found["curve"]) == 4
    assert json.loads((tmp_path / "b/finetune.json").read_text()) == found
    if task == "dense":
        model = Embedder.load(tmp_path / "b", dtype="float32")
        queries = model.embed(dev.queries)
        documents = model.embed([text for own in dev.documents for text in own])
        scores = queries @ documents.T
    else:
        late = LateEmbedder.load(tmp_path / "b", dtype="float32")
        assert late.size == 128 and late.prefixes == {"query": "[Q] ", "document": "[D] "}
        queries = late.embed_tokens(dev.queries, "query")
        documents = late.embed_tokens([text for own in dev.documents for text in own])
        scores = np.array([[maxsim(q, d) for d in documents] for q in queries])
    right = scores[np.arange(len(dev)), 2 * np.arange(len(dev))]
    ranks = 1 + (scores > right[:, None]).sum(axis=1)
    assert np.where(ranks <= 10, 1 / ranks, 0).mean() == pytest.approx(found["dev"]["MRR@10"])


def test_scores_of_a_teacher(base, tmp_path):
    train, dev = pairs(scores=True)
    found = finetune_vectors(recipe(base, "late", size=16), train, dev, tmp_path / "out")
    assert found["dev"]["accuracy"] >= 0.8 and LateEmbedder.load(tmp_path / "out").size == 16


def test_prompts_and_sizes_are_saved(base, tmp_path):
    train, dev = pairs()
    settings = recipe(
        base, "dense", epochs=1, size=16, dimensions=(4, 8), query_prompt="query: ",
        pooling="cls", max_length=12,
    )  # fmt: skip
    found = finetune_vectors(settings, train, dev, tmp_path / "out")
    model = Embedder.load(tmp_path / "out")
    assert (model.size, model.pooling, model.max_length) == (16, "cls", 12)
    assert model.prompts == {"query": "query: ", "document": ""}
    assert found["truncated"] > 0
    # training goes on from there, with what the model has
    again = finetune_vectors(
        recipe(tmp_path / "out", "dense", epochs=1, lr=1e-12), train, dev, tmp_path / "again"
    )
    assert again["dev"] == pytest.approx(found["dev"])
    assert Embedder.load(tmp_path / "again").prompts == model.prompts


def test_a_late_model_is_trained_further(base, tmp_path):
    train, dev = pairs()
    first = finetune_vectors(recipe(base, "late", size=16), train, dev, tmp_path / "first")
    again = finetune_vectors(
        recipe(tmp_path / "first", "late", epochs=1, lr=1e-12), train, dev, tmp_path / "again"
    )
    assert again["dev"] == pytest.approx(first["dev"])


def test_stops_and_kills_change_nothing(base, forked, tmp_path):
    train, dev = pairs()
    settings = recipe(base, "dense", seed=2)
    torch.set_num_threads(1)  # as forked processes have
    whole = finetune_vectors(settings, train, dev, tmp_path / "whole")
    stops = 0
    while not (tmp_path / "out").exists():
        try:
            found = finetune_vectors(
                settings, train, dev, tmp_path / "out", caller=Caller(max_steps=7)
            )
        except StoppedError:
            stops += 1
    assert stops == 2 and found["curve"] == whole["curve"]
    chance, kills = np.random.default_rng(0), 0
    while not (tmp_path / "killed").exists():
        child = forked(
            lambda talk: finetune_vectors(settings, train, dev, tmp_path / "killed")["epoch"]
        )
        if kills < 3:
            time.sleep(chance.uniform(0.1, 1.0))
            child.kill()
        kills += child.wait() == -signal.SIGKILL
    first, second, third = (
        sha256(tmp_path / name / "model.safetensors") for name in ("whole", "out", "killed")
    )
    assert first == second == third


def test_the_settings_of_a_late_model_are_kept(base, tmp_path):
    """Its lengths, prompts, prefixes and skiplist; masks are seen by all tokens from then on."""
    encoder = Encoder.load(base, dtype="float32")
    projection = Dense(np.eye(16, encoder.config.hidden_size, dtype=np.float32))
    first = LateEmbedder(
        encoder, [projection], query_prefix="[Ask] ", document_prefix="[Text] ", query_length=24,
        document_length=48, expand_to=24, skiplist=[".", "?"],
        prompts={"query": "search: ", "document": ""}, add_prefixes=True,
    )  # fmt: skip
    first.save(tmp_path / "first")
    train, dev = pairs()
    lines: list[str] = []
    caller = Caller(on_plan=lambda plan: lines.extend(plan.lines()))
    found = finetune_vectors(
        recipe(tmp_path / "first", "late", epochs=1), train, dev, tmp_path / "out", caller=caller
    )
    assert "queries are filled up with [MASK] to 24 tokens, which all tokens see" in lines
    model = LateEmbedder.load(tmp_path / "out", dtype="float32")
    for name in ("size", "lengths", "prompts", "prefixes", "skiplist", "expand_to"):
        assert getattr(model, name) == getattr(first, name), name
    assert model.attend_to_expansion and found["truncated"] == 0
    # dev is measured as search computes it, without the tokens of the skiplist
    queries = model.embed_tokens(dev.queries, "query")
    documents = model.embed_tokens([text for own in dev.documents for text in own])
    scores = np.array([[maxsim(q, d) for d in documents] for q in queries])
    right = scores[np.arange(len(dev)), 2 * np.arange(len(dev))]
    ranks = 1 + (scores > right[:, None]).sum(axis=1)
    assert np.where(ranks <= 10, 1 / ranks, 0).mean() == pytest.approx(found["dev"]["MRR@10"])
    shorter = recipe(tmp_path / "first", "late", epochs=1, query_length=8, document_length=8)
    found = finetune_vectors(shorter, train, dev, tmp_path / "shorter")
    model = LateEmbedder.load(tmp_path / "shorter")
    assert model.lengths == {"query": 8, "document": 8} and model.expand_to == 8
    assert found["truncated"] > 50


def test_tokens_of_the_skiplist_have_no_loss(base):
    """The loss is that of the same documents without these tokens' vectors."""
    torch.manual_seed(0)
    model = VectorModel(Encoder.load(base, dtype="float32"), "tokens")
    ids = [np.array(text, np.int32) for text in ([1, 7, 9], [1, 8, 7, 5], [1, 9, 9, 6, 7])]
    batch = TextRows(ids, [3]).batch([0])
    vectors = model(batch.packed)
    found = LateObjective(model, skipped=(7, 6)).joint_loss([batch], [vectors])
    parts = vectors.split([3, 4, 5])
    kept = torch.cat([parts[0], parts[1][[0, 1, 3]], parts[2][:3]])
    other = TextRows([ids[0], ids[1][[0, 1, 3]], ids[2][:3]], [3]).batch([0])
    assert found.item() == pytest.approx(LateObjective(model).joint_loss([other], [kept]).item())


def test_the_card(base, tmp_path):
    train, dev = pairs()
    sources = {"train": "pairs.jsonl", "command": "motherbird finetune dense --train pairs.jsonl"}
    settings = recipe(base, "dense", epochs=1, query_prompt="query: ", max_length=40)
    found = finetune_vectors(settings, train, dev, tmp_path / "model", sources=sources)
    card = (tmp_path / "model/README.md").read_text()
    for text in (
        "# model\n", f"| MRR@10 | {found['dev']['MRR@10']:.4f} |", "| train | pairs.jsonl |",
        "up to 40 tokens", 'query_prompt = "query: "', "A text is put before a query;",
        f"```sh\n{sources['command']}\n```", "SentenceTransformer(\"model\")",
    ):  # fmt: skip
        assert text in card, text
    assert str(tmp_path) not in card and "None" not in card
    finetune_vectors(recipe(base, "late", epochs=1), train, dev, tmp_path / "late")
    card = (tmp_path / "late/README.md").read_text()
    assert "128 dimensions for each token" in card and "MultiVectorEncoder" in card
    assert "part | source" not in card


def test_an_encoder_may_begin_as_static_vectors(small_tokenizer, tmp_path):
    table = np.random.default_rng(0).normal(size=(small_tokenizer.vocab_size, 24))
    StaticEmbedder(small_tokenizer.backend, table.astype(np.float32)).save(tmp_path / "static")
    train, dev = pairs()
    settings = recipe(tmp_path / "static", "dense", epochs=1, lr=1e-12, preset="nano")
    finetune_vectors(settings, train, dev, tmp_path / "out")
    assert Embedder.load(tmp_path / "out").size == 320


@pytest.mark.parametrize("name", ["dpr", "colbert"])
def test_recipes_of_the_paper_take_steps(name, base, tmp_path):
    """With a small model, on a stand-in for their data as the Hub has it."""
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    (tmp_path / "train").mkdir()
    train, _ = pairs()
    if name == "dpr":
        whole = {"query": train.queries, "positive": [own[0] for own in train.documents],
                 "negative": [own[1] for own in train.documents]}  # fmt: skip
        more = {}
    else:
        numbers = range(50)
        whole = {"query_id": list(numbers), "scores": [[0.9, 0.1]] * 50,
                 "document_ids": [[7 * n, 7 * n + 1] for n in numbers]}  # fmt: skip
        ids = {7 * n + k: text for n, own in enumerate(train.documents)
               for k, text in enumerate(own)}  # fmt: skip
        for kind, texts in (("query", dict(enumerate(train.queries))), ("document", ids)):
            table = {f"{kind}_id": list(texts), "text": list(texts.values())}
            parquet.write_table(pyarrow.table(table), tmp_path / f"{kind}.parquet")
        more = {"queries": read_texts(tmp_path / "query.parquet"),
                "documents": read_texts(tmp_path / "document.parquet")}  # fmt: skip
    for part in (0, 1):
        rows = {key: values[25 * part : 25 * part + 25] for key, values in whole.items()}
        parquet.write_table(pyarrow.table(rows), tmp_path / f"train/train-{part}.parquet")
    stored = load(VectorTuning, RECIPES / f"{name}.toml")
    settings = replace(stored, model=str(base), dtype="float32", batch_size=10)
    found = read_pairs([tmp_path / "train"], negatives=settings.negatives, **more)
    assert len(found) == 50 and found.documents == train.documents
    assert bool(found.scores) == (name == "colbert")
    own, dev = split_off(found, 0.2, 0, 500)
    result = finetune_vectors(settings, own, dev, tmp_path / "out")
    assert result["epoch"] == 1 and result["documents"] == {"train": 40, "dev": 10}


def test_mistakes(base, tmp_path):
    train, dev = pairs()
    with pytest.raises(InputError, match="dimensions = 99 is more than the 32"):
        finetune_vectors(recipe(base, "dense", dimensions=(99,)), train, dev, tmp_path / "out")
    with pytest.raises(InputError, match="dimensions are for the task dense"):
        recipe(base, "late", dimensions=(4,))
    with pytest.raises(InputError, match="a preset is for an encoder that begins as static"):
        finetune_vectors(recipe(base, "dense", preset="nano"), train, dev, tmp_path / "out")
    finetune_vectors(recipe(base, "dense", epochs=1), train, dev, tmp_path / "out")
    other = replace(recipe(base, "dense", epochs=1), seed=5)
    with pytest.raises(OutputExistsError, match="another run"):
        finetune_vectors(other, train, dev, tmp_path / "out")
