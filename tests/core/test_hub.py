"""The name of the included model is never a directory of the same name."""

from pathlib import Path

import pytest

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
    page = (Path(__file__).parents[2] / "docs" / "nano.md").read_text(encoding="utf-8")
    assert "./motherbird-nano" in page
