"""Calling the command line inside this process, and a toy model to call it on."""

import io
import json
import logging
import re
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch


@dataclass(frozen=True)
class Result:
    """What a call left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    def done(self) -> "Result":
        """It worked and had nothing to complain about."""
        assert (self.code, self.err) == (0, "")
        return self

    def refused(self, says: str = "", code: int = 2, after: str = "") -> "Result":
        """It said in one line what was wrong, and before that nothing but ``after``."""
        assert self.code == code, self.err
        assert re.fullmatch(rf"{after}error: [^\n]+\n", self.err), self.err
        assert "Traceback" not in self.err and "this is a bug" not in self.err
        assert re.search(says, self.err), self.err
        return self


@pytest.fixture
def motherbird(monkeypatch, capsys):
    """Call the command line with arguments; ``stdin`` is what it can read there."""
    from motherbird.cli.main import main

    logger, handler = logging.getLogger("motherbird"), signal.getsignal(signal.SIGTERM)
    handlers, level = logger.handlers, logger.level

    def call(*arguments, stdin: bytes = b"") -> Result:
        monkeypatch.setattr(sys, "argv", ["motherbird", *map(str, arguments)])
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin), encoding="utf-8"))
        capsys.readouterr()
        with pytest.raises(SystemExit) as stop:
            main()
        return Result(stop.value.code, *capsys.readouterr())

    yield call
    signal.signal(signal.SIGTERM, handler)
    logger.handlers = handlers
    logger.setLevel(level)


@pytest.fixture(scope="session")
def model(small_tokenizer, tmp_path_factory) -> Path:
    """The folder of a toy model with a masked-LM head, a tokenizer and prompts; 512 tokens."""
    from motherbird import Embedder, EncoderConfig
    from motherbird.nn import MaskedLM, checkpoint

    torch.manual_seed(0)
    token = {f"{role}_token_id": small_tokenizer.id_of(role) for role in ("cls", "sep", "pad")}
    masked_lm = MaskedLM(
        EncoderConfig(
            vocab_size=1024,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=4,
            num_attention_heads=2,
            max_position_embeddings=512,
            local_attention=16,
            initializer_range=0.2,
            bos_token_id=token["cls_token_id"],
            eos_token_id=token["sep_token_id"],
            **token,
        )
    )
    masked_lm.model.tokenizer = small_tokenizer
    embedder = Embedder(masked_lm.model, prompts={"query": "question: "})
    directory = tmp_path_factory.mktemp("models") / "toy"
    checkpoint.save(masked_lm, directory, write_more=embedder.write_modules)
    return directory


@pytest.fixture
def late(model, tmp_path) -> Path:
    """A late-interaction model with the encoder of the other one."""
    import numpy as np

    from motherbird import Dense, LateEmbedder
    from motherbird.nn import Encoder

    encoder = Encoder.load(model, dtype="stored")
    projection = [Dense(np.random.default_rng(0).normal(size=(8, 32)))]
    made = LateEmbedder(encoder, projection, document_length=16, add_prefixes=True)
    made.save(tmp_path / "late")
    return tmp_path / "late"


@pytest.fixture(scope="session")
def sources(tmp_path_factory) -> Path:
    """A folder with some text of every Python, enough for a demo and small enough for a test."""
    import argparse
    import ast
    import json as json_module
    import textwrap

    folder = tmp_path_factory.mktemp("sources")
    for module in (argparse, ast, json_module, json_module.decoder, textwrap):
        (folder / f"{module.__name__}.py").write_bytes(Path(module.__file__).read_bytes())
    return folder


@pytest.fixture
def tree():
    """All files below a folder and what is in them: equal before and after a refusal."""

    def look(folder: Path) -> dict[str, bytes | None]:
        return {
            p.relative_to(folder).as_posix(): p.read_bytes() if p.is_file() else None
            for p in folder.rglob("*")
        }

    return look


@pytest.fixture(scope="session")
def documented():
    """The shapes of --json that a command's help describes: objects, or what stands in them."""

    def shapes(module: str, below: str | None = None) -> list[Any]:
        from importlib import import_module

        command = import_module(f"motherbird.cli.{module}").command
        text = (command.commands[below] if below else command).help
        text = re.sub(r'"(\w+)"(?!\s*:)', r'"\1": null', text)  # a key without a shape
        found, end = [], text.index("--json")
        while (
            start := min((i for i in (text.find(c, end) for c in "[{") if i >= 0), default=-1)
        ) > 0:
            value, end = json.JSONDecoder().raw_decode(text, start)
            found.append(value)
        return found

    return shapes


@pytest.fixture(scope="session")
def has_shape():
    """Whether a value has a documented shape: the same keys, no more and no fewer."""

    def has(value: Any, shape: Any) -> bool:
        if isinstance(shape, dict):
            return (
                isinstance(value, dict)
                and list(value) == list(shape)
                and all(has(value[key], shape[key]) for key in shape)
            )
        if isinstance(shape, list):
            return isinstance(value, list) and all(has(item, shape[0]) for item in value)
        return True

    return has
