"""The name of the included model is never a directory of the same name."""

import shutil
from pathlib import Path

import pytest

from motherbird import Embedder, InputError
from motherbird.core import hub, tokenizer


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A current directory with a run, model and tokenizer of the included model's name."""
    folder = tmp_path / hub.NANO
    folder.mkdir()
    for name in ("run.json", "config.json", "tokenizer.json"):
        (folder / name).write_text("{}")
    monkeypatch.chdir(tmp_path)
    hub._warn_of.cache_clear()
    return tmp_path


def test_the_bare_name_is_the_included_model(here, caplog):
    assert hub.find(hub.NANO) == hub.NANO_FOLDER
    assert hub.find(f"./{hub.NANO}") == hub.find(Path(hub.NANO)) == Path(hub.NANO)
    assert hub.find(str(here / hub.NANO)) == here / hub.NANO
    assert tokenizer.tokenizer(hub.NANO).vocab_size == 32768
    [record] = caplog.records  # once
    assert "the model in the package" in record.message and "./motherbird-nano" in record.message


def test_also_if_a_file_has_the_name(tmp_path, monkeypatch, caplog):
    (tmp_path / hub.NANO).write_text("{}")
    monkeypatch.chdir(tmp_path)
    assert tokenizer.tokenizer(hub.NANO).vocab_size == 32768
    assert "./motherbird-nano" in caplog.text


def test_no_warning_without_such_a_directory(tmp_path, monkeypatch, caplog):
    monkeypatch.chdir(tmp_path)
    assert hub.find(hub.NANO) == hub.NANO_FOLDER and not caplog.records


def test_a_recipe_starts_from_the_included_model(here):
    from motherbird.train.init_weights import load

    assert load(hub.NANO).model.config.hidden_size == 320


def test_the_pages_say_the_rule():
    page = (Path(__file__).parents[2] / "docs" / "model.md").read_text(encoding="utf-8")
    assert "./motherbird-nano" in page


@pytest.mark.parametrize("directory", ["with config.json", "without"])
@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("model (1).safetensors", r"there is model \(1\).safetensors: rename it to model.safeten"),
        ("adapter_model.safetensors", "this is an adapter, not a model: merge it"),
        ("model-Q8_0.gguf", "GGUF files are not supported: use the model.safetensors"),
        ("model.safetensors/", "this is a directory, not a file: .*model.safetensors: move it"),
        ("snapshots/abc/", "directory of the Hub's cache: use .*/models--a--b/snapshots/abc$"),
        ("nothing", "there is no model.safetensors: .*: download it too"),
    ],
)
def test_what_is_in_place_of_a_model(directory, name, says, tmp_path):
    home = tmp_path / "models--a--b"
    (home / name).parent.mkdir(parents=True)
    (home / name).mkdir() if name.endswith("/") else (home / name).touch()
    if directory == "with config.json":
        shutil.copy(hub.NANO_FOLDER / "encoder" / "config.json", home)
    elif name in ("model (1).safetensors", "model.safetensors/", "nothing"):
        says = r"not a model directory \(config.json is missing\): .*: use the directory of a model"
    with pytest.raises(InputError, match=says):
        Embedder.load(home)


def test_a_cache_with_several_revisions(tmp_path):
    for name in ("abc", "def"):
        (tmp_path / "snapshots" / name).mkdir(parents=True)
    with pytest.raises(InputError, match="Hub's cache: use .*/snapshots/REVISION$"):
        Embedder.load(tmp_path)
