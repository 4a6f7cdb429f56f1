"""The weights that come with the package: whole, small, offline, and the same for others."""

import logging
import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

import motherbird as package
from motherbird.core import hub, weights
from motherbird.files import MANIFEST, check_files, read_manifest

FRANCE = "The capital of France is [MASK]."
TEXTS = ["compress a file with gzip", "The queen lived in a castle.", "def add(a, b): return a + b"]


@pytest.fixture(scope="module")
def nano():
    return hub.find(hub.NANO)


def test_the_folder_is_whole_and_small(nano):
    files = {p.relative_to(nano).as_posix(): p for p in nano.rglob("*") if p.is_file()}
    stated = read_manifest(nano)["sha256"]
    assert {"config.json", "README.md", "encoder/tokenizer.json"} <= set(stated)
    assert set(stated) == set(files) - {MANIFEST}
    check_files(nano, sorted(stated))
    assert f"# {hub.NANO}\n" in (nano / "README.md").read_text()
    assert sum(path.stat().st_size for path in files.values()) <= 40e6
    for path in weights.weight_files(nano):
        assert {tensor.dtype for tensor in load_file(path).values()} == {torch.bfloat16}


def test_it_answers_offline_at_once(nano, tmp_path):
    """In an empty folder, with a hub that would fail, in under 10 seconds."""
    start = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "motherbird", "fill-mask", FRANCE],
        capture_output=True, text=True, cwd=tmp_path, check=True,
        env={**os.environ, "HF_ENDPOINT": "http://127.0.0.1:9", "HF_HOME": str(tmp_path / "hf")},
    )  # fmt: skip
    assert time.monotonic() - start < 10
    assert len(done.stdout.splitlines()) == 5 and done.stderr == ""
    assert not any(tmp_path.iterdir())


def test_a_folder_of_its_name_is_another(tmp_path, monkeypatch):
    (tmp_path / hub.NANO).mkdir()
    monkeypatch.chdir(tmp_path)
    for other in (f"./{hub.NANO}", Path(hub.NANO)):
        assert hub.find(other) == Path(hub.NANO)
    with pytest.raises(package.InputError, match="have revisions"):
        hub.find(hub.NANO, "main")


def test_the_commands_use_it_also_where_a_directory_has_its_name(
    motherbird, small_tokenizer, tmp_path, monkeypatch
):
    """A directory that looks like a run and a tokenizer; every command means the included model."""
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    (tmp_path / hub.NANO).mkdir()
    (tmp_path / hub.NANO / "run.json").write_text("{}")
    small_tokenizer.save(tmp_path / hub.NANO / "tokenizer")
    monkeypatch.chdir(tmp_path)
    for call in (
        ("info", hub.NANO, "--json"),
        ("embed", "texts.txt", "--out", f"{hub.NANO}/a.npy"),
        ("fill-mask", FRANCE),
        ("prepare", "texts.txt", "--tokenizer", hub.NANO, "--out", f"{hub.NANO}/set"),
    ):
        hub._warn_of.cache_clear()
        done = motherbird(*call)
        assert done.code == 0, done.err
        assert done.err.count("./motherbird-nano") == 1
    assert len(np.load(f"{hub.NANO}/a.npy")) == len(TEXTS)
    from motherbird.data.prepared import PreparedDataset

    assert PreparedDataset(f"{hub.NANO}/set").tokenizer.vocab_size == 32768
    motherbird("info", f"./{hub.NANO}").refused("config.json")
    call = ("export", hub.NANO, "--format", "hf", "--dtype", "bfloat16", "--out", "exported")
    motherbird(*call).refused("use auto, float32, int8")  # which is allowed for a run


def test_the_commands_use_it(motherbird, tmp_path):
    (tmp_path / "texts.txt").write_text("\n".join(TEXTS))
    call = ("embed", tmp_path / "texts.txt", "--out", tmp_path / "vectors.npy")
    assert "not trained" not in motherbird(*call, "--dtype", "float32").done().err
    wanted = package.Embedder.load(hub.NANO, dtype="float32").embed(TEXTS)
    assert np.allclose(np.load(tmp_path / "vectors.npy"), wanted, atol=1e-5)
    about = motherbird("info", hub.NANO, "--json").done().json
    assert about["parameters"]["total"] <= 20e6
    for name in ("fill-mask", "embed", "evaluate lm", "search", "index", "mcp"):
        assert f"[default: {hub.NANO}]" in " ".join(
            motherbird(*name.split(), "--help").done().out.split()
        )


def test_it_has_read(nano):
    """Trained weights know more than weights of chance."""
    trained = package.MaskedLM.load(nano, dtype="float32")
    for text, answer in (
        (FRANCE, "France"),
        ("He opened the [MASK] and walked into the room.", "door"),
        ("import [MASK] as np", "numpy"),
    ):
        assert answer in [c.text.strip() for c in trained.fill(text, 5)[0]], text


QUESTIONS = {
    "how to compress a file": "gzip.open(path, 'wb') writes data in the gzip format.",
    "capital of France": "Paris is the largest city of the country, and its seat of government.",
    "sort a list of numbers": "def order(values): return sorted(values)",
    "symptoms of a cold": "A runny nose, a sore throat and coughing are usual signs of a cold.",
}  # fmt: skip


@pytest.mark.parametrize("kind", ["dense", "first dimensions", "late", "static"])
def test_it_searches(nano, kind):
    queries, documents = list(QUESTIONS), list(QUESTIONS.values())
    if kind == "late":
        late = package.LateEmbedder.load(nano)
        own = late.embed_tokens(documents)
        scores = [package.maxsim_many(query, own)
                  for query in late.embed_tokens(queries, "query")]  # fmt: skip
    else:
        static = kind == "static"
        model = (package.StaticEmbedder.from_encoder if static else package.Embedder.load)(nano)
        size = 64 if kind == "first dimensions" else None
        scores = (model.embed(queries, truncate_dim=size, normalize=True)
                  @ model.embed(documents, truncate_dim=size, normalize=True).T)  # fmt: skip
    assert np.argmax(scores, axis=1).tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("length", [1, 7, 200])
def test_the_same_in_transformers(nano, length, caplog):
    transformers = pytest.importorskip("transformers")
    words = transformers.AutoTokenizer.from_pretrained(nano)
    with caplog.at_level(logging.INFO, logger="transformers"):
        theirs = transformers.AutoModelForMaskedLM.from_pretrained(nano, dtype=torch.float32)
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    ours = package.nn.MaskedLM.load(nano, dtype="float32")
    text = " ".join([FRANCE] * length)
    ids = package.tokenizer(nano).encode_masked(text)
    assert words(text)["input_ids"] == ids
    with torch.inference_mode():
        wanted = theirs(input_ids=torch.tensor([ids])).logits[0]
        found = ours(package.nn.pack([ids]))
    assert (found - wanted).abs().max() <= 2e-3


def test_the_same_in_sentence_transformers(nano, caplog):
    st = pytest.importorskip("sentence_transformers")
    model = st.SentenceTransformer(str(nano), model_kwargs={"dtype": torch.float32}, device="cpu")
    assert not [r for r in caplog.records if r.levelno >= logging.WARNING]
    theirs = model.encode(TEXTS, normalize_embeddings=True)
    ours = package.Embedder.load(nano, dtype="float32").embed(TEXTS)
    assert np.allclose(theirs, ours, atol=1e-4)
    tokens = package.LateEmbedder.load(nano, dtype="float32").embed_tokens(TEXTS)
    late = st.MultiVectorEncoder(str(nano), model_kwargs={"dtype": torch.float32}, device="cpu")
    for own, other in zip(tokens, late.encode_document(TEXTS), strict=True):
        assert np.allclose(own, other.float(), atol=1e-4)
