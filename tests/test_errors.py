"""What every error is built from: optional dependencies, and numbers with units."""

import ast
import copy
import pickle
import re
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import Embedder
from motherbird.errors import InputError, human

ROOT = Path(__file__).parents[1]
# Where the name of a module is not that of its distribution.
DISTRIBUTIONS = {
    "llama_index": "llama-index-core", "optimi": "torch-optimi", "re2": "google-re2",
    "Stemmer": "PyStemmer",
}  # fmt: skip


def packages_of(extra: str, extras: dict[str, list[str]]) -> set[str]:
    """Return the packages that an extra installs, also by other extras."""
    found = set()
    for requirement in extras[extra]:
        if nested := re.match(r"motherbird\[(.+)\]", requirement):
            for name in nested[1].split(","):
                found |= packages_of(name, extras)
        else:
            found.add(re.split(r"[<>=;\[ ]", requirement)[0])
    return found


def required() -> list[tuple[str, str, str]]:
    """Return file, module and extra of every call of require_extra with names."""
    found = []
    for path in sorted((ROOT / "src").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "require_extra":
                names = [a.value for a in node.args if isinstance(a, ast.Constant)]
                if len(names) == 2:
                    found.append((path.relative_to(ROOT / "src").as_posix(), *names))
    return found


@pytest.mark.parametrize(("file", "module", "extra"), sorted(set(required())))
def test_the_extra_installs_the_module_and_is_that_of_the_command(file, module, extra):
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    name = module.split(".")[0]
    distribution = DISTRIBUTIONS.get(name, name.replace("_", "-"))
    core = {re.split("[<>=]", requirement)[0] for requirement in project["dependencies"]}
    assert distribution in packages_of(extra, extras) | core
    assert extra != "bench" or file.startswith("motherbird/bench/")


@pytest.mark.parametrize(
    ("number", "text"),
    [(0, "0B"), (1, "1B"), (999.4, "999B"), (999.7, "1kB"), (1000, "1kB"), (43_210, "43.2kB"),
     (999_999, "1MB"), (50e6, "50MB"), (1.23456e12, "1.23TB"), (4e15, "4e+03TB")],
)  # fmt: skip
def test_sizes_have_a_unit_that_fits(number, text):
    assert human(number, "B") == text


@given(st.floats(1, 999e12))
def test_a_number_is_read_back(number):
    value, unit = re.fullmatch(r"([\d.]+)([kMGT]?)B", human(number, "B")).groups()
    read = float(value) * 1000 ** " kMGT".index(unit or " ")
    assert read == pytest.approx(number, rel=0.006) and 1 <= float(value) < 1000


@pytest.mark.parametrize("end", ["\n", "\r", "\n\n", "a\nb"])
def test_an_error_is_one_line(end):
    """A line break in a path is shown."""
    error = InputError("there is none\nof these", f"name{end}", "look")
    message = f"there is none of these: {f'name{end}'!r}: look"
    assert str(error) == str(copy.copy(error)) == str(pickle.loads(pickle.dumps(error))) == message
    with pytest.raises(InputError, match=r"directory: 'motherbird-nano\\n': pass") as caught:
        Embedder.load("motherbird-nano\n")
    assert len(str(caught.value).splitlines()) == 1
