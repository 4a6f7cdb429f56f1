"""One autouse fixture: seeds, threads, offline. Real data beside the checkout is optional."""

import gzip
import json
import logging
import os
import signal
from pathlib import Path

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"
# Threads that spin while others work make a busy machine of two cores 60 times slower.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import pytest

try:
    import torch
except ImportError:  # tests of the engine alone need none
    torch = None
from hypothesis import settings

# A shell that starts us in the background makes us, and whatever we start, deaf to Ctrl-C.
signal.signal(signal.SIGINT, signal.default_int_handler)

settings.register_profile("motherbird", deadline=None)
settings.load_profile("motherbird")

SHARED = Path(__file__).resolve().parents[2] / "shared"


@pytest.fixture(autouse=True)
def _same_start(monkeypatch, tmp_path_factory):
    # No test writes an index into the cache of the user.
    monkeypatch.setenv("MOTHERBIRD_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
    if torch is not None:
        torch.manual_seed(0)
        torch.set_num_threads(2)
    logging.getLogger("motherbird").setLevel(logging.NOTSET)


@pytest.fixture
def no_type_checker():
    """A user has none: wrong types have to be refused by the package itself."""
    from jaxtyping import config

    config.update("jaxtyping_disable", True)
    yield
    config.update("jaxtyping_disable", False)


@pytest.fixture(scope="session")
def shared() -> Path:
    """Real data that lies beside the checkout on the project's machines, never in a fresh clone."""
    if not SHARED.is_dir():
        pytest.skip("needs ../shared, real data that is not in the repository")
    return SHARED


@pytest.fixture(scope="session")
def published(shared, tmp_path_factory):
    """name -> path of an unpacked tokenizer.json of ../shared/data/tokenizers."""
    folder = tmp_path_factory.mktemp("published")

    def unpack(name: str) -> Path:
        path = folder / f"{name}.json"
        if not path.exists():
            packed = shared / "data/tokenizers" / f"{name}.tokenizer.json.gz"
            path.write_bytes(gzip.decompress(packed.read_bytes()))
        return path

    return unpack


@pytest.fixture(scope="session")
def prose() -> list[str]:
    """Real text that every Python has: docstrings and sources of its standard library."""
    import argparse
    import ast
    import json as json_module
    import textwrap

    return [
        Path(module.__file__).read_text(encoding="utf-8")
        for module in (argparse, ast, json_module, textwrap)
    ]


@pytest.fixture(scope="session")
def small_tokenizer(prose):
    """A tokenizer of 1,024 entries trained on `prose`."""
    from motherbird.core import bpe

    return bpe.train(prose, 1024)


@pytest.fixture(scope="session")
def base(small_tokenizer, tmp_path_factory) -> Path:
    """A tiny encoder with random weights, its masked-LM head and a tokenizer, to be fine-tuned."""
    from dataclasses import replace

    from motherbird.nn import Encoder, MaskedLM
    from motherbird.train.recipe import Geometry

    torch.manual_seed(0)
    shape = Geometry(
        hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        local_attention=16, initializer_range=0.18, dropout=0.0,
    )  # fmt: skip
    config = replace(shape.config(small_tokenizer), max_position_embeddings=512)
    folder = tmp_path_factory.mktemp("base") / "model"
    MaskedLM(Encoder(config)).save(folder, tokenizer=small_tokenizer)
    return folder


@pytest.fixture(scope="session")
def finetuned(base, tmp_path_factory):
    """finetuned(kind, **settings) is the directory of a model that learned `easy_labels`, once."""
    from easy_labels import TASKS, parts

    from motherbird.train.finetune import finetune
    from motherbird.train.tuning import FineTuning

    folder = tmp_path_factory.mktemp("finetuned")

    def train(kind: str, **settings) -> Path:
        out = folder / "-".join([kind, *settings])
        if not out.exists():
            recipe = FineTuning(
                task={**TASKS, "pairs": "score"}[kind], model=str(base), epochs=4, batch_size=16,
                lr=4e-3, dtype="float32", **settings,
            )  # fmt: skip
            finetune(recipe, parts(kind, dev=60), out)
        return out

    return train


@pytest.fixture
def toy():
    """A geometry small enough for any test; its window is 8 tokens on each side."""
    from motherbird import EncoderConfig

    return EncoderConfig(
        vocab_size=1024,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=4,
        num_attention_heads=2,
        max_position_embeddings=512,
        local_attention=16,
        pad_token_id=939,
        cls_token_id=937,
        bos_token_id=937,
        sep_token_id=938,
        eos_token_id=938,
    )


def read_json(path: Path):
    return json.loads(Path(path).read_text(encoding="utf-8"))
