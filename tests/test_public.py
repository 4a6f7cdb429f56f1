"""The public surface is what others rely on: names, signatures, and what importing costs."""

import inspect
import json
import subprocess
import sys

import motherbird

NAMES = {
    "Classifier", "DamagedError", "Dense", "DocumentIndex", "Embedder", "EncoderConfig", "Guard",
    "Index", "InputError", "LateEmbedder", "MaskedLM", "MotherbirdError", "Reranker", "Router",
    "Scorer", "StaticEmbedder", "Tagger", "Tokenizer", "accelerate", "maxsim", "maxsim_many",
    "nn", "presets", "restore", "tokenizer", "__version__",
}  # fmt: skip


NN_NAMES = {
    "Encoder", "MaskedLM", "Packed", "SequenceClassifier", "TokenClassifier", "pack", "repad",
    "unpack",
}  # fmt: skip


def parameters(function):
    return list(inspect.signature(function).parameters)


def test_names():
    assert set(motherbird.__all__) == NAMES
    assert all(getattr(motherbird, name) is not None for name in NAMES)
    assert set(motherbird.nn.__all__) == NN_NAMES
    assert all(getattr(motherbird.nn, name) is not None for name in NN_NAMES)


def test_an_unknown_name():
    assert not hasattr(motherbird, "Encodr") and not hasattr(motherbird.nn, "Encodr")


def test_signatures():
    load = ["name_or_dir", "dtype", "attention", "device", "revision", "split_special_tokens"]
    for model in (
        motherbird.nn.Encoder,
        motherbird.nn.MaskedLM,
        motherbird.MaskedLM,
        motherbird.Embedder,
        motherbird.Classifier,
        motherbird.Tagger,
        motherbird.Scorer,
        motherbird.LateEmbedder,
        motherbird.Reranker,
    ):
        assert parameters(model.load) == load
    assert parameters(motherbird.nn.Encoder.save) == ["self", "directory", "tokenizer"]
    assert parameters(motherbird.MaskedLM.fill) == ["self", "text", "top_k"]
    options = ["max_length", "truncate", "batch_tokens"]
    for method in (motherbird.Classifier.predict, motherbird.Classifier.probabilities,
                   motherbird.Tagger.tag):  # fmt: skip
        assert parameters(method) == ["self", "texts", *options]
    for method in (motherbird.Scorer.score, motherbird.Scorer.predict,
                   motherbird.Scorer.probabilities):  # fmt: skip
        assert parameters(method) == ["self", "pairs", *options]
    assert parameters(motherbird.Scorer.rank) == ["self", "query", "documents", "top_k", *options]
    assert parameters(motherbird.Reranker.score) == ["self", "query", "documents", *options]
    assert parameters(motherbird.Reranker.rank) == ["self", "query", "documents", "top_k", *options]
    assert parameters(motherbird.LateEmbedder.embed_tokens) == [
        "self", "texts", "kind", "max_length", "overlap", "truncate_dim", "batch_tokens",
        "on_batch",
    ]  # fmt: skip
    assert parameters(motherbird.nn.MaskedLM.forward) == ["self", "packed", "positions"]
    assert parameters(motherbird.Embedder.embed) == [
        "self", "texts", "prompt_name", "prompt", "normalize", "truncate_dim", "max_length",
        "truncate", "windows", "batch_tokens",
    ]  # fmt: skip
    assert parameters(motherbird.tokenizer)[0] == "name_or_dir"
    for function in (motherbird.accelerate, motherbird.restore):
        assert parameters(function) == ["model"]
    from motherbird.export import export

    assert parameters(export) == [
        "name_or_dir", "out", "format", "head", "dtype", "revision", "on_case"
    ]  # fmt: skip


def test_importing_is_light():
    """Neither torch nor numpy, and well under 0.4 seconds of CPU time."""
    code = (
        "import time, sys, json; t = time.process_time(); import motherbird, motherbird.cli.main;"
        "print(json.dumps([time.process_time() - t, 'torch' in sys.modules,"
        " 'numpy' in sys.modules]))"
    )
    out = subprocess.check_output([sys.executable, "-c", code])
    seconds, torch, numpy = json.loads(out)
    assert not torch and not numpy
    assert seconds < 0.4
