"""Every Python block of README and docs is run; a text block right behind it is its output."""

import contextlib
import io
import re
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CHANGELOG.md", *sorted((ROOT / "docs").glob("*.md"))]
CARDS = sorted((ROOT / "src").rglob("README.md"))
BLOCK = re.compile(r"```python\n(.*?)```(?:\n+```text\n(.*?)```)?", re.DOTALL)


@pytest.fixture(scope="module")
def demo_folder(tmp_path_factory):
    """A folder in which a short demo has been run on three modules."""
    import argparse
    import difflib
    import tarfile

    from motherbird.cli.demo import command
    from motherbird.data.prepare import prepare
    from motherbird.models.dense import Dense
    from motherbird.models.embedder import Embedder
    from motherbird.models.late_embedder import LateEmbedder
    from motherbird.models.static_embedder import StaticEmbedder, read_tokenizer
    from motherbird.nn import Encoder, SequenceClassifier
    from motherbird.train.vectors.initial import begin_as

    folder = tmp_path_factory.mktemp("docs")
    sources = folder / "sources"
    sources.mkdir()
    for module in (argparse, difflib, tarfile):
        text = Path(module.__file__).read_text(encoding="utf-8")
        (sources / f"{module.__name__}.py").write_text(text, encoding="utf-8")
    out = str(folder / "motherbird-demo")
    arguments = ["--text", str(sources), "--minutes", "0.1", "--out", out]
    command.main(arguments, standalone_mode=False)
    prepare(sources, out, folder / "dataset", [1024])
    tokenizer = read_tokenizer(Path(out))
    table = np.random.default_rng(0).normal(size=(tokenizer.get_vocab_size(), 384))
    StaticEmbedder(tokenizer, table.astype(np.float32)).save(folder / "static")
    encoder = Encoder.load(out, dtype="stored")
    projection = [Dense(np.ones((4, encoder.config.hidden_size)))]
    LateEmbedder(encoder, projection, add_prefixes=True).save(folder / "late")
    weights = np.linspace(0.1, 1, len(table))[:, None]
    begin_as(encoder, (table * weights).astype(np.float32), 0)
    Embedder(encoder, dense=projection).save(folder / "dense")
    ranker = SequenceClassifier(encoder.config, ("relevant",))
    ranker.save(folder / "reranker", tokenizer=encoder.tokenizer)
    return folder


@pytest.mark.parametrize("page", [*PAGES, *CARDS], ids=lambda page: page.name)
def test_code_of_a_page(page, demo_folder, monkeypatch):
    if page.name == "export.md":
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(demo_folder)
    names: dict[str, object] = {}
    for code, wanted in BLOCK.findall(page.read_text(encoding="utf-8")):
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(compile(code, page.name, "exec"), names)
        if wanted:
            assert printed.getvalue() == wanted


def test_links_lead_somewhere():
    for page in PAGES:
        for target in re.findall(r"\]\(([^)#:]+)\)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name}: {target}"


def test_migrating_names_commands_that_there_are():
    """With their options; and those that replace the trainers of other libraries."""
    import click

    from motherbird.cli.main import load

    page = (ROOT / "docs" / "migrating.md").read_text(encoding="utf-8")
    named = set()
    for line in re.findall(r"`motherbird ([a-z][^`]*)`", page):
        words = line.split()
        command = load(words[0])
        if isinstance(command, click.Group):
            command = command.commands[words[1]]
        named.add(" ".join(words[:2]))
        own = {name for option in command.params for name in option.opts}
        assert {word for word in words if word.startswith("--")} <= own, line
    assert {"finetune dense", "finetune late", "data negatives"} <= named


def test_readme_and_ci_run_the_same_commands():
    commands = re.findall(r"```sh\n(.*?)\n```", (ROOT / "README.md").read_text("utf-8"))
    install, test = commands[1].split(" && ")
    lines = (ROOT / ".ci" / "run").read_text("utf-8").splitlines()
    assert install in lines and lines[-1] == test
