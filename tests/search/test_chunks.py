"""Chunks of files: definitions of every language, sections, paragraphs, keys."""

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("tree_sitter")

from motherbird.search.chunks import chunks, code, language
from motherbird.search.chunks.chunk import CHARACTERS, LINES, NOTHING
from motherbird.search.languages import LANGUAGES

# Source code of each language, and the definitions in it, as line:symbol.
SOURCES = {
    "a.sh": ("f() {\n echo\n}\nfunction g { echo; }\n", "1:f 4:g"),
    "a.c": (
        "#ifdef X\nstatic int *foo(int a)\n{ return 0; }\n#endif\nstruct s { int a; };\n"
        "typedef struct { int b; } t;\n#define F(x) x\n",
        "2:foo 5:s 6:t 7:F",
    ),
    "a.hpp": (
        "namespace n {\ntemplate<class T>\nclass A : B { public: void m() {} };\n"
        "int A::foo(int x) const { return 1; }\n}\n",
        "2:n.A 4:n.A::foo",
    ),
    "a.cs": (
        "namespace N {\n public class A : B {\n  public int P { get; set; }\n  public A() {}\n"
        "  void M() {}\n }\n record R(int a);\n interface I {}\n}\n",
        "3:N.A.P 4:N.A.A 5:N.A.M 7:N.R 8:N.I",
    ),
    "a.ex": (
        "defmodule A.B do\n  def f(x) when x > 1 do\n  x\n end\n  defp g, do: 1\nend\n",
        "2:A.B.f 5:A.B.g",
    ),
    "a.go": (
        "package p\n\ntype S struct { a int }\ntype (\n A int\n B interface { M() }\n)\n"
        "func (s *S) M() {}\nfunc F() {}\n",
        "3:S 5:A 6:B 8:M 9:F",
    ),
    "a.hs": (
        "module M where\n\nf :: Int -> Int\nf x = x\n\ndata D = A | B\n"
        "class C a where\n  m :: a\n",
        "4:f 6:D 7:C",
    ),
    "a.java": (
        "package a;\npublic class A {\n int x;\n public A(){}\n @Override\n void m(){}\n}\n"
        "record R(int a){}\n",
        "4:A.A 5:A.m 8:R",
    ),
    "a.js": (
        "export class A extends B {\n  m(x) { return 1 }\n}\nexport const f = (a) => {\n"
        " return a }\nfunction g(){}\nmodule.exports.k = function(){}\n",
        "2:A.m 4:f 6:g 7:module.exports.k",
    ),
    "a.jl": (
        "module M\nfunction f(x)\nend\nstruct S\n a\nend\nmacro m() end\nend\n",
        "2:M.f 4:M.S 7:M.m",
    ),
    "a.kt": (
        "class A {\n fun m() {}\n}\nobject O {\n val x = 1\n}\nfun f() = 1\n",
        "2:A.m 4:O 7:f",
    ),
    "a.lua": (
        "local M = {}\nfunction M.f(a) end\nlocal function g() end\nM.h = function() end\n",
        "2:M.f 3:g 4:M.h",
    ),
    "a.ml": ("let f x = x\nmodule M = struct let g = 1 end\ntype t = A\n", "1:f 2:M 3:t"),
    "a.php": (
        "<?php\nnamespace N;\nclass A extends B {\n public function m() {}\n}\nfunction f() {}\n",
        "4:A.m 6:f",
    ),
    "a.py": (
        "import os\n\nclass A:\n  def m(self): pass\n\n# about f\n@wraps\ndef f(): pass\n",
        "4:A.m 6:f",
    ),
    "a.rb": (
        "module M\n class A < B\n  def m; end\n  def self.k\n  end\n end\nend\n",
        "3:M.A.m 4:M.A.k",
    ),
    "a.rs": (
        "pub struct S { a: i32 }\nimpl<T> Tr for S<T> {\n fn m(&self) {}\n}\n#[test]\nfn g() {}\n",
        "1:S 3:S<T>.m 5:g",
    ),
    "a.scala": (
        "class A(x: Int) {\n def m = 1\n}\nobject O { val z = 1 }\ntrait T\n",
        "2:A.m 4:O 5:T",
    ),
    "a.swift": (
        "class A: B {\n func m() {}\n}\nstruct S {}\nprotocol P { func k() }\nfunc f() {}\n",
        "2:A.m 4:S 5:P 6:f",
    ),
    "a.ts": (
        "export interface I { a: string }\nexport type T = string;\nenum E {A}\n"
        "export const q = async () => {}\ndeclare function z(): void;\n",
        "1:I 2:T 3:E 4:q 5:z",
    ),
    "a.tsx": ("export function App() {\n return <a/> }\n", "1:App"),
    "a.zig": (
        "pub const S = struct {\n a: i32,\n pub fn m(s: S) void {}\n};\npub fn f() void {}\n",
        "3:S.m 5:f",
    ),
}  # fmt: skip


def test_there_is_a_source_of_each_language():
    assert {language(name) for name in SOURCES} == {each.name for each in LANGUAGES}


@pytest.mark.parametrize("name", SOURCES)
def test_definitions(name, monkeypatch):
    monkeypatch.setattr(code, "WHOLE", 1)
    text, wanted = SOURCES[name]
    found = {f"{chunk.start}:{chunk.symbol}" for chunk in chunks(name, text)}
    assert set(wanted.split()) <= found


def test_a_class_is_divided_where_it_is_long():
    methods = "".join(f"    def m{n}(self):\n        return {n}\n\n" for n in range(12))
    text = f'"""About it."""\n\nclass A(B):\n    """What it is."""\n\n{methods}\nX = 1\n'
    found = [(c.symbol, c.kind, c.start, c.end) for c in chunks("a.py", text)]
    assert found[:3] == [
        ("", "module", 1, 1), ("A", "class", 3, 4), ("A.m0", "method", 6, 7),
    ]  # fmt: skip
    assert found[-1] == ("", "module", 43, 43) and len(found) == 15
    short = text.replace(methods, methods[:40])
    assert [c.symbol for c in chunks("a.py", short)] == ["", "A", ""]


@settings(max_examples=300, deadline=None)
@given(
    st.sampled_from(
        [*SOURCES, "a.md", "a.rst", "a.txt", "a.html", "a.json", "a.yaml", "a.toml", "Makefile"]
    ),
    st.data(),
)
def test_chunks_are_in_order_and_have_every_line(name, data):
    """Also of source code that is cut, or of another language."""
    text = SOURCES[data.draw(st.sampled_from([*SOURCES]))][0]
    start = data.draw(st.integers(0, len(text)))
    text = data.draw(st.text(max_size=30)) + text[start:] * data.draw(st.integers(1, 60))
    text = text.replace("\r", "")
    lines, last = text.split("\n"), 0
    for chunk in chunks(name, text):
        assert last < chunk.start <= chunk.end <= len(lines)
        assert all(NOTHING.fullmatch(line) for line in lines[last : chunk.start - 1])
        size = sum(map(len, lines[chunk.start - 1 : chunk.end]))
        assert chunk.start == chunk.end or (chunk.end - chunk.start < LINES and size <= CHARACTERS)
        last = chunk.end
    assert all(NOTHING.fullmatch(line) for line in lines[last:])


def test_sections():
    text = "before\n\n# One\n\na\n\n## Two\n\nb\n\n# Three\n"
    found = [(c.start, c.end, c.symbol, c.kind) for c in chunks("a.md", text)]
    assert found == [
        (1, 1, "", "text"), (3, 5, "One", "section"), (7, 9, "One > Two", "section"),
        (11, 11, "Three", "section"),
    ]  # fmt: skip


def test_headings_of_html():
    text = "<p>a\n<h1 id=x>One <b>two</b></h1>\n<p>b\n<H2>Three &amp; four</H2>\nc\n<h1>Five</h1>\n"
    assert [(c.start, c.end, c.symbol) for c in chunks("a.html", text)] == [
        (1, 1, ""), (2, 3, "One two"), (4, 5, "One two > Three & four"), (6, 6, "Five"),
    ]  # fmt: skip
    assert [c.symbol for c in chunks("b.html", "<p>no heading\n")] == [""]


def test_cells_of_a_notebook():
    nbformat = {
        "cells": [
            {"cell_type": "markdown", "metadata": {}, "source": ["# Title\n", "text"]},
            {"cell_type": "code", "outputs": [{"text": ["3\n"]}], "source": ["1 + 2"]},
            {"cell_type": "code", "outputs": [], "source": []},
        ],
        "nbformat": 4,
    }
    text = json.dumps(nbformat, indent=1)
    found = chunks("a.ipynb", text)
    lines = text.split("\n")
    assert [c.symbol for c in found] == ["cell 1", "cell 2"]
    assert "".join(lines[found[0].start - 1 : found[0].end]).split() == [
        '"#', 'Title\\n",', '"text"',
    ]  # fmt: skip
    assert lines[found[1].start - 1].strip() == '"1 + 2"' and found[1].start == found[1].end


def test_keys():
    rows = "".join(f"  line: {n}\n" for n in range(20))
    found = chunks("a.yaml", f"one:\n{rows}two:\n{rows}")
    assert [(c.start, c.symbol) for c in found] == [(1, "one"), (22, "two")]
    found = chunks("a.toml", "a = 1\n[one]\n" + "b = 1\n" * 20 + "[two.three]\nc = 1\n")
    assert [(c.start, c.symbol) for c in found] == [(1, ""), (2, "one"), (23, "two.three")]


def test_paragraphs_are_joined():
    text = "\n\n".join(["word " * 30] * 12)
    found = chunks("a.txt", text)
    assert 2 <= len(found) <= 4
