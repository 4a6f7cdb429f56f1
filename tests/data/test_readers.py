"""Reading text: files, folders and lines of JSON, whole or broken."""

import csv
import gzip
import importlib
import json
import logging
import os
import sys

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from motherbird.data.readers import Document, read, read_file
from motherbird.errors import DamagedError, InputError, MissingExtraError, RowError

posix = pytest.mark.skipif(os.name == "nt", reason="needs POSIX links and pipes")
ZSTD = "compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd"


def texts(path) -> list[str]:
    return [document.text for document in read(path)]


def lines(*rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def compress(data: bytes, suffix: str) -> bytes:
    if suffix == ".zst":
        return pytest.importorskip(ZSTD).compress(data)
    return gzip.compress(data) if suffix == ".gz" else data


def put(folder, **contents):
    """Files by name, ``__`` for the slash and ``_`` for the point: sub__a_txt is sub/a.txt."""
    for name, content in contents.items():
        path = folder / name.replace("__", "/").replace("_", ".")
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)


# --- a file


def test_a_file_is_one_document(tmp_path):
    path = tmp_path / "anything.xyz"  # who names a file means it
    path.write_bytes("first\n\nsecond é\n".encode())
    assert list(read(path)) == [Document("first\n\nsecond é\n", str(path))]
    assert list(read(str(path))) == list(read(path))


@pytest.mark.parametrize("name", ["a.txt", "a.jsonl"])
def test_a_byte_order_mark_is_no_text(name, tmp_path):
    content = b"text" if name == "a.txt" else lines({"text": "text"})
    (tmp_path / name).write_bytes(b"\xef\xbb\xbf" + content)
    assert texts(tmp_path / name) == ["text"]


BOM = b"\xef\xbb\xbf"


@pytest.mark.parametrize(
    ("content", "encoding", "text"),
    [
        (BOM + "café".encode(), "latin-1", "café"),
        (BOM + "café".encode("latin-1"), "latin-1", "café"),
        (BOM + "日本語".encode(), "gbk", "日本語"),
        (BOM + b"text", "utf8", "text"),
        ("café".encode("latin-1"), "latin-1", "café"),
        (
            "\ubbef\u41bf".encode("utf-16-le"),
            "utf-16-le",
            "\ubbef\u41bf",
        ),  # the same bytes, as text
    ],
)
def test_a_byte_order_mark_in_another_encoding(content, encoding, text, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    (document,) = read_file(tmp_path / "a.txt", encoding=encoding)
    assert document.text == text


WIDE = ["utf-16", "utf-16-le", "utf-16-be", "utf-32", "UTF_16", "cp037"]  # the last is EBCDIC
CELLS = st.text(st.characters(codec="latin-1", exclude_characters="\0"), max_size=9)


@pytest.mark.parametrize("encoding", WIDE)
@given(texts=st.lists(CELLS, min_size=1), end=st.sampled_from(["\n", "\r\n"]))
@example(texts=["\u010a \u0d0a", "a\r\nb", "\u2028"], end="\r\n")  # bytes like those of line ends
def test_tables_whose_line_ends_are_not_those_of_ascii(encoding, texts, end, tmp_path_factory):
    if encoding == "cp037":
        texts = [text.encode("latin-1", "ignore").decode("latin-1") for text in texts]
    path = tmp_path_factory.getbasetemp() / "wide.csv"
    with path.open("w", encoding=encoding, newline="") as file:  # the oracle: Python's text files
        writer = csv.writer(file, lineterminator=end, quoting=csv.QUOTE_ALL)
        writer.writerows([["id", "text"], *enumerate(texts)])
    found = list(read_file(path, encoding=encoding))
    assert [document.text for document in found] == texts


@pytest.mark.parametrize("encoding", WIDE)
@pytest.mark.parametrize("mark", ["", "\ufeff"])
def test_text_of_two_bytes_a_letter(encoding, mark, tmp_path):
    text = "\u010a and\r\n\u0d0a\r\n" if encoding != "cp037" else "caf\xe9\r\n"
    mark = mark if encoding[-3:] in ("-le", "-be") else ""  # else the encoder writes one, or none
    (tmp_path / "a.txt").write_bytes((mark + text).encode(encoding))
    (document,) = read_file(tmp_path / "a.txt", encoding=encoding)
    assert document.text == text


@pytest.mark.parametrize("name", ["a.txt", "a.csv"])
def test_bytes_that_are_not_of_the_given_encoding(name, tmp_path):
    data = "text\nlast".encode("utf-16-le") + b"\x00\xd8"  # half of a surrogate pair
    (tmp_path / name).write_bytes(data)
    *_, error = read_file(tmp_path / name, encoding="utf-16-le")
    assert "not UTF-16-LE text" in str(error) and "set encoding in the mixture" in str(error)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"good \xff bad", "not UTF-8 text: .*byte 5: convert it with iconv -f ENCODING"),
        ("text".encode("utf-16"), "not UTF-8 text; it seems to be UTF-16:.*byte 0: convert it"),
        (b"ab\0cd", "binary file.*character 2"),
    ],
)
def test_a_file_that_is_no_text(content, says, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DamagedError, match=says) as error:
        texts(tmp_path / "a.txt")
    assert str(tmp_path / "a.txt") in error.value.where


def test_a_missing_path(tmp_path):
    with pytest.raises(InputError, match="file or directory does not exist.*nowhere"):
        texts(tmp_path / "nowhere")


@pytest.mark.parametrize("content", [b"", b" \n\t\n", b"\xef\xbb\xbf"])
def test_a_file_without_text(content, tmp_path):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(InputError, match=r"no text was found.*a\.txt"):
        texts(tmp_path / "a.txt")


# --- a folder


def test_a_folder_in_order_of_names(tmp_path):
    put(
        tmp_path,
        b_txt=b"b", a_md=b"a", c__b_py=b"cb", c__a_rs=b"ca", z_jsonl=lines({"text": "z"}),
        picture_png=b"\x89PNG\0", notes=b"no suffix",
    )  # fmt: skip
    (tmp_path / "BIG.TXT").write_bytes(b"big")
    assert texts(tmp_path) == ["big", "a", "b", "ca", "cb", "z"]
    sources = [document.source for document in read(tmp_path)]
    assert sources[0] == str(tmp_path / "BIG.TXT")
    assert sources[3] == str(tmp_path / "c" / "a.rs")


def test_hidden_files_and_folders_are_left_out(tmp_path):
    put(tmp_path, a_txt=b"a")
    (tmp_path / ".hidden.txt").write_bytes(b"hidden")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "b.txt").write_bytes(b"hidden")
    assert texts(tmp_path) == ["a"]
    assert texts(tmp_path / ".git") == ["hidden"]  # only what is hidden inside what was named


def test_empty_documents_are_left_out(tmp_path):
    put(tmp_path, a_txt=b"", b_txt=b" \n", c_txt=b"c")
    assert texts(tmp_path) == ["c"]


@posix
def test_links_and_pipes_are_not_followed(tmp_path):
    folder, outside = tmp_path / "in", tmp_path / "out"
    folder.mkdir()
    outside.mkdir()
    put(folder, a_txt=b"a")
    put(outside, b_txt=b"outside")
    (folder / "file.txt").symlink_to(outside / "b.txt")
    (folder / "folder").symlink_to(outside)
    (folder / "loop").symlink_to(folder)
    (folder / "dangling.txt").symlink_to(tmp_path / "nowhere")
    os.mkfifo(folder / "pipe.txt")  # opening it would wait for ever
    assert texts(folder) == ["a"]


def test_what_is_no_text_is_skipped_with_one_warning(tmp_path, caplog):
    put(tmp_path, a_txt=b"a", b_txt=b"\xff\xfe", c_txt=b"c", d_py=b"\0\0\0", sub__e_md=b"caf\xe9")
    assert texts(tmp_path) == ["a", "c"]
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and record.name == "motherbird.data.readers"
    assert "skipped 3 files" in record.getMessage()
    assert str(tmp_path / "b.txt") in record.getMessage()


def test_no_warning_where_nothing_was_skipped(tmp_path, caplog):
    put(tmp_path, a_txt=b"a")
    texts(tmp_path)
    assert not caplog.records


def test_a_file_that_may_not_be_read_is_skipped_and_named(tmp_path, caplog, monkeypatch):
    put(tmp_path, a_txt=b"a", b_txt=b"b", c_txt=b"c")
    real = type(tmp_path).open

    def open_(path, *arguments, **options):
        if path.name == "b.txt":
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *arguments, **options)

    monkeypatch.setattr(type(tmp_path), "open", open_)
    assert texts(tmp_path) == ["a", "c"]
    assert "skipped 1" in caplog.text and "b.txt" in caplog.text


@pytest.mark.parametrize("content", [{}, {"a_png": b"\0"}, {"a_txt": b"\xff"}, {"a_txt": b""}])
def test_a_folder_without_text(content, tmp_path):
    put(tmp_path, **content)
    with pytest.raises(InputError, match="no text was found"):
        texts(tmp_path)


# --- lines of JSON


@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_lines_of_json(suffix, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    rows = ({"text": "one\ntwo"}, {"text": "é", "id": 5}, {"id": 1, "text": "three"})
    path.write_bytes(compress(lines(*rows).replace(b"\n", b"\n\n", 1), suffix))
    assert list(read(path)) == [
        Document("one\ntwo", f"{path}:1"),
        Document("é", f"{path}:3"),  # a blank line is none, and counts
        Document("three", f"{path}:4"),
    ]


def test_a_last_line_without_its_end(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines({"text": "a"}, {"text": "b"})[:-1])
    assert texts(tmp_path / "a.jsonl") == ["a", "b"]


BROKEN = {
    "cut": b'{"text": "a',
    "no JSON": b"text",
    "no object": b'["text"]',
    "no field": b'{"content": "a"}',
    "null": b'{"text": null}',
    "number": b'{"text": 5}',
    "a number of 5,000 digits": b'{"text": "a", "n": ' + b"9" * 5000 + b"}",
    "100,000 brackets": b'{"text": "a", "n": ' + b"[" * 100_000 + b"}",
    "not UTF-8": b'{"text": "caf\xe9"}',
    "half a character": b'{"text": "a\\ud83d"}',  # no UTF-8 can hold it, and no tokenizer takes it
}


@pytest.mark.parametrize("suffix", ["", ".gz"])
@pytest.mark.parametrize("line", BROKEN.values(), ids=BROKEN.keys())
def test_a_broken_line_is_named(line, suffix, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(compress(lines({"text": "a"}) + line + b"\n" + lines({"text": "c"}), suffix))
    with pytest.raises(DamagedError) as error:
        texts(path)
    assert error.value.where.startswith(f"{path}:2")
    assert len(str(error.value)) < 500


def test_a_wrong_field_names_the_fields(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(lines({"content": "a", "id": 1}))
    with pytest.raises(DamagedError, match=r'no.* "text": .*a\.jsonl:1: fields: "content", "id"$'):
        texts(tmp_path / "a.jsonl")
    (tmp_path / "a.jsonl").write_bytes(lines({f"a long name {i}": 1 for i in range(1000)}))
    with pytest.raises(DamagedError, match=r'fields: "a long name 0", .*, \.\.\.$') as error:
        texts(tmp_path / "a.jsonl")
    assert len(str(error.value)) < 600


def test_a_broken_line_inside_a_folder_is_no_binary(tmp_path):
    """Lines of JSON are data that somebody counts on: half of them is worse than none."""
    put(tmp_path, a_txt=b"a", b_jsonl=b"{")
    with pytest.raises(DamagedError, match=r"b\.jsonl:1"):
        texts(tmp_path)


def rows_that_do_not_compress(count: int) -> bytes:
    return lines(*({"text": os.urandom(500).hex()} for _ in range(count)))


@pytest.mark.parametrize("keep", [0.5, 0.999])
@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_compressed_file_that_is_cut_short(suffix, keep, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    whole = compress(rows_that_do_not_compress(1000), suffix)
    path.write_bytes(whole[: int(len(whole) * keep)])
    got = []
    with pytest.raises(DamagedError, match="cannot be read to its end") as error:
        for document in read(path):
            got.append(document.source)
    assert len(got) > 100  # what could be read was given
    assert error.value.where == f"{path}, after line {len(got)}"  # and the last good line is named


@pytest.mark.parametrize("suffix", [".gz", ".zst"])
def test_a_name_that_lies_about_compression(suffix, tmp_path):
    path = tmp_path / f"a.jsonl{suffix}"
    path.write_bytes(lines({"text": "a"}))
    if suffix == ".zst":
        pytest.importorskip(ZSTD)
    with pytest.raises(DamagedError, match=f"a.jsonl{suffix}"):
        texts(path)


def test_without_the_package_for_zstandard(tmp_path, monkeypatch):
    (tmp_path / "a.jsonl.zst").write_bytes(b"")
    monkeypatch.setitem(sys.modules, ZSTD, None)
    with pytest.raises(ImportError):
        importlib.import_module(ZSTD)
    with pytest.raises(MissingExtraError, match=r"pip install -c constraints.txt '\.\[data\]'"):
        texts(tmp_path / "a.jsonl.zst")


# --- Parquet


def parquet_file(path, groups=4, rows=500):
    """A file whose texts do not compress, and its texts."""
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    texts = [os.urandom(100).hex() for _ in range(groups * rows)]
    table = arrow.table({"text": texts})
    parquet.write_table(table, path, row_group_size=rows, compression="zstd", use_dictionary=False,
                        write_page_checksum=True)  # fmt: skip
    with parquet.ParquetFile(path) as file:
        columns = [file.metadata.row_group(i).column(0) for i in range(groups)]
    return texts, [(c.data_page_offset, c.total_compressed_size) for c in columns]


@pytest.mark.parametrize("group", [0, 2, 3])
def test_a_damaged_row_group_keeps_those_before_it(group, tmp_path):
    path = tmp_path / "a.parquet"
    expected, places = parquet_file(path)
    content = bytearray(path.read_bytes())
    start, size = places[group]
    content[start + size // 2] ^= 0xFF
    path.write_bytes(content)
    *documents, error = read_file(path)
    assert [document.text for document in documents] == expected[: 500 * group]
    assert isinstance(error, DamagedError) and not isinstance(error, RowError)
    assert f"{path}, row group {group} (from 0), after row {500 * group}" in str(error)


def test_row_groups_in_order(tmp_path):
    expected, _ = parquet_file(tmp_path / "a.parquet")
    assert texts(tmp_path / "a.parquet") == expected


# --- line ends


@pytest.mark.parametrize("size", [1, 2, 7, 1 << 16])
@pytest.mark.parametrize("suffix", [".csv", ".jsonl"])
@pytest.mark.parametrize("end", ["\n", "\r\n", "\r"], ids=["unix", "windows", "old mac"])
def test_line_ends(end, suffix, size, tmp_path, monkeypatch):
    """Rows are the same for every line end, wherever the bytes of the file are cut."""
    monkeypatch.setattr("motherbird.data.readers.document.CHUNK", size)
    expected = ["one", "a\r\nb", "a\rb", "a\nb", "", "\u2028 two"]
    table = ["text,id", *(f'"{text}",1' for text in expected)]
    rows = table if suffix == ".csv" else [json.dumps({"text": text}) for text in expected]
    for last in ("", end):
        (tmp_path / f"a{suffix}").write_bytes((end.join(rows) + last).encode())
        assert [document.text for document in read_file(tmp_path / f"a{suffix}")] == expected


def test_rows_are_named_by_line(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\rone\r\ntwo\nthree")
    assert [d.source.rpartition(":")[2] for d in read(tmp_path / "a.csv")] == ["2", "3", "4"]


@posix
def test_a_pipe_is_read_once(tmp_path):
    import threading

    os.mkfifo(tmp_path / "a.txt")
    writer = threading.Thread(target=(tmp_path / "a.txt").write_text, args=("text",))
    writer.start()
    (document,) = read_file(tmp_path / "a.txt")
    writer.join()
    assert document.text == "text"


def test_a_cut_line_of_json(tmp_path):
    """The position in the line is not a second line number, and a cut file is named."""
    path = tmp_path / "cut.jsonl"
    path.write_text('{"text": "a"}\n{"text": "zlib an')
    with pytest.raises(DamagedError, match="at column 10.*cut.jsonl:2: .*copy the file again"):
        list(read(path))
    path.write_text('{"text": }\n{"text": "a"}\n')
    with pytest.raises(DamagedError, match=r"at column 10\): .*cut.jsonl:1: repair it"):
        list(read(path))


def test_a_row_with_too_many_values(tmp_path):
    (tmp_path / "a.csv").write_text("text,label\nhello, world,1\n")
    with pytest.raises(RowError, match="3 values, the header 2.*a.csv:2: put .* in double quotes"):
        list(read(tmp_path / "a.csv"))
