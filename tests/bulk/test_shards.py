"""Shards: how rows are divided, and what a task writes."""

import json
import pickle
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import Dense, LateEmbedder
from motherbird.bulk import run, vectors
from motherbird.bulk.shards import (
    Done,
    Job,
    Row,
    ShardTask,
    Source,
    count_of,
    divide,
    name_of,
    read_done,
)
from motherbird.bulk.store import LocalStore, RemoteStore, locked, open_store
from motherbird.bulk.vectors import Encoded, Settings
from motherbird.errors import DamagedError, InputError, OutputExistsError, RowError, StoreError
from motherbird.nn import Encoder

pyarrow = pytest.importorskip("pyarrow")
parquet = pytest.importorskip("pyarrow.parquet")


def source(name, count):
    return Source(name, lambda: (Row(f"{name} {i}", f"{name}:{i + 1}", i) for i in range(count)))


@given(
    counts=st.lists(st.integers(0, 30), min_size=1, max_size=4),
    size=st.integers(1, 12),
    data=st.data(),
)
def test_shards_are_the_rows_in_order(counts, size, data):
    """Each row once, in shards of `size` but the last, whichever shards are wanted."""
    sources = [source(f"f{i}", count) for i, count in enumerate(counts)]
    total = sum(counts)
    every = set(range(count_of(total, size)))
    shards = list(divide(sources, size, every, total))
    assert [shard.number for shard in shards] == sorted(every)
    assert all(len(shard.texts) == size for shard in shards[:-1])
    texts = [f"f{i} {row}" for i, count in enumerate(counts) for row in range(count)]
    assert [text for shard in shards for text in shard.texts] == texts
    assert [f"{file} {row}" for s in shards for file, row in zip(s.files, s.rows, strict=True)] == (
        texts
    )
    wanted = data.draw(st.sets(st.sampled_from(sorted(every)))) if every else set()
    assert list(divide(sources, size, wanted, total)) == [
        shard for shard in shards if shard.number in wanted
    ]


def test_other_rows_than_were_counted():
    with pytest.raises(DamagedError, match="have 5 rows, and had 6"):
        list(divide([source("a", 5)], 2, {0, 1, 2}, 6))


@pytest.mark.parametrize(
    ("number", "name"), [(0, "part-00000.parquet"), (123456, "part-123456.parquet")]
)
def test_name(number, name):
    assert name_of(number) == name


def lengths(texts, names, on_batch):
    """A model: the vector of a text is its length, twice."""
    on_batch(len(texts))
    array = np.array([[len(text)] * 2 for text in texts], np.float32)
    return Encoded(array, sum(map(len, texts)), 1)


def tokens(texts, names, on_batch):
    """A model with late interaction: a vector for each word."""
    found = [np.full((len(text.split()), 3), len(text), np.float32) for text in texts]
    return Encoded(found, sum(map(len, found)), 0)


def job(out, id_type=None):
    return Job(Settings("toy"), str(out), id_type, "plan")


def shard(size=4):
    return next(divide([source("a", size)], size, {0}, size))


def test_what_a_task_writes(tmp_path):
    batches = []
    done = ShardTask(job(tmp_path), lengths, batches.append)(shard())
    data = (tmp_path / "part-00000.parquet").read_bytes()
    table = parquet.read_table(tmp_path)
    assert table.column_names == ["file", "row", "vector"]
    assert table.schema.field("vector").type == pyarrow.list_(pyarrow.float32(), 2)
    assert table.to_pylist()[3] == {"file": "a", "row": 3, "vector": [3.0, 3.0]}
    assert done == read_done(0, data, "plan", "x") == Done(0, 4, 12, 1, done.sha256)
    assert batches == [4] and [path.name for path in tmp_path.iterdir()] == [name_of(0)]


@pytest.mark.parametrize(("kind", "wanted"), [("int64", 3), ("string", "3")])
def test_ids(kind, wanted, tmp_path):
    ShardTask(job(tmp_path, kind), lengths)(shard())
    assert parquet.read_table(tmp_path).to_pylist()[3] == {"id": wanted, "vector": [3.0, 3.0]}


def test_late_interaction(tmp_path):
    done = ShardTask(job(tmp_path), tokens)(shard())
    table = parquet.read_table(tmp_path)
    wanted = pyarrow.list_(pyarrow.list_(pyarrow.float32(), 3))
    assert table.schema.field("vectors").type == wanted
    assert table["vectors"][0].as_py() == [[3.0] * 3] * 2 and done.tokens == 8


def test_the_same_shard_has_the_same_bytes(tmp_path):
    found = [ShardTask(job(tmp_path / name), lengths)(shard()) for name in "ab"]
    assert found[0] == found[1]
    again = ShardTask(job(tmp_path / "a"), lengths)(shard())  # it may be repeated
    assert again == found[0] and len(list((tmp_path / "a").iterdir())) == 1


def test_a_job_can_be_sent():
    one = job("s3://bucket/x")
    assert pickle.loads(pickle.dumps(one)) == one and hash(one) == hash(job("s3://bucket/x"))


def test_a_shard_that_is_not_one(tmp_path):
    ShardTask(job(tmp_path), lengths)(shard())
    data = (tmp_path / name_of(0)).read_bytes()
    with pytest.raises(DamagedError, match="other settings: x: delete it"):
        read_done(0, data, "another plan", "x")
    for broken in (b"", data[:-9], b"text"):
        with pytest.raises(DamagedError, match="not a shard of motherbird"):
            read_done(0, broken, "plan", "x")
    sink = pyarrow.BufferOutputStream()
    parquet.write_table(pyarrow.table({"a": [1]}), sink)
    with pytest.raises(DamagedError, match="not a shard of motherbird"):
        read_done(0, sink.getvalue().to_pybytes(), "plan", "x")


# --- the plan, the manifest, and stores


@pytest.fixture(params=["path", "file", "memory", "other"])
def store(request, tmp_path, monkeypatch):
    """Each kind of store, empty; "other" has no atomic upload."""
    if request.param == "path":
        return open_store(str(tmp_path / "out"))
    if request.param == "file":
        return open_store(f"file://{tmp_path}/out")
    pytest.importorskip("fsspec")
    if request.param == "other":
        monkeypatch.setattr("motherbird.bulk.store.ATOMIC", ())
    return open_store(f"memory://{tmp_path.name}-{request.param}/out")


def inputs_of(path, rows=7):
    path.write_text("text\n" * rows)
    return [Source(str(path), source(str(path), rows).read)]


def whole_run(store, sources, out, only=None, settings=None):
    """Compute all shards, or only some of them."""
    inputs, kind = run.survey(sources)
    plan = run.make_plan(settings or Settings("toy"), inputs, {"shard_rows": 2})
    done = {}
    with locked(store):
        run.begin(store, plan, out)
        done = run.written(store, 4, plan, out)
        wanted = {0, 1, 2, 3} - done.keys() if only is None else only
        task = ShardTask(Job(Settings("toy"), out, kind, run.digest(plan)), lengths)
        found = map(task, divide(sources, 2, wanted, 7))
        run.collect(found, done, lambda each: None)
        if only is None:
            run.finish(store, plan, inputs, done)
    return wanted


def contents(store):
    return {name: store.read(name) for name in store.names()}


def url_of(store):
    return store.url if isinstance(store, RemoteStore) else str(store.directory)


def test_a_run_computes_what_is_missing(store, tmp_path):
    sources, out = inputs_of(tmp_path / "a.txt"), url_of(store)
    assert store.names() == set()
    whole_run(store, sources, out, only={1, 3})
    assert store.names() == {"_plan.json", name_of(1), name_of(3)}
    assert whole_run(store, sources, out) == {0, 2}
    first = contents(store)
    assert whole_run(store, sources, out) == set()
    assert contents(store) == first
    manifest = json.loads(first["_manifest.json"])
    assert [part["rows"] for part in manifest["shards"]] == [2, 2, 2, 1]
    assert manifest["inputs"][0]["rows"] == 7 and manifest["settings"]["model"] == "toy"
    if isinstance(store, LocalStore):
        assert {path.name for path in store.directory.iterdir()} == set(first)  # no lock


def test_other_settings_are_refused(store, tmp_path):
    sources, out = inputs_of(tmp_path / "a.txt"), url_of(store)
    whole_run(store, sources, out)
    before = contents(store)
    with pytest.raises(OutputExistsError, match=r"begun with other settings \(truncate\)"):
        whole_run(store, sources, out, settings=Settings("toy", truncate=True))
    (tmp_path / "a.txt").write_text("text\n" * 7 + "more")
    with pytest.raises(OutputExistsError, match=r"begun with other settings \(inputs\)"):
        whole_run(store, sources, out)
    assert contents(store) == before


def test_files_of_others_are_refused(store, tmp_path):
    store.write("notes.txt", b"mine")
    with pytest.raises(OutputExistsError, match="contains 'notes.txt', which motherbird embed"):
        whole_run(store, inputs_of(tmp_path / "a.txt"), url_of(store))


def test_what_a_killed_process_left(tmp_path):
    store = open_store(str(tmp_path / "out"))
    sources = inputs_of(tmp_path / "a.txt")
    whole_run(store, sources, url_of(store), only={0})
    (tmp_path / "out" / f".{name_of(1)}.0123.tmp").write_bytes(b"half")
    (tmp_path / "out" / ".lock").write_bytes(b"")
    whole_run(store, sources, url_of(store))
    assert not [path for path in (tmp_path / "out").iterdir() if path.name.startswith(".")]


def test_two_runs_at_once(tmp_path):
    store = open_store(str(tmp_path / "out"))
    with locked(store), pytest.raises(InputError, match="another process .* is working on it"):
        whole_run(store, inputs_of(tmp_path / "a.txt"), url_of(store))


def test_an_input_that_changes(tmp_path):
    store, sources = open_store(str(tmp_path / "out")), inputs_of(tmp_path / "a.txt")
    inputs, _ = run.survey(sources)
    (tmp_path / "a.txt").write_text("another text\n")
    with pytest.raises(DamagedError, match=r"changed while it was read: .*a\.txt"):
        run.finish(store, run.make_plan(Settings("toy"), inputs, {}), inputs, {})
    assert store.names() == set()


def test_an_error_of_a_text_comes_while_working(tmp_path):
    def fails(texts, names, on_batch):
        raise InputError("too long", names[2], "truncate it")

    with pytest.raises(RowError, match="too long: a:3: truncate it") as error:
        ShardTask(job(tmp_path), fails)(shard())
    assert error.value.exit_code == 1


def test_other_errors_are_not_of_a_text():
    def fails():
        raise InputError("Ray cannot be used")
        yield

    with pytest.raises(InputError, match="Ray cannot be used") as error:
        run.collect(fails(), {}, lambda each: None)
    assert error.value.exit_code == 2


@pytest.mark.parametrize("url", ["nothing://x/y", "s3+x://a"])
def test_a_url_of_an_unknown_protocol(url):
    pytest.importorskip("fsspec")
    with pytest.raises(InputError, match="the URL cannot be opened"):
        open_store(url)


def test_an_error_of_a_file_system(monkeypatch):
    memory = pytest.importorskip("fsspec.implementations.memory")

    def fails(*arguments, **options):
        raise RuntimeError("no credentials\nsecond line")

    monkeypatch.setattr(memory.MemoryFileSystem, "pipe_file", fails)
    with pytest.raises(StoreError, match=r"read or written \(no credentials\): memory://x"):
        open_store("memory://x").write("a", b"")


# --- models


def test_settings_are_filled_in(base):
    settings, encode = vectors.load(Settings(str(base), dtype="float32", truncate_dim=5))
    assert (settings.dimensions, settings.pooling, settings.prompt) == (5, "mean", "")
    assert settings.model_sha256 and settings.max_length and settings.normalize is not None
    again, _ = vectors.load(settings)
    assert again == settings
    with pytest.raises(DamagedError, match="not the one that the work began with"):
        vectors.load(replace(settings, model_sha256="0" * 64))
    seen = []
    found = encode(["one", "two words"], ["a", "b"], seen.append)
    assert found.vectors.shape == (2, 5) and sum(seen) == 2


@pytest.fixture
def late(base, tmp_path):
    """A late-interaction model of 16 tokens, without vectors of full stops."""
    projection = [Dense(np.random.default_rng(0).normal(size=(4, 32)))]
    made = LateEmbedder(Encoder.load(base, dtype="stored"), projection, query_length=16,
                        document_length=16, skiplist=["."], add_prefixes=True)  # fmt: skip
    made.save(tmp_path / "late")
    return LateEmbedder.load(tmp_path / "late", dtype="float32"), str(tmp_path / "late")


def test_late_interaction_in_bulk(late):
    model, name = late
    for kind in ("query", "document"):
        settings, encode = vectors.load(Settings(name, dtype="float32", kind=kind))
        assert (settings.dimensions, settings.dtype, settings.max_length) == (4, "float32", None)
        seen, texts = [], ["a", "two words"]
        found = encode(texts, ["x:1", "x:2"], seen.append)
        for one, other in zip(found.vectors, model.embed_tokens(texts, kind), strict=True):
            np.testing.assert_allclose(one, other, atol=1e-5)
        assert seen == [2] and found.truncated == 0
    with pytest.raises(InputError, match="has no visible|empty.*x:2"):
        encode(["a", " "], ["x:1", "x:2"], lambda texts: None)
    _, encode = vectors.load(Settings(name, kind="query"))
    with pytest.raises(InputError, match=r"the limit is 16: x:4: shorten it"):
        encode(["a", "word " * 40], ["x:3", "x:4"], lambda texts: None)
    settings, encode = vectors.load(Settings(name, kind="query", truncate_dim=2))
    assert (
        settings.dimensions == encode(["a"], ["x:1"], lambda texts: None).vectors[0].shape[1] == 2
    )
    with pytest.raises(InputError, match="--normalize is not for late interaction"):
        vectors.load(Settings(name, kind="query", normalize=True))


def test_tokens_and_truncated_texts_of_late_interaction(late):
    """A token in two windows counts once, and one of the skiplist too."""
    model, name = late
    texts = ["a. b.", "word " * 40]
    lengths = [len(piece.ids) for piece in model.divide(texts, "document", 512)[0]]
    assert lengths[1] > 32
    for limit, tokens, truncated in ((None, sum(lengths), 0), (10, lengths[0] + 10, 1)):
        settings = Settings(name, dtype="float32", kind="document", max_length=limit)
        found = vectors.load(settings)[1](texts, ["x:1", "x:2"], lambda texts: None)
        assert (found.tokens, found.truncated) == (tokens, truncated)
        assert sum(map(len, found.vectors)) == tokens - 2  # full stops
