"""Accelerated models inside sentence-transformers and both trainers: the same numbers and files."""

import json
import shutil
import string
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from motherbird import Embedder, LateEmbedder, Reranker, accelerate, maxsim_many, restore
from motherbird.engine.model import NativeModel
from motherbird.models.dense import Dense
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier

st = pytest.importorskip("sentence_transformers")
transformers = pytest.importorskip("transformers")


@pytest.fixture
def runs(monkeypatch):
    """How often our encoder has run, on the engine or in torch: ``len(runs)``."""
    calls = []
    for cls, name in ((Encoder, "forward"), (NativeModel, "run")):
        own = getattr(cls, name)

        def counted(*arguments, own=own):
            calls.append(1)
            return own(*arguments)

        monkeypatch.setattr(cls, name, counted)
    return calls


@pytest.fixture
def config(toy, small_tokenizer):
    pad = small_tokenizer.id_of("pad")
    vocabulary = small_tokenizer.vocab_size
    return replace(toy, hidden_size=64, vocab_size=vocabulary, pad_token_id=pad)


def stronger(model):
    """Weights that tell one text from another."""
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "layers." in name and weight.ndim == 2:
                weight.mul_(3)
    return model


@pytest.fixture
def texts(prose):
    """Thirty-six passages, a few words to forty lines."""
    lines = [line for line in prose[0].splitlines() if line.strip()]
    cuts = [(7 * i, 7 * i + 1 + i % 40) for i in range(36)]
    return ["\n".join(lines[start:end]) for start, end in cuts]


@pytest.fixture
def folder(config, small_tokenizer, tmp_path):
    """A sentence-transformers directory."""
    encoder = stronger(Encoder(config))
    encoder.tokenizer = small_tokenizer
    Embedder(encoder).save(tmp_path / "dense")
    return str(tmp_path / "dense")


def load(kind, folder, **more):
    return kind(folder, device="cpu", local_files_only=True, **more)


@pytest.mark.parametrize("order", ["as given", "longest first"])
def test_sentence_transformer(folder, texts, order, runs):
    model = load(st.SentenceTransformer, folder)
    if order == "longest first":
        texts = sorted(texts, key=len, reverse=True)
    before = model.encode(texts, batch_size=8)
    assert accelerate(model) is model and not runs
    after = model.encode(texts, batch_size=8)
    assert len(runs) == 5 and abs(after - before).max() <= 1e-5
    assert before.std(0).mean() > 1e-2  # the texts differ
    assert np.array_equal(restore(model).encode(texts, batch_size=8), before)


def layer(outputs, inputs, bias, activation):
    weight = np.random.default_rng(0).normal(size=(outputs, inputs)).astype(np.float32) / 4
    return Dense(weight, np.ones(outputs, np.float32) if bias else None, activation)


def test_dense_layers_after_the_pooling(folder, texts, tmp_path):
    """What we write they read, and what they write we read."""
    dense = [layer(48, 64, True, "tanh"), layer(16, 48, False, "identity")]
    ours = Embedder(Encoder.load(folder, dtype="stored"), dense=dense)
    ours.save(tmp_path / "ours")
    theirs = load(st.SentenceTransformer, str(tmp_path / "ours"))
    assert [type(module).__name__ for module in theirs] == [
        "Transformer", "Pooling", "Dense", "Dense", "Normalize"
    ]  # fmt: skip
    vectors = theirs.encode(texts)
    assert vectors.shape == (36, 16) and abs(ours.embed(texts) - vectors).max() <= 1e-5
    theirs.save_pretrained(str(tmp_path / "theirs"))
    for name in ("ours", "theirs"):
        again = Embedder.load(tmp_path / name, dtype="float32")
        assert abs(again.embed(texts) - vectors).max() <= 1e-4


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_prompts_that_are_not_pooled(pooling, folder, texts, tmp_path):
    prompts = {"query": "search for this: ", "document": "text:"}
    encoder = Encoder.load(folder, dtype="stored")
    ours = Embedder(encoder, pooling, prompts=prompts, include_prompt=False)
    ours.save(tmp_path / "ours")
    theirs = load(st.SentenceTransformer, str(tmp_path / "ours"))
    for name in prompts:
        vectors = theirs.encode(texts, prompt_name=name)
        assert abs(ours.embed(texts, prompt_name=name, truncate=True) - vectors).max() <= 1e-5
    assert abs(vectors - theirs.encode(texts)).max() > 1e-3


EXPANSIONS = {
    "none": {},
    "attended": dict(query_length=24, expand_to=24, attend_to_expansion=True),
    "unattended": dict(query_length=24, expand_to=24),
    "far": dict(query_length=60, expand_to=60),  # masks at the end see no token in local layers
}
QUERIES = ["parse arguments", "help", "a namespace of options, and their values"]


def same_vectors(ours, theirs, texts):
    """Of queries and documents, which are truncated as the model's files say."""
    limit = ours.lengths["document"]
    for found, wanted in (
        (ours.embed_tokens(QUERIES, "query"), theirs.encode_query(QUERIES)),
        (ours.embed_tokens(texts, max_length=limit), theirs.encode_document(texts)),
    ):
        for one, other in zip(found, wanted, strict=True):
            assert one.shape == other.shape and abs(one - other.numpy()).max() <= 1e-4


@pytest.mark.parametrize("expansion", EXPANSIONS)
def test_late_interaction(expansion, folder, texts, tmp_path):
    """PyLate's layout, which we write, and that of version 6, which they write."""
    ours = LateEmbedder(
        Encoder.load(folder, dtype="stored"), [layer(16, 64, False, "identity")],
        document_length=100, skiplist=list(string.punctuation), add_prefixes=True,
        **EXPANSIONS[expansion],
    )  # fmt: skip
    ours.save(tmp_path / "ours")
    theirs = load(st.MultiVectorEncoder, str(tmp_path / "ours"))
    same_vectors(ours, theirs, texts)
    theirs.save_pretrained(str(tmp_path / "theirs"))
    for name in ("ours", "theirs"):
        again = LateEmbedder.load(tmp_path / name, dtype="float32")
        same_vectors(again, theirs, texts)
    queries, documents = ours.embed_tokens(QUERIES, "query"), ours.embed_tokens(texts[:5])
    scores = theirs.similarity(*([torch.tensor(v) for v in x] for x in (queries, documents)))
    for query, row in zip(queries, scores, strict=True):
        assert abs(maxsim_many(query, documents) - row.numpy()).max() <= 1e-5


def test_late_interaction_with_a_new_projection(folder, texts, tmp_path):
    """A model that they begin has no prefix and no skiplist; prompts may be texts."""
    theirs = load(st.MultiVectorEncoder, folder)
    for name, prompts in (("none", {}), ("texts", {"query": "search: ", "document": "text: "})):
        theirs.prompts = prompts
        theirs.save_pretrained(str(tmp_path / name))
        ours = LateEmbedder.load(tmp_path / name, dtype="float32")
        assert ours.size == 128 and ours.prefixes == {"query": "", "document": ""}
        same_vectors(ours, load(st.MultiVectorEncoder, str(tmp_path / name)), texts)


@pytest.mark.parametrize("attend", [False, True])
def test_late_interaction_of_stanford(attend, folder, texts, tmp_path):
    from safetensors.torch import load_file, save_file

    place = Path(shutil.copytree(folder, tmp_path / "stanford"))
    for name in ("modules.json", "config_sentence_transformers.json", "motherbird.json"):
        (place / name).unlink()
    tensors = {f"model.{name}": x for name, x in load_file(place / "model.safetensors").items()}
    tensors["linear.weight"] = torch.randn(16, 64)
    save_file(tensors, place / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((place / "config.json").read_text()) | {"architectures": ["HF_ColBERT"]}
    (place / "config.json").write_text(json.dumps(config))
    metadata = {"query_maxlen": 24, "doc_maxlen": 100, "attend_to_mask_tokens": attend}
    (place / "artifact.metadata").write_text(json.dumps(metadata))
    theirs = load(st.MultiVectorEncoder, str(place))
    ours = LateEmbedder.load(place, dtype="float32")
    same_vectors(ours, theirs, texts)
    ours.save(tmp_path / "ours")
    same_vectors(ours, load(st.MultiVectorEncoder, str(tmp_path / "ours")), texts)


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_cross_encoder(pooling, config, small_tokenizer, texts, tmp_path, runs):
    classifier = stronger(SequenceClassifier(replace(config, classifier_pooling=pooling), ("yes",)))
    classifier.save(tmp_path / "ranker", tokenizer=small_tokenizer)
    model = load(st.CrossEncoder, str(tmp_path / "ranker"))
    pairs = [(texts[0], text) for text in texts[:12]]
    before = model.predict(pairs, batch_size=4)
    after = accelerate(model).predict(pairs, batch_size=4)
    assert len(runs) == 3 and abs(after - before).max() <= 1e-5
    assert model.rank(texts[0], texts[:12])[0]["corpus_id"] == int(before.argmax())
    ours = Reranker.load(tmp_path / "ranker", dtype="float32")
    scores = ours.score(texts[0], texts[:12], max_length=512, truncate=True)
    assert abs(scores - before).max() <= 1e-4


@pytest.mark.parametrize("expansion", [None, "attended", "read only"])
def test_multi_vector_encoder(expansion, folder, texts, runs):
    """Documents and queries; those that ColBERT expands without attending stay theirs."""
    model = load(st.MultiVectorEncoder, folder)
    model[0].document_length = 60
    if expansion:
        attend = expansion == "attended"
        model[0].query_expansion = {"strategy": "fixed", "length": 16, "attend": attend}
    queries = ["parse arguments", "help", "a namespace of options and their values"]

    def encode():
        return [*model.encode_query(queries), *model.encode_document(texts, batch_size=9)]

    before = encode()
    accelerate(model)
    after = encode()
    assert len(runs) == (4 if expansion == "read only" else 5)
    for one, other in zip(before, after, strict=True):
        assert one.shape == other.shape and abs(one - other).max() <= 1e-5


def test_documents_padded_as_late_interaction_saves_its_tokenizers(folder, texts, runs):
    """With [MASK]: somebody could read it, so it is theirs, until the padding has its own token."""
    model = load(st.MultiVectorEncoder, folder)
    model.tokenizer.pad_token = "[MASK]"
    before = model.encode_document(texts[:9])
    accelerate(model)
    assert all(map(torch.equal, model.encode_document(texts[:9]), before)) and not runs
    model.tokenizer.pad_token = "[PAD]"
    after = model.encode_document(texts[:9])
    assert all((x - y).abs().max() <= 1e-5 for x, y in zip(before, after, strict=True)) and runs


def test_sparse_encoder(config, small_tokenizer, texts, tmp_path, runs):
    stronger(MaskedLM(config)).save(tmp_path / "mlm", tokenizer=small_tokenizer)
    model = load(st.SparseEncoder, str(tmp_path / "mlm"))
    before = model.encode(texts, batch_size=9).to_dense()
    after = accelerate(model).encode(texts, batch_size=9).to_dense()
    assert len(runs) == 4 and abs(after - before).max() <= 1e-5


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def test_saved_files(folder, tmp_path):
    model = load(st.SentenceTransformer, folder)
    model.save_pretrained(str(tmp_path / "before"))
    accelerate(model).save_pretrained(str(tmp_path / "after"))
    before, after = files(tmp_path / "before"), files(tmp_path / "after")
    assert after == before and {"model.safetensors", "config.json", "modules.json"} <= after.keys()


@pytest.mark.slow
def test_several_processes(folder, texts):
    """Every worker gets the model pickled, and it works there."""
    model = load(st.SentenceTransformer, folder)
    before = model.encode(texts, batch_size=8)
    accelerate(model)
    pool = model.start_multi_process_pool(["cpu", "cpu"])
    try:
        after = model.encode(texts, batch_size=8, pool=pool, chunk_size=18)
    finally:
        model.stop_multi_process_pool(pool)
    assert abs(after - before).max() <= 1e-5


def one_step(trainer):
    """The loss of one step, and how far it moved every weight."""
    weights = trainer.model.state_dict()
    start = {key: x.clone() for key, x in weights.items()}
    loss = trainer.train().training_loss
    return loss, {key: x - start[key] for key, x in weights.items()}


def same_step(before, after):
    assert abs(before[0] - after[0]) <= 1e-5 and before[0] > 0.1
    for key, moved in before[1].items():
        assert (moved - after[1][key]).abs().max() <= 1e-5, key
    assert max(x.abs().max() for x in before[1].values()) > 1e-3


ARGUMENTS = dict(
    max_steps=1, per_device_train_batch_size=6, learning_rate=0.3, optim="sgd", report_to="none",
    save_strategy="no", disable_tqdm=True, use_cpu=True, seed=1, lr_scheduler_type="constant",
)  # fmt: skip


def test_one_step_of_sentence_transformers(folder, texts, tmp_path, runs):
    pytest.importorskip("accelerate")
    datasets = pytest.importorskip("datasets")
    from sentence_transformers.sentence_transformer.losses import MultipleNegativesRankingLoss

    data = datasets.Dataset.from_dict({"anchor": texts[:12], "positive": texts[12:24]})

    def step(model):
        arguments = st.SentenceTransformerTrainingArguments(str(tmp_path / "out"), **ARGUMENTS)
        loss = MultipleNegativesRankingLoss(model)
        return one_step(
            st.SentenceTransformerTrainer(model, arguments, train_dataset=data, loss=loss)
        )

    before = step(load(st.SentenceTransformer, folder))
    assert not runs
    same_step(before, step(accelerate(load(st.SentenceTransformer, folder))))
    assert len(runs) == 2


@pytest.mark.parametrize("bf16", [False, True])
def test_one_step_of_transformers(bf16, config, small_tokenizer, texts, tmp_path, runs):
    pytest.importorskip("accelerate")
    stronger(MaskedLM(config)).save(tmp_path / "mlm", tokenizer=small_tokenizer)
    ids = small_tokenizer.encode_batch(texts[:6])
    features = [{"input_ids": row[:200], "labels": row[:200]} for row in ids]
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "mlm")

    def step(change):
        model = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "mlm")
        trainer = transformers.Trainer(
            change(model),
            transformers.TrainingArguments(str(tmp_path / "out"), bf16=bf16, **ARGUMENTS),
            data_collator=transformers.DataCollatorForTokenClassification(tokenizer),
            train_dataset=features,
        )
        return one_step(trainer)

    before = step(lambda model: model)
    assert not runs
    after = step(accelerate)
    assert len(runs) == 1
    if bf16:
        assert abs(before[0] - after[0]) <= 1e-2
    else:
        same_step(before, after)
