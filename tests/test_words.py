"""The vocabulary of the code: standard names, and none of the phrases of the old style."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SOURCES = sorted((ROOT / "src").rglob("*.py"))

# Names that were replaced by the field's own terms (docs/glossary.md).
OLD_NAMES = re.compile(
    r"_*(chance|bits|places|hide|hidden|fed|stretch|stretches|products|ways?|units|ceilings?|Prepared"
    r"|arrange|become|Leaf|leaf|leaves|of_leaf|of_step|tell|share|Tick|tick|on_tick|Maker|maker|crew"
    r"|Journal|journal|opening|World|world|least|least_\w+|peace|level|level_\w+|objection|frame"
    r"|filling|lot|set_aside|set_aside_\w+|need)"
)
# Where a name has one meaning only as a module or as a method of one class.
OLD_MODULES = {"start", "opening", "journal", "world", "chance", "products", "speed"}

OLD_PHRASES = [
    r"(?<!there )\bis no (?!longer\b|more\b)",
    r"\ball chance\b",
    r"\bby chance\b",
    r"\bis ill\b",
    r"\b(is|are|not|of) ours\b",
    r"\bdoors? (is|are)\b",
    r"\bfloors?\b(?! division)",
    r"\bis at it\b",
    r"\bstands? there\b",
    r"\bnobody\b",
    r"\bwhoever\b",
    r"\bin peace\b",
    r"\bto be had\b",
    r"\bwhat becomes of\b",
    r"\bas it likes\b",
    r"\bthe story of\b",
    r"\bdistil\b",  # American spelling, as in the commands
]


def names_defined(tree: ast.AST) -> set[str]:
    """Every name that a module defines: functions, classes, arguments, variables, attributes."""
    found = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            found.add(node.name)
        elif isinstance(node, ast.arg):
            found.add(node.arg)
        elif isinstance(node, ast.Name | ast.Attribute) and isinstance(node.ctx, ast.Store):
            found.add(node.id if isinstance(node, ast.Name) else node.attr)
        elif isinstance(node, ast.alias) and node.asname:
            found.add(node.asname)
    return found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_standard_names(path):
    defined = names_defined(ast.parse(path.read_text(encoding="utf-8")))
    assert not sorted(name for name in defined if OLD_NAMES.fullmatch(name))
    assert path.stem not in OLD_MODULES


def texts() -> list[Path]:
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md"), *(ROOT / "recipes").rglob("*.toml")]
    code = [p for d in ("src", "tests", "benchmarks") for p in (ROOT / d).rglob("*.py")]
    cards = (ROOT / "src").rglob("*.md")
    # Its example sentences are measured as they are.
    history = {ROOT / "docs" / "log.md", ROOT / "benchmarks" / "fills.py", Path(__file__)}
    return sorted({*pages, *code, *cards} - history)


@pytest.mark.parametrize("path", texts(), ids=lambda p: p.relative_to(ROOT).as_posix())
def test_plain_phrases(path):
    text = " ".join(path.read_text(encoding="utf-8").replace("#", " ").split())
    found = [m[0] for p in OLD_PHRASES for m in re.finditer(p, text, re.IGNORECASE)]
    assert not found


@pytest.mark.parametrize("path", SOURCES, ids=lambda p: p.relative_to(ROOT / "src").as_posix())
def test_a_module_is_read_in_one_sitting(path):
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= 400
    long = [
        f"{node.name}: {node.end_lineno - node.lineno + 1} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and node.end_lineno - node.lineno + 1 > 60
    ]
    assert not long
