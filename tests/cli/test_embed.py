"""motherbird embed: one vector a line, in order, or nothing at all."""

import bz2
import csv
import errno
import gzip
import io
import json
import os
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

from motherbird import Embedder

TEXTS = ["A short text.", "  spaces  ", "é 😀", "for x in range(10): print(x)", "a" * 300]


@pytest.fixture
def place(tmp_path):
    """A folder with a text file, and an older result that must not be lost."""
    (tmp_path / "in.txt").write_text("\n".join(TEXTS) + "\n", encoding="utf-8")
    np.save(tmp_path / "out.npy", np.zeros(3))
    return tmp_path


@pytest.fixture
def embed(motherbird, model, place):
    def call(file="in.txt", *options, out="out.npy", stdin=b""):
        file = file if file == "-" else place / file
        return motherbird(
            "embed", file, "--model", model, "--out", place / out, *options, stdin=stdin
        )

    return call


def wanted(model, texts=TEXTS, **options):
    return Embedder.load(model, dtype="float32").embed(texts, **options)


EXACT = ("--dtype", "float32")


def test_json(embed, place, model, documented, has_shape):
    result = embed("in.txt", "--json").done().json
    assert has_shape(result, documented("embed")[0])
    ids = Embedder.load(model, dtype="stored").tokenizer.encode_batch(TEXTS)
    assert (result["out"], result["texts"], result["dimensions"], result["truncated"]) == (
        str(place / "out.npy"), 5, 32, 0
    )  # fmt: skip
    assert result["tokens"] == sum(map(len, ids)) and result["seconds"] >= 0


def test_on_paper(embed, place):
    out = embed().done().out
    assert out.startswith(f"{place / 'out.npy'}: 5 vectors of 32 dimensions, ") and out.endswith(
        "tokens/s\n"
    )


def test_vectors_are_those_of_python(embed, place, model):
    embed("in.txt", *EXACT).done()
    vectors = np.load(place / "out.npy", allow_pickle=False)
    assert vectors.dtype == np.float32 and vectors.shape == (5, 32)
    np.testing.assert_allclose(vectors, wanted(model), atol=1e-6)
    assert sorted(p.name for p in place.iterdir()) == ["in.txt", "out.npy", "out.npy.json"]


@pytest.mark.parametrize(
    ("options", "arguments"),
    [
        (["--truncate-dim", "7"], {"truncate_dim": 7}),
        (["--no-normalize"], {"normalize": False}),
        (["--normalize"], {"normalize": True}),
        (["--prompt-name", "query"], {"prompt_name": "query"}),
        (["--prompt", "query"], {"prompt": "query"}),
        (["--prompt", "any text: "], {"prompt": "any text: "}),
        (["--max-length", "9", "--truncate"], {"max_length": 9, "truncate": True}),
        (["--batch-tokens", "10"], {}),
        (["--attention", "oracle"], {}),
        (["--threads", "1"], {}),
    ],
    ids=lambda value: str(value),
)
def test_options(options, arguments, embed, place, model):
    result = embed("in.txt", *EXACT, *options, "--json")
    assert result.code == 0
    vectors = np.load(place / "out.npy")
    np.testing.assert_allclose(vectors, wanted(model, **arguments), atol=1e-5)
    assert result.json["dimensions"] == arguments.get("truncate_dim", 32)
    if "--truncate" in options:
        assert result.json["truncated"] == 2
        assert result.err == "WARNING: truncated 2 of 5 texts to 9 tokens\n"
    else:
        assert result.err == "" and result.json["truncated"] == 0


@pytest.mark.parametrize(
    "data",
    [
        "one\ntwo\x0c\x0b\x1c\x85\u2028 still two\n",
        "one\r\ntwo\x0c\x0b\x1c\x85\u2028 still two\r\n",
        "one\rtwo\x0c\x0b\x1c\x85\u2028 still two\r",
        "\ufeffone\ntwo\x0c\x0b\x1c\x85\u2028 still two",
    ],
    ids=["unix", "windows", "old mac", "with mark, without end"],
)
def test_lines(data, embed, place, model):
    """Only a line end ends a line; row i is line i."""
    (place / "lines.txt").write_bytes(data.encode())
    expected = wanted(model, ["one", "two\x0c\x0b\x1c\x85\u2028 still two"])
    embed("lines.txt", *EXACT).done()
    np.testing.assert_allclose(np.load(place / "out.npy"), expected, atol=1e-6)
    embed("-", *EXACT, stdin=data.encode()).done()
    np.testing.assert_allclose(np.load(place / "out.npy"), expected, atol=1e-6)


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz"])
def test_lines_of_json(suffix, embed, place, model):
    data = "".join(json.dumps({"id": i, "text": text}) + "\n" for i, text in enumerate(TEXTS))
    packed = gzip.compress(data.encode()) if suffix.endswith("gz") else data.encode()
    (place / f"in{suffix}").write_bytes(packed)
    embed(f"in{suffix}", *EXACT).done()
    np.testing.assert_allclose(np.load(place / "out.npy"), wanted(model), atol=1e-6)


QUOTED = ["a, b", 'says "no"', "two\nlines", "tab\there", "é 😀"]


def table(path, texts, column="text"):
    """Write a table in the format of its suffix."""
    rows = [{"id": i, column: text} for i, text in enumerate(texts)]
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            writer = csv.DictWriter(
                file, ["id", column], delimiter="\t" if path.suffix == ".tsv" else ","
            )
            writer.writeheader()
            writer.writerows(rows)


@pytest.mark.parametrize("column", ["text", "a b"])
@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
def test_tables(suffix, column, embed, place, model):
    table(place / f"in{suffix}", QUOTED, column)
    embed(f"in{suffix}", *EXACT, "--column", column).done()
    np.testing.assert_allclose(np.load(place / "out.npy"), wanted(model, QUOTED), atol=1e-6)
    if column != "text":
        embed(f"in{suffix}").refused('"text".*set --column.*: "id", "a b"')


@pytest.mark.parametrize("suffix", [".txt.gz", ".csv.gz"])
def test_a_compressed_file(suffix, embed, place, model):
    header = b"text\n" if "csv" in suffix else b""
    (place / f"in{suffix}").write_bytes(gzip.compress(header + b"one\ntwo\n"))
    embed(f"in{suffix}", *EXACT).done()
    np.testing.assert_allclose(np.load(place / "out.npy"), wanted(model, ["one", "two"]), atol=1e-6)


def test_a_column_of_what_is_not_a_table(embed, place, tree):
    (place / "parts.parquet").mkdir()
    (place / "side.npy.json").mkdir()
    before = tree(place)
    embed("in.txt", "--column", "text").refused("--column is for tables")
    embed("-", "--column", "text", stdin=b"a").refused("--column is for tables")
    embed("parts.parquet").refused("is a directory.*parts.parquet")
    embed(out="side.npy").refused("settings cannot be written.*side.npy.json")
    assert tree(place) == before


def test_a_device_is_refused(motherbird, model, place):
    call = ("embed", "/dev/zero", "--model", model, "--out", place / "out.npy")
    motherbird(*call).refused("this is a device: /dev/zero")


def test_the_settings_are_written_beside_the_array(embed, place, model):
    options = ("--prompt-name", "query", "--max-length", "20", "--truncate", "--no-normalize")
    printed = embed("in.txt", *EXACT, *options, "--json").json
    written = json.loads((place / "out.npy.json").read_text(encoding="utf-8"))
    assert written == printed
    assert {
        "model": str(model), "dtype": "float32", "pooling": "mean", "prompt": "question: ",
        "normalize": False, "max_length": 20, "split_special_tokens": False,
    }.items() <= written.items()  # fmt: skip


def test_special_tokens_in_a_line(embed, place, model):
    (place / "in.txt").write_text("see [MASK] and [SEP]\n")
    made = []
    for option in ([], ["--split-special-tokens"]):
        assert embed("in.txt", *EXACT, *option, "--json").json["split_special_tokens"] == bool(
            option
        )
        made.append(np.load(place / "out.npy"))
    parsed, split = made
    assert not np.allclose(parsed, split)
    np.testing.assert_allclose(parsed, wanted(model, ["see [MASK] and [SEP]"]), atol=1e-6)


def test_a_new_file_and_a_path_of_the_user(embed, place, monkeypatch):
    monkeypatch.chdir(place)
    embed(out="new.npy").done()
    assert np.load("new.npy").shape == (5, 32)


# --- bad input

NOT_LINES = r"this is {}, not JSON lines: .*{}\.jsonl: write one object per line, .*jq -c"
BAD_FILES = {
    "missing.txt": (None, 2, r"does not exist.*missing\.txt.*use - for"),
    "missing.jsonl": (None, 2, r"does not exist.*missing\.jsonl"),
    "folder": ({}, 2, "is a directory.*folder"),
    "empty.txt": (b"", 2, r"no text.*empty\.txt"),
    "only-a-mark.txt": (b"\xef\xbb\xbf", 2, "no text"),
    "empty.jsonl": (b"", 2, r"no text.*empty\.jsonl"),
    "empty-line.txt": (b"one\ntwo\n \t\nfour\n", 2, r"empty-line\.txt:3"),
    "empty-first.txt": (b"\none\n", 2, r"empty-first\.txt:1"),
    "empty-text.jsonl": (b'{"text": "a"}\n{"text": " "}\n{"text": "c"}\n', 2, r"text\.jsonl:2"),
    "latin.txt": (b"one\ncaf\xe9\n", 1, r"UTF-8.*latin\.txt.*(byte 7|:2)"),
    "wide.txt": ("one\n".encode("utf-16"), 1, r"UTF-8.*wide\.txt"),
    "null.txt": (b"one\na\0b\n", 1, r"null\.txt"),
    "broken.jsonl": (b'{"text": "a"}\n{"text": \n', 1, r"broken\.jsonl:2"),
    "no-field.jsonl": (b'{"text": "a"}\n{"body": "b"}\n', 1, r'"text".*no-field\.jsonl:2'),
    "surrogate.jsonl": (b'{"text": "a"}\n{"text": "\\ud83d"}\n', 1, r"surrogate\.jsonl:2"),
    "cut.jsonl.gz": (gzip.compress(b'{"text": "a"}\n')[:-9], 1, r"cut\.jsonl\.gz"),
    "zero-width.txt": ("one\n\u200b\n".encode(), 2, r"no visible character.*zero-width\.txt:2"),
    "no-column.csv": (
        b"id,body\n1,a\n",
        2,
        r'"text".*no-column\.csv.*--column.*columns: "id", "body"',
    ),
    "no-field.ndjson": (b'{"body": "b"}\n', 2, r'"text".*no-field\.ndjson:1.*--column.*: "body"'),
    "twice.csv": (b"text,text\na,b\n", 2, r"two columns.*twice\.csv"),
    "records.json": (
        b'[\n{"text": "a"}\n]\n',
        2,
        r"JSON.*records\.json.*\.jsonl.*jq -c '\.\[\]' rec",
    ),
    "My data.JSON.gz": (
        gzip.compress(b"[]"),
        2,
        r"this is JSON.*'My data\.JSON' > 'My data\.jsonl'",
    ),
    "lfs.txt": (b"version https://git-lfs.github.com/spec/v1\n", 1, r"LFS.*lfs\.txt.*git lfs pull"),
    "ragged.csv": (b"id,text\n1,a\n2,b,c\n", 1, r"3 values, the header 2.*ragged\.csv:3"),
    "spaces.csv": (b"id, text\n1, a\n", 2, r'columns: "id", " text"$'),
    "semicolons.csv": (b"id;text;n\n1;a;2\n", 1, r"separated by ';', not commas.*with commas"),
    "tabs.csv": (b"id\ttext\n1\ta\n", 1, r"separated by tabs, not commas.*rename it to \.tsv"),
    "commas.tsv": (b"id,text\n1,a\n", 1, r"separated by ',', not tabs.*rename it to \.csv"),
    "quote.tsv": (
        b'id\ttext\n1\t"a" b\n',
        1,
        r"not TSV \('\\t' expected.*quote\.tsv:2: write the text in double quotes, with two of",
    ),
    "quote-first.csv": (
        b'id,text\n1,"a" b\n',
        1,
        r"not CSV \(',' expected.*first\.csv:2: write the text in double quotes, with two of",
    ),
    "short.csv": (b"id,text\n1\n", 1, r"has 1 value, the header 2: .*:2: write a value for each"),
    "array.jsonl": (b'[\n {"text": "a"}\n]\n', 1, NOT_LINES.format("a JSON array", "array")),
    "line.jsonl": (b'\n[{"text": "a"}]\n', 1, NOT_LINES.format("a JSON array", "line")),
    "pretty.jsonl": (
        b'{\n "text": "a"\n}\n',
        1,
        NOT_LINES.format("JSON of several lines", "pretty"),
    ),
    "cut.jsonl": (
        b'{"text": "a"}\n{"text": \n{"text": "b"}\n',
        1,
        r"Expecting value, at column 10\): .*cut\.jsonl:2: repair it$",
    ),
    "cut-text.jsonl": (
        b'{"text": "a\r\n{"text": "b"}\r\n',
        1,
        r"\(Unterminated string starting, at column 10\): .*text\.jsonl:1: repair it$",
    ),
    "nul.jsonl": (b'{"text": "a"}\n{"text": "b\\u0000"}\n', 1, r"contains a NUL.*nul\.jsonl:2"),
    "number.jsonl": (b'{"text": 5}\n', 1, r"number, not text.*jsonl:1: write an object with a str"),
    "list.jsonl": (
        b'{"text": [], "id": 1}\n',
        2,
        r'"text" is a list.*set --column.*: "text", "id"',
    ),
    "nothing.jsonl": (b"{}\n", 1, r'no text in field "text".*jsonl:1: write an object with a str'),
    "digits.jsonl": (b'{"n": ' + b"9" * 5000 + b"}", 1, r"\(a number has more than 4,300 digits\)"),
    "null.jsonl": (b'{"text": "a"}\n{"text": null}\n', 1, r'"text" is null, not text.*jsonl:2'),
    "half.jsonl": (b'{"text": "\\udc00"}\n', 1, r"half a character.*half\.jsonl:1"),
    "latin.jsonl": (b'{"text": "caf\xe9"}\n', 1, r"byte 13 is not UTF-8.*latin\.jsonl:1"),
    "quote.csv": (
        b'text\n"a\nb\nc\n',
        1,
        r"a quote is not closed.*quote\.csv:2: close it, or write",
    ),
    "empty.csv": (b"", 2, r"the file is empty: .*empty\.csv"),
    "header.csv": (b"text\n", 2, r"the table has no rows: .*header\.csv"),
    "empty-cell.tsv": (b"id\ttext\n1\ta\n2\t\n", 2, r"empty-cell\.tsv:3"),
    "long.txt": (b"one\n" + b"word " * 600 + b"\nthree\n", 2, r"512.*long\.txt:2.*truncat"),
}


@pytest.mark.parametrize("name", BAD_FILES)
def test_a_file_that_cannot_be_embedded(name, embed, place, tree):
    content, code, says = BAD_FILES[name]
    if content == {}:
        (place / name).mkdir()
    elif content is not None:
        (place / name).write_bytes(content)
    before = tree(place)
    assert embed(name).refused(says, code).out == ""
    error = embed(name, "--json").refused(says, code).json["error"]
    assert set(error) == {"code", "what", "where", "how"} and name in error["where"]
    assert tree(place) == before


@pytest.mark.parametrize(
    ("texts", "code", "says"),
    [
        (["a", "b\0"], 1, r"contains a NUL.*in\.parquet:2"),
        ([5], 1, r'"text" is a number, not text.*in\.parquet:1'),
        ([None], 1, r'"text" is null, not text'),
        ([], 2, r"the table has no rows.*in\.parquet"),
    ],
)
def test_a_parquet_file_that_cannot_be_embedded(texts, code, says, embed, place, tree):
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.table({"text": texts}), place / "in.parquet")
    before = tree(place)
    embed("in.parquet").refused(says, code)
    assert tree(place) == before


@pytest.mark.parametrize("url", ["s3://bucket/a.txt", "http://localhost/a.csv"])
def test_a_url_is_not_read(url, motherbird, model, place):
    call = ("embed", url, "--model", model, "--out", place / "out.npy")
    motherbird(*call).refused("URLs are not read.*download the file")


@pytest.mark.parametrize(
    ("stdin", "code", "says"),
    [(b"", 2, "no text"), (b"a\n\nb\n", 2, ":2"), (b"\xff", 1, "UTF-8")],
)
def test_standard_input_that_cannot_be_embedded(stdin, code, says, embed, place, tree):
    before = tree(place)
    embed("-", stdin=stdin).refused(says, code)
    assert tree(place) == before


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("out.npz", r"--out.*\.npy.*out\.npz|out\.npz.*\.npy"),
        ("in.txt", r"--out is not a \.npy file: .*in\.txt: use a name that ends in \.npy"),
        ("nowhere/out.npy", "directory of the output.*nowhere"),
        ("in.txt/out.npy", r"this is a file, not a directory: .*in\.txt: use another path"),
        ("loop.npy", r"this link leads to itself: .*loop\.npy"),
        ("looped.npy", r"this link leads to itself: .*looped\.npy\.json"),
        ("folder.npy", r"is a directory.*folder\.npy"),
    ],
)
def test_a_place_that_cannot_be_written(out, says, embed, place, tree):
    (place / "folder.npy").mkdir()
    (place / "loop.npy").symlink_to("loop.npy")
    (place / "looped.npy.json").symlink_to("looped.npy.json")
    before = tree(place)
    embed(out=out).refused(says)
    assert tree(place) == before


def test_an_input_that_is_a_link_to_itself(embed, place):
    (place / "loop.txt").symlink_to("loop.txt")
    embed("loop.txt").refused(r"this link leads to itself: .*loop\.txt")


def test_a_directory_comes_before_the_output_in_it(motherbird, place, monkeypatch):
    monkeypatch.chdir(place)
    motherbird("embed", ".", "--out", "v.npy").refused(r"this is a directory: \.: use a file")


def test_a_directory_that_cannot_be_written_is_found_first(embed, place, monkeypatch):
    """Before the model is loaded."""
    (place / "ro").mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "ro")
    monkeypatch.setattr("motherbird.models.embedder.Embedder.load", None)
    embed(out="ro/v.npy").refused("nothing can be created in this directory: .*ro: check its")


def test_the_empty_option_is_named(motherbird, model, place):
    motherbird("embed", place / "in.txt", "--out", "").refused(
        "^error: '--out' is empty: use . for"
    )
    motherbird("embed", "", "--out", place / "v.npy").refused("^error: 'FILE...' is empty")


def test_the_output_may_not_be_the_input(motherbird, model, place, tree):
    (place / "in.npy").write_text("a text with a curious name\n")
    before = tree(place)
    call = ("embed", place / "in.npy", "--model", model, "--out")
    motherbird(*call, place / "in.npy").refused("inside the input|is the input")
    motherbird(*call, place / "." / "in.npy").refused("inside the input|is the input")
    call = ("embed", place / "in.txt", "--model", model, "--out")
    motherbird(*call, model / "out.npy").refused("inside the input")
    (place / "new.npy.json").write_text("a text\n")
    before = tree(place)
    call = ("embed", place / "new.npy.json", "--model", model, "--out", place / "new.npy")
    says = r"settings of --out.*new\.npy\.json: use another --out, such as .*new-2\.npy\n"
    motherbird(*call).refused(says)
    assert tree(place) == before and not (model / "out.npy").exists()


def test_the_name_to_use_instead_of_a_link_to_the_input(motherbird, model, place, monkeypatch):
    (place / "links").mkdir()
    (place / "links" / "l.npy").symlink_to("../in.txt")
    monkeypatch.chdir(place)
    for out, instead in (
        ("links/l.npy", "links/l-2.npy"),
        (place / "links/l.npy", "links/l-2.npy"),
    ):
        call = ("embed", "in.txt", "--model", model, "--out", out)
        says = f"the output is the input: .*: use another path, such as {instead}\n"
        motherbird(*call).refused(says)
    motherbird("embed", "in.txt", "--model", model, "--out", instead).done()


def test_a_prompt_that_fills_the_length(embed, place, tree):
    before = tree(place)
    says = "the prompt has .* tokens and leaves no room for text within 8: use a shorter prompt"
    prompt = "a long prompt of many different words: "
    embed("in.txt", "--prompt", prompt, "--max-length", "8", "--truncate").refused(says)
    assert tree(place) == before


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--device", "meta", "--dtype", "int8"], "device 'meta' needs torch, which .* int8"),
        (
            ["--attention", "flash", "--dtype", "int8"],
            "attention 'flash' needs torch, which does not compute in int8: leave it out, or use",
        ),
        (["--device", "tpu"], "'tpu'.*use cpu"),
        (["--dtype", "int4"], "'int4'.*bfloat16"),
        (["--attention", "fast"], "'fast'.*banded.*oracle"),
        (["--max-length", "0"], "0.*1 to 512"),
        (["--max-length", "513"], "513.*512"),
        (["--max-length", "2", "--truncate"], "2 tokens: use 3 or more"),
        (["--truncate-dim", "0"], r"use 1 to 32"),
        (["--truncate-dim", "33"], r"use 1 to 32"),
        (["--batch-tokens", "0"], "0"),
        (["--column", ""], "'--column': it is empty"),
        (["--device", ""], "'--device': it is empty"),
        (["--prompt-name", ""], "'--prompt-name': it is empty"),
        (["--model", ""], "'--model' is empty"),
        (["--batch-tokens", "many"], "--batch-tokens.*'many'"),
        (["--thread", "1"], "--thread'.*'--threads'"),
        (["--prompt-name", "qurey"], "no prompt called 'qurey': the model has 'query'"),
        (["--prompt-name", "query", "--prompt", "a"], "exclude each other"),
        (["another.txt"], "unexpected extra argument.*another"),
    ],
    ids=str,
)
def test_options_that_are_impossible(options, says, embed, place, tree):
    before = tree(place)
    embed("in.txt", *options).refused(says)
    assert tree(place) == before


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_absent(embed):
    embed("in.txt", "--device", "cuda").refused("'cuda' is not available: use cpu")


def test_what_is_missing_on_the_line(motherbird, model, place):
    motherbird("embed", place / "in.txt", "--model", model).refused("'--out'.*embed --help")
    motherbird("embed", "--model", model, "--out", place / "x.npy").refused("'FILE...'")


def test_a_model_that_is_none_or_damaged(motherbird, model, place, tree):
    def call(name):
        return motherbird(
            "embed", place / "in.txt", "--model", place / name, "--out", place / "out.npy"
        )

    (place / "empty").mkdir()
    for name in ("changed", "cut", "no-weights", "no-part"):
        shutil.copytree(model, place / name)
    weights = bytearray((model / "model.safetensors").read_bytes())
    weights[-5] ^= 1
    (place / "changed" / "model.safetensors").write_bytes(weights)
    (place / "cut" / "motherbird.json").unlink()
    (place / "cut" / "model.safetensors").write_bytes(weights[:-100])
    (place / "no-weights" / "model.safetensors").unlink()
    modules = json.loads((model / "modules.json").read_text())
    modules[0]["path"] = "encoder"
    (place / "no-part" / "modules.json").write_text(json.dumps(modules))
    before = tree(place)
    call("nowhere").refused("no such directory.*nowhere")
    call("empty").refused("config.json is missing.*empty")
    call("in.txt").refused("this is a file")
    call("no-weights").refused("no model.safetensors.*no-weights")
    call("changed").refused("SHA-256.*changed.model.safetensors", code=1)
    call("cut").refused("not a valid safetensors file.*cut.model.safetensors", code=1)
    call("no-part").refused("no-part", code=2)
    assert tree(place) == before


def test_a_part_of_a_model_is_not_looked_for_on_the_hub(motherbird, model, tmp_path, monkeypatch):
    """A broken folder "toy" with its encoder in "encoder" is not the Hub's model toy/encoder."""
    shutil.copytree(model, tmp_path / "toy")
    modules = json.loads((model / "modules.json").read_text())
    modules[0]["path"] = "encoder"
    (tmp_path / "toy" / "modules.json").write_text(json.dumps(modules))
    (tmp_path / "in.txt").write_text("text\n")
    asked = []
    monkeypatch.setattr("huggingface_hub.snapshot_download", lambda name, **_: asked.append(name))
    monkeypatch.chdir(tmp_path)
    result = motherbird("embed", "in.txt", "--model", "toy", "--out", "out.npy")
    assert asked == [] and result.code in (1, 2)


def test_a_full_disk_leaves_the_old_file(embed, place, tree, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    before = tree(place)
    monkeypatch.setattr(os, "fsync", full)
    embed().refused("No space left on device", code=1)
    assert tree(place) == before


ENCODINGS = {
    "utf-16": "UTF-16",
    "utf-16-le": "UTF-16LE",
    "utf-16-be": "UTF-16BE",
    "utf-32": "UTF-32",
}


@pytest.mark.parametrize("encoding", ENCODINGS)
@pytest.mark.parametrize("name", ["-", "in.txt", "in.txt.gz", "in.csv", "in.jsonl"])
def test_text_in_another_encoding(name, encoding, embed, place):
    text = "text\nA café and a naïve reader\n" if name != "in.jsonl" else '{"text": "café"}\n'
    data = text.encode(encoding)
    (place / name).write_bytes(gzip.compress(data) if name.endswith(".gz") else data)
    says = f"not UTF-8 text; it seems to be .*: convert it, as with iconv -f {ENCODINGS[encoding]} "
    embed(name, stdin=data).refused(says + "-t UTF-8", 1)


ALPHABETS = {
    "cp1252": "A naïve café",
    "mac-roman": "A naïve café",
    "gb18030": "我们读书",
    "shift-jis": "日本語の本",
}


@pytest.mark.parametrize("encoding", ALPHABETS)
@pytest.mark.parametrize("name", ["-", "in.txt", "in.csv", "in.jsonl"])
def test_an_encoding_that_cannot_be_recognized_is_not_named(name, encoding, embed, place):
    """Text from the wrong ``iconv -f`` would be wrong without an error."""
    text = "text\n{}\n" if name != "in.jsonl" else '{{"text": "{}"}}\n'
    data = text.format(ALPHABETS[encoding]).encode(encoding)
    (place / name).write_bytes(data)
    error = embed(name, stdin=data).refused("not UTF-8", 1).err
    assert "iconv -f ENCODING -t UTF-8" in error and "SHIFT_JIS (Japanese)" in error
    assert "seems" not in error


@pytest.mark.parametrize("data", [b"a line\n" * 500 + b"a\0b\n", bytes(range(256)) * 9])
@pytest.mark.parametrize("name", ["-", "in.txt", "in.csv"])
def test_a_binary_file_is_not_text_in_another_encoding(name, data, embed, place):
    data = b"text\n" + data
    (place / name).write_bytes(data)
    error = embed(name, stdin=data, out="new.npy").refused("binary|invalid|seems", 1).err
    if name != "in.csv":
        assert "a binary file, not text" in error


def test_too_many_threads(embed):
    embed("in.txt", "--threads", 2048).refused("--threads.*1<=x<=1024")


def test_an_empty_compressed_table(motherbird, model, place):
    (place / "empty.csv.gz").write_bytes(gzip.compress(b""))
    call = ("embed", place / "empty.csv.gz", "--model", model, "--out", place / "out.npy")
    motherbird(*call).refused("the table is empty.*write a header and rows", code=1)


def packed(kind):
    """Return an archive with a member."""
    data = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(data, "w") as archive:
            archive.writestr("xl/worksheets/sheet1.xml", "<c>text</c>")
    else:
        with tarfile.open(fileobj=data, mode=kind) as archive:
            archive.addfile(tarfile.TarInfo("a.txt"))
    return data.getvalue()


SAVE = "save a table as .csv, .tsv, .jsonl or .parquet; unpack an archive first"
ADD = "add {} to its name, or unpack it"
BINARY_FILES = {
    "texts.xlsx": (packed("zip"), SAVE),
    "zip.csv": (packed("zip"), SAVE),
    "packed": (gzip.compress(b"a text\n"), ADD.format(".gz")),
    "packed.jsonl": (gzip.compress(b'{"text": "a"}\n'), ADD.format(".gz")),
    "newline.jsonl": (b"\x1f\x8b\x08\n", ADD.format(".gz")),
    "packed.tsv": (gzip.compress(b"text\na\n"), ADD.format(".gz")),
    "packed.txt": (bz2.compress(b"a text\n"), ADD.format(".bz2")),
    "zst.txt": (b"\x28\xb5\x2f\xfd\x00\x00", ADD.format(".zst")),
    "table.txt": (b"PAR1\x15\x04\x15\x00", "add .parquet to its name"),
    "texts.tar": (packed("w:"), "unpack it first"),
    "texts.tar.gz": (packed("w:gz"), "unpack it first"),
    "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), "convert it to text"),
}


@pytest.mark.parametrize("name", BINARY_FILES)
def test_a_binary_file(name, embed, motherbird, place):
    content, how = BINARY_FILES[name]
    (place / name).write_bytes(content)
    embed(name).refused(rf"a binary file, not text: .*{name}.*: {how}$", 1)
    call = ("data", "build", place / name, "--out", place / "corpus")
    motherbird(*call).refused(rf"a binary file, not text.*: {how}(, or skip|$)", 1)
    motherbird(*call, "--max-bad", 0).refused(rf"a binary file, not text: .*{name}.*: {how}, or", 1)


def test_a_packed_file_with_the_suffix_that_the_error_names(embed, place):
    (place / "in.txt").write_bytes(gzip.compress((place / "in.txt").read_bytes()))
    embed("in.txt").refused("a binary file.*: add .gz to its name, or unpack it", 1)
    (place / "in.txt").rename(place / "in.txt.gz")
    embed("in.txt.gz").done()
