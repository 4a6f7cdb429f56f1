"""Programming languages: their suffixes, and which nodes of a syntax tree are definitions."""

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING

from ..errors import require_extra

if TYPE_CHECKING:
    from tree_sitter import Parser

CONTAINERS = ("class", "module", "interface")  # kinds whose members are definitions too


@dataclass(frozen=True, eq=False)
class Language:
    """A language with a grammar of tree-sitter.

    Attributes:
        name: what a user calls it.
        suffixes: of its files, in lower case.
        kinds: the kind of each type of node that is a definition: "function", "type", or one of
            `CONTAINERS`.
        grammar: the module of the grammar.
        function: the function of the module that returns the grammar.
        calls: the kind of each name that defines something when it is called (Elixir).
    """

    name: str
    suffixes: tuple[str, ...]
    kinds: Mapping[str, str]
    grammar: str
    function: str = "language"
    calls: Mapping[str, str] = field(default_factory=dict)


def _kinds(**types: str) -> dict[str, str]:
    """Return the kind of each type of node, from the types of each kind, separated by spaces."""
    return {name: kind.rstrip("_") for kind, names in types.items() for name in names.split()}


_SCRIPT = _kinds(
    class_="class_declaration", function="function_declaration generator_function_declaration "
    "method_definition",
)  # fmt: skip
_C = _kinds(
    function="function_definition preproc_function_def",
    type="struct_specifier union_specifier enum_specifier type_definition",
)
_TYPED = _SCRIPT | _kinds(
    class_="abstract_class_declaration", interface="interface_declaration",
    module="internal_module module", function="function_signature method_signature "
    "abstract_method_signature", type="type_alias_declaration enum_declaration",
)  # fmt: skip

LANGUAGES = (
    Language("bash", (".sh", ".bash"), _kinds(function="function_definition"), "tree_sitter_bash"),
    Language("c", (".c",), _C, "tree_sitter_c"),
    # .h is read as C++, whose grammar also reads nearly all of C.
    Language(
        "c++", (".cc", ".cpp", ".cxx", ".hpp", ".hh", ".hxx", ".h", ".ipp", ".cu", ".cuh"),
        _C | _kinds(class_="class_specifier", module="namespace_definition",
                    type="alias_declaration concept_definition"),
        "tree_sitter_cpp",
    ),
    Language(
        "c#", (".cs",), _kinds(
            class_="class_declaration struct_declaration record_declaration",
            interface="interface_declaration", type="enum_declaration delegate_declaration",
            module="namespace_declaration file_scoped_namespace_declaration",
            function="method_declaration constructor_declaration property_declaration "
            "operator_declaration local_function_statement",
        ), "tree_sitter_c_sharp",
    ),
    Language(
        "elixir", (".ex", ".exs"), {}, "tree_sitter_elixir", calls=_kinds(
            module="defmodule defimpl", interface="defprotocol",
            function="def defp defmacro defmacrop defguard", type="defstruct defexception",
        ),
    ),
    Language(
        "go", (".go",), _kinds(
            function="function_declaration method_declaration", type="type_spec type_alias",
        ), "tree_sitter_go",
    ),
    Language(
        "haskell", (".hs",), _kinds(
            function="function bind", type="data_type newtype type_synomym",
            class_="class instance",
        ), "tree_sitter_haskell",
    ),
    Language(
        "java", (".java",), _kinds(
            class_="class_declaration record_declaration enum_declaration",
            interface="interface_declaration annotation_type_declaration",
            function="method_declaration constructor_declaration",
        ), "tree_sitter_java",
    ),
    Language("javascript", (".js", ".jsx", ".mjs", ".cjs"), _SCRIPT, "tree_sitter_javascript"),
    Language(
        "julia", (".jl",), _kinds(
            module="module_definition", function="function_definition macro_definition",
            type="struct_definition abstract_definition",
        ), "tree_sitter_julia",
    ),
    Language(
        "kotlin", (".kt", ".kts"), _kinds(
            class_="class_declaration object_declaration companion_object",
            function="function_declaration secondary_constructor", type="type_alias",
        ), "tree_sitter_kotlin",
    ),
    Language("lua", (".lua",), _kinds(function="function_declaration"), "tree_sitter_lua"),
    Language(
        "ocaml", (".ml",), _kinds(
            function="let_binding", module="module_binding", type="type_binding",
            class_="class_binding",
        ), "tree_sitter_ocaml", "language_ocaml",
    ),
    Language(
        "php", (".php",), _kinds(
            class_="class_declaration trait_declaration enum_declaration",
            interface="interface_declaration",
            function="function_definition method_declaration",
        ), "tree_sitter_php", "language_php",
    ),
    Language(
        "python", (".py", ".pyi", ".pyx", ".pyw"),
        _kinds(class_="class_definition", function="function_definition"), "tree_sitter_python",
    ),
    Language(
        "ruby", (".rb", ".rake"), _kinds(
            class_="class singleton_class", module="module", function="method singleton_method",
        ), "tree_sitter_ruby",
    ),
    Language(
        "rust", (".rs",), _kinds(
            class_="impl_item", interface="trait_item", module="mod_item",
            function="function_item function_signature_item macro_definition",
            type="struct_item enum_item union_item type_item",
        ), "tree_sitter_rust",
    ),
    Language(
        "scala", (".scala", ".sc"), _kinds(
            class_="class_definition object_definition enum_definition given_definition",
            interface="trait_definition", module="package_object",
            function="function_definition function_declaration", type="type_definition",
        ), "tree_sitter_scala",
    ),
    Language(
        "swift", (".swift",), _kinds(
            class_="class_declaration", interface="protocol_declaration",
            function="function_declaration protocol_function_declaration init_declaration "
            "deinit_declaration subscript_declaration", type="typealias_declaration",
        ), "tree_sitter_swift",
    ),
    Language(
        "typescript", (".ts", ".mts", ".cts"), _TYPED, "tree_sitter_typescript",
        "language_typescript",
    ),
    Language("tsx", (".tsx",), _TYPED, "tree_sitter_typescript", "language_tsx"),
    Language(
        "zig", (".zig",), _kinds(function="function_declaration test_declaration"),
        "tree_sitter_zig",
    ),
)  # fmt: skip
_BY_SUFFIX = {suffix: language for language in LANGUAGES for suffix in language.suffixes}


def language_of(name: str) -> Language | None:
    """Return the language of a file, by its name."""
    return _BY_SUFFIX.get(name[name.rfind(".") :].lower())


@cache
def parser_of(language: Language) -> "Parser":
    """Return the parser of a language; one is made for each process."""
    tree_sitter = require_extra("tree_sitter", "search")
    require_extra(language.grammar, "search")
    grammar = getattr(importlib.import_module(language.grammar), language.function)
    parser: Parser = tree_sitter.Parser(tree_sitter.Language(grammar()))
    return parser
