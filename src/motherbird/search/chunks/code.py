"""Chunks of source code: definitions, with the names around them, and what is between them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from ..languages import CONTAINERS, Language, parser_of
from .chunk import Chunk, parts

if TYPE_CHECKING:
    from tree_sitter import Node

WHOLE = 25  # lines of a class that is not divided
BEFORE = 30  # lines that belong to a definition before it, at most, such as decorators
DEPTH = 4  # nodes between a definition and its members, such as a body, or a branch of #ifdef
COMMENTS = ("comment", "line_comment", "block_comment", "attribute_item", "doc_comment",
            "multiline_comment", "attribute")  # fmt: skip
# Types of nodes whose variable is a function if its value is one of the second.
VARIABLES = ("variable_declarator", "assignment_expression", "assignment_statement",
             "variable_declaration")  # fmt: skip
VALUES = {
    "arrow_function": "function", "function_expression": "function", "function": "function",
    "generator_function": "function", "class": "class", "function_definition": "function",
    "struct_declaration": "class", "enum_declaration": "class", "union_declaration": "class",
}  # fmt: skip
NAMES = frozenset((
    "identifier", "type_identifier", "simple_identifier", "constant", "name", "word",
    "field_identifier", "property_identifier", "type_constructor", "module_name", "value_name",
    "class_name", "qualified_identifier", "destructor_name", "operator_name", "alias",
))  # fmt: skip


class Definition(NamedTuple):
    """A definition in a syntax tree."""

    outer: "Node"  # the node with what belongs to it, such as decorators
    node: "Node"
    name: str
    kind: str


def chunks(language: Language, text: str, lines: Sequence[str]) -> list[Chunk]:
    """Divide source code; without a syntax tree that makes sense, it is divided by size."""
    tree = parser_of(language).parse(text.encode("utf-8", "replace"))
    return list(_divide(language, tree.root_node, lines, 0, len(lines) - 1, "", "module"))


def _divide(
    language: Language, node: "Node", lines: Sequence[str], first: int, last: int, path: str,
    kind: str,
) -> Iterator[Chunk]:  # fmt: skip
    """Yield the chunks of lines from 0: the members of a node, and what is between them."""
    at = first
    for outer, own, name, of in definitions(language, node):
        start, end = max(at, _with_comments(outer, at)), min(last, outer.end_point.row)
        if outer.end_point.column == 0 and end > start:
            end -= 1  # it ends with a line end
        if start > end:  # on a line that another chunk has
            continue
        yield from parts(lines, at, start - 1, path, kind)
        symbol = f"{path}.{name}" if path and name else path or name
        of = "method" if of == "function" and kind in ("class", "interface") else of
        if of in CONTAINERS and end - start >= WHOLE:
            yield from _divide(language, own, lines, start, end, symbol, of)
        else:
            yield from parts(lines, start, end, symbol, of)
        at = end + 1
    yield from parts(lines, at, last, path, kind)


def definitions(language: Language, node: "Node", depth: int = DEPTH) -> Iterator[Definition]:
    """Yield the definitions directly in a node, in order."""
    for child in node.named_children:
        found = _definition(language, child)
        if found is not None:
            yield Definition(child, *found)
        elif depth > 1 and child.end_point.row >= child.start_point.row:
            inner = list(definitions(language, child, depth - 1))
            # A node with nothing but one definition belongs to it: decorators, export, template.
            if len(inner) == 1 and _is_wrapper(child, inner[0].outer):
                inner = [inner[0]._replace(outer=child)]
            yield from inner


def _is_wrapper(node: "Node", inner: "Node") -> bool:
    """Return whether a node is what stands before a definition, such as decorators."""
    after = (node.text or b"")[inner.end_byte - node.start_byte :]
    rows = inner.start_point.row - node.start_point.row
    return not after.strip(b"; \n") and rows <= BEFORE


def _definition(language: Language, node: "Node") -> tuple["Node", str, str] | None:
    """Return a node, its name and kind if it is a definition."""
    if (kind := language.kinds.get(node.type)) is not None:
        # In Haskell, the type of a function has this type of node too.
        if node.type == "function" and node.child_by_field_name("name") is None:
            return None
        return node, _name(node), kind
    if language.calls and node.type == "call":
        target = node.child_by_field_name("target")
        kind = language.calls.get(_text(target)) if target is not None else None
        if kind is not None:
            return node, _name_in(node.named_children[1:2]), kind
    if node.type in VARIABLES:
        value = node.child_by_field_name("value") or node.child_by_field_name("right")
        if value is None and node.named_children:
            value = node.named_children[-1]
        while value is not None and value.type == "expression_list":
            value = value.named_children[0]
        if value is not None and value.type in VALUES:
            left = node.child_by_field_name("name") or node.named_children[0]
            return value, _text(left), VALUES[value.type]
    return None


def _name(node: "Node") -> str:
    """Return the name of a definition; empty if it has none."""
    for field in ("name", "declarator", "type", "pattern"):
        found = node.child_by_field_name(field)
        while found is not None and field == "declarator":
            inner = found.child_by_field_name("declarator")
            if inner is None:
                break
            found = inner
        if found is not None:
            return _text(found)
    return _name_in(node.named_children)


def _name_in(nodes: Sequence["Node"], depth: int = DEPTH) -> str:
    """Return the first identifier in some nodes."""
    for node in nodes[:4]:
        if node.type in NAMES:
            return _text(node)
        if depth > 1 and (found := _name_in(node.named_children, depth - 1)):
            return found
    return ""


def _text(node: "Node") -> str:
    """Return the text of a name, on one line."""
    found = (node.text or b"").decode("utf-8", "replace")
    return found if len(found) <= 100 and "\n" not in found else ""


def _with_comments(node: "Node", at: int) -> int:
    """Return the line, from 0, at which a definition begins with the comments right above it."""
    row, before = node.start_point.row, node.prev_named_sibling
    while before is not None and before.type in COMMENTS and before.start_point.row >= at:
        end = before.end_point.row - (before.end_point.column == 0)
        if end < row - 1 or before.start_point.row > row:
            break
        row, before = before.start_point.row, before.prev_named_sibling
    return row
