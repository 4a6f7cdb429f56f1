"""motherbird classify, tag and score: a line of JSON for each text, in order, or nothing at all."""

import csv
import gzip
import json
from dataclasses import replace

import pytest
import torch
from easy_labels import reverse_labels

from motherbird import Classifier, EncoderConfig, Scorer, Tagger, nn
from motherbird.cli import texts as cli_texts
from motherbird.core.hf_config import HeadConfig, write_head
from motherbird.nn import checkpoint

TEXTS = ["A short text.", "Ada Lovelace lived in London.", "é 😀", "for x in y: print(x)", "z" * 90]
PAIRS = list(zip(TEXTS, reversed(TEXTS), strict=True))
EXACT = ("--dtype", "float32")
COMMANDS = ["classify", "tag", "score"]


@pytest.fixture(scope="module")
def models(small_tokenizer, tmp_path_factory):
    """Directories with random weights, by the name of the command or the kind."""
    token = {f"{role}_token_id": small_tokenizer.id_of(role) for role in ("cls", "sep", "pad")}
    config = EncoderConfig(
        1024, 32, 48, 4, 2, max_position_embeddings=512, local_attention=16,
        bos_token_id=token["cls_token_id"], eos_token_id=token["sep_token_id"], **token,
    )  # fmt: skip
    config = replace(config, initializer_range=0.3)
    folder = tmp_path_factory.mktemp("labelled")
    heads = {
        "classify": (nn.SequenceClassifier, HeadConfig(("no", "yes", "maybe"))),
        "multi": (nn.SequenceClassifier, HeadConfig(("a", "b"), "multi", thresholds={"a": 0.0})),
        "score": (nn.SequenceClassifier, HeadConfig(("score",), "number")),
        "pairs": (nn.SequenceClassifier, HeadConfig(("same", "other"))),
        "tag": (nn.TokenClassifier, HeadConfig(("O", "B-PER", "I-PER", "B-LOC"))),
    }
    torch.manual_seed(0)
    for name, (cls, head) in heads.items():
        checkpoint.save(
            cls(config, head.labels), folder / name, tokenizer=small_tokenizer,
            write_more=lambda fresh, head=head: write_head(fresh, head),
        )  # fmt: skip
    return folder


@pytest.fixture
def call(motherbird, models):
    def run(command, file, *options, model=None, stdin=b""):
        place = models / (model or command)
        return motherbird(command, file, "--model", place, *options, stdin=stdin)

    return run


def lines(text):
    return [json.loads(line) for line in text.splitlines()]


def write(path, rows):
    """Write a table in the format of its suffix."""
    if path.suffix == ".parquet":
        pyarrow = pytest.importorskip("pyarrow")
        pytest.importorskip("pyarrow.parquet").write_table(pyarrow.Table.from_pylist(rows), path)
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    else:
        with path.open("w", newline="", encoding="utf-8-sig") as file:
            tab = "\t" if path.suffix == ".tsv" else ","
            writer = csv.DictWriter(file, list(rows[0]), delimiter=tab)
            writer.writeheader()
            writer.writerows(rows)
    return path


class near:
    """Equal to JSON whose numbers differ by rounding alone."""

    def __init__(self, wanted):
        self.wanted = wanted

    def __eq__(self, found, wanted=None):
        wanted = self.wanted if wanted is None else wanted
        if isinstance(wanted, float):
            return found == pytest.approx(wanted, abs=1e-5)
        if isinstance(wanted, list):
            return len(found) == len(wanted) and all(map(self.__eq__, found, wanted))
        if isinstance(wanted, dict):
            same = list(found) == list(wanted)
            return same and all(self.__eq__(found[key], wanted[key]) for key in wanted)
        return found == wanted


def results(command, models):
    """The JSON objects that Python's results amount to."""
    if command == "classify":
        found = Classifier.load(models / command, dtype="float32").predict(TEXTS)
        return [{"label": p.label, "probability": round(p.probability, 6)} for p in found]
    if command == "score":
        found = Scorer.load(models / command, dtype="float32").score(PAIRS)
        return [{"score": round(float(score), 6)} for score in found]
    found = Tagger.load(models / command, dtype="float32").tag(TEXTS)
    keys = ("label", "text", "start", "end", "probability")
    return [
        {"spans": [{k: cli_texts.rounded(getattr(span, k)) for k in keys} for span in spans]}
        for spans in found
    ]


@pytest.mark.parametrize("suffix", [".csv", ".tsv", ".jsonl", ".parquet"])
@pytest.mark.parametrize("command", COMMANDS)
def test_tables(command, suffix, call, models, tmp_path):
    names = ("a b", "c") if command == "score" else ("a b",)
    rows = PAIRS if command == "score" else [(text,) for text in TEXTS]
    rows = [{"id": "x", **dict(zip(names, row, strict=True))} for row in rows]
    file = write(tmp_path / f"in{suffix}", rows)
    option = "--columns" if command == "score" else "--column"
    out = tmp_path / "out.jsonl"
    out.write_text("an older result")
    done = call(command, file, option, ",".join(names), "--out", out, *EXACT).done()
    assert done.out.startswith(f"{out}: 5 texts, ")
    assert lines(out.read_text("utf-8")) == near(results(command, models))
    says = r"set --columns? to the name of the texts; .*: \"id\", \"a b\""
    call(command, file, "--out", out).refused(says)


@pytest.mark.parametrize("command", COMMANDS)
def test_lines_of_text(command, call, models, tmp_path):
    rows = ["\t".join(pair) for pair in PAIRS] if command == "score" else TEXTS
    data = "\n".join(rows).encode()
    (tmp_path / "in.txt").write_bytes(data)
    (tmp_path / "in.txt.gz").write_bytes(gzip.compress(data))
    wanted = near(results(command, models))
    for file, stdin in ((tmp_path / "in.txt", b""), (tmp_path / "in.txt.gz", b""), ("-", data)):
        done = call(command, file, *EXACT, stdin=stdin)
        assert done.code == 0 and lines(done.out) == wanted
        assert done.err.startswith("5 texts, ")


@pytest.mark.parametrize("command", COMMANDS)
def test_groups_change_nothing(command, call, models, tmp_path, monkeypatch):
    rows = ["\t".join(pair) for pair in PAIRS] if command == "score" else TEXTS
    data = "\n".join(rows).encode()
    wanted = near(results(command, models))
    for name, value in (("GROUP", 2), ("GROUP_CHARACTERS", 20)):
        monkeypatch.setattr(cli_texts, name, value)
        assert lines(call(command, "-", *EXACT, stdin=data).out) == wanted


@pytest.mark.parametrize("command", COMMANDS)
def test_the_summary_as_json(command, call, models, tmp_path, documented, has_shape):
    rows = ["\t".join(pair) for pair in PAIRS] if command == "score" else TEXTS
    (tmp_path / "in.txt").write_text("\n".join(rows), encoding="utf-8")
    out = tmp_path / "out.jsonl"
    summary = call(command, tmp_path / "in.txt", "--out", out, "--json", *EXACT).done().json
    assert has_shape(summary | {"labels": None}, documented(command)[0])
    assert (summary["out"], summary["texts"], summary["truncated"]) == (str(out), 5, 0)
    assert summary["model"] == str(models / command) and summary["dtype"] == "float32"
    found = lines(out.read_text("utf-8"))
    labels = [row["label"] for row in found if "label" in row]
    labels += [span["label"] for row in found for span in row.get("spans", [])]
    assert summary["labels"] == {label: labels.count(label) for label in labels}
    streamed = call(command, tmp_path / "in.txt", "--json", *EXACT)
    assert json.loads(streamed.err)["out"] is None and lines(streamed.out) == found


def test_every_probability(call, models, tmp_path):
    data = "\n".join(TEXTS).encode()
    for model in ("classify", "multi"):
        classifier = Classifier.load(models / model, dtype="float32")
        found = lines(call("classify", "-", "--all", *EXACT, model=model, stdin=data).out)
        for row, wanted in zip(found, classifier.probabilities(TEXTS), strict=True):
            assert tuple(row["probabilities"]) == classifier.labels
            assert list(row["probabilities"].values()) == pytest.approx(wanted.tolist(), abs=1e-5)
            keys = ["label", "probability", *["labels"] * (model == "multi"), "probabilities"]
            assert list(row) == keys and ("labels" not in row or "a" in row["labels"])
    pairs = "\n".join("\t".join(pair) for pair in PAIRS).encode()
    wanted = Scorer.load(models / "pairs", dtype="float32").predict(PAIRS)
    found = lines(call("score", "-", *EXACT, model="pairs", stdin=pairs).out)
    assert [row["label"] for row in found] == [p.label for p in wanted]


def test_the_order_of_labels_changes_nothing(call, models, tmp_path):
    """id2label the other way round, and the weights with it."""
    data = "\n".join(TEXTS).encode()
    for command in ("classify", "tag"):
        reverse_labels(models / command, tmp_path / command)
        wanted = lines(call(command, "-", *EXACT, stdin=data).out)
        found = call(command, "-", *EXACT, model=tmp_path / command, stdin=data)
        assert lines(found.out) == near(wanted)


BAD = {
    "missing.txt": (None, 2, r"does not exist.*missing\.txt.*use - for"),
    "empty.txt": (b"", 2, r"no text.*empty\.txt"),
    "empty-line.txt": (b"a\tb\n\nc\td\n", 2, r"(text is empty|has 0 tabs).*empty-line\.txt:2"),
    "latin.txt": (b"a\tb\ncaf\xe9\tc\n", 1, r"UTF-8.*latin\.txt"),
    "nul.txt": (b"a\tb\na\0\tb\n", 1, r"nul\.txt"),
    "long.txt": (b"a\tb\n" + b"word " * 600 + b"\tb\n", 2, r"512.*long\.txt:2.*truncat"),
    "bad.jsonl": (
        b'{"text": "a", "text_a": "a", "text_b": "b"}\n{"text": \n', 1, r"JSON.*bad\.jsonl:2"
    ),
    "empty.jsonl": (
        b'{"text": "a", "text_a": "a", "text_b": "b"}\n{"text": "", "text_a": "", "text_b": ""}\n',
        2, r"empty.*empty\.jsonl:2",
    ),
    "quote.csv": (b'text,text_a,text_b\n"a,b,c\n', 1, r"a quote is not closed.*quote\.csv:2"),
    "rows.json": (b"[]", 2, r"JSON, not lines.*rows\.json"),
    "picture.png": (b"\x89PNG\r\n\x1a\n" + bytes(range(256)), 1, "a binary file, not text"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
@pytest.mark.parametrize("command", COMMANDS)
def test_a_file_that_cannot_be_used(command, name, call, tmp_path, tree, monkeypatch):
    """The error names file and line; with --out, nothing is written."""
    monkeypatch.setattr(cli_texts, "GROUP", 1)
    content, code, says = BAD[name]
    if content is not None:
        (tmp_path / name).write_bytes(content)
    (tmp_path / "out.jsonl").write_text("an older result")
    before = tree(tmp_path)
    call(command, tmp_path / name, "--out", tmp_path / "out.jsonl").refused(says, code)
    call(command, tmp_path / name, "--json").refused(says, code)
    assert tree(tmp_path) == before


def test_arguments_that_cannot_be_used(call, motherbird, models, model, tmp_path):
    (tmp_path / "in.txt").write_text("a\n")
    (tmp_path / "in.jsonl").write_text('{"text": "a", "text_a": "b", "text_b": "c"}\n')
    text, table = tmp_path / "in.txt", tmp_path / "in.jsonl"
    call("classify", text, "--column", "text").refused("--column is for tables")
    call("score", text, "--columns", "a,b").refused("--columns are for tables")
    call("score", text).refused(r"the line has 0 tabs: .*in\.txt:1: write two texts with one tab")
    for columns in ("a", "a,b,c", "a,a", "a,"):
        call("score", table, "--columns", columns).refused("not two different names")
    call("score", table, "--columns", "a,b").refused(r"set --columns to .*: \"text\", \"text_a\"")
    call("tag", text, "--out", tmp_path / "out.txt").refused("--out is not a .jsonl file")
    call("tag", table, "--out", table).refused("input")
    call("tag", tmp_path).refused("this is a directory")
    motherbird("tag", text).refused("Missing option '--model'")
    motherbird("classify", text, "--model", model).refused("cannot classify texts")
    motherbird("classify", text, "--model", "motherbird-nano").refused("cannot classify texts")
    call("classify", text, model="score").refused("use Scorer")
    call("tag", text, model="classify").refused("load it with Classifier or Scorer")


@pytest.mark.parametrize("command", COMMANDS)
def test_truncation(command, call, tmp_path):
    data = b"many words " * 200 + b"\tb" * (command == "score") + b"\n"
    done = call(command, "-", "--truncate", "--json", stdin=data)
    noun = "pairs" if command == "score" else "texts"
    warning, summary = done.err.split("\n", 1)
    assert warning == f"WARNING: truncated 1 of 1 {noun} to 512 tokens"
    assert json.loads(summary)["truncated"] == 1
    done = call(command, "-", "--truncate", "--max-length", 20, stdin=data)
    assert "truncated 1 of 1" in done.err and "to 20 tokens" in done.err
