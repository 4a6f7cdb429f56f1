"""Docstrings of Python functions and classes, with their code (as in CodeSearchNet)."""

import ast
import textwrap
import warnings
from collections.abc import Iterator

from ...errors import NotTextError
from ..passages import DEFINITIONS
from .pair import Pair, one_line


def docstring_pairs(text: str, source: str) -> Iterator[Pair]:
    """Yield the first paragraph of each docstring, with the code without the docstring.

    All functions, methods and classes count, also nested ones, in the order of their lines. The
    code begins with the decorators, and is not indented.

    Args:
        text: a module, with LF as line ends.
        source: the name of the module in the pairs.

    Raises:
        NotTextError: this version of Python cannot parse the module.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # for example about invalid escapes
            tree = ast.parse(text)
    except SyntaxError as error:
        what = f"not Python that can be parsed ({error.msg})"
        raise NotTextError(what, f"{source}:{error.lineno or 1}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise NotTextError("not Python that can be parsed", source) from error
    lines = text.split("\n")
    found = [node for node in ast.walk(tree) if isinstance(node, DEFINITIONS)]
    for node in sorted(found, key=lambda node: node.lineno):
        if docstring := ast.get_docstring(node):
            docstring = docstring.encode(errors="replace").decode()  # without lone surrogates
            query = one_line(docstring.split("\n\n")[0])
            yield Pair(query, _code(node, lines), "docstring", f"{source}:{node.lineno}")


def _code(node: DEFINITIONS, lines: list[str]) -> str:
    """Return the lines of a definition without its docstring. Columns are bytes of UTF-8."""
    first = min([node.lineno, *(decorator.lineno for decorator in node.decorator_list)])
    docstring = node.body[0]
    assert docstring.end_lineno is not None and docstring.end_col_offset is not None
    start = lines[docstring.lineno - 1].encode()[: docstring.col_offset].decode()
    rest = lines[docstring.end_lineno - 1].encode()[docstring.end_col_offset :].decode()
    rest = rest.strip().removeprefix(";").strip()
    rest = "" if rest.startswith("#") else rest  # a comment about the docstring
    own = [(start + rest).rstrip()] if start.strip() or rest else []
    after = lines[docstring.end_lineno : node.end_lineno]
    while after and not own and not after[0].strip():
        del after[0]
    return textwrap.dedent("\n".join([*lines[first - 1 : docstring.lineno - 1], *own, *after]))
