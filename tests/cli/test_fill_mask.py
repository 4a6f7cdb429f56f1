"""motherbird fill-mask: candidates for every mask, or a reason why not."""

import shutil

import pytest
import torch

from motherbird import MaskedLM


def test_json(motherbird, model, documented, has_shape):
    text = "The [MASK] of the [MASK] é 😀."
    result = motherbird("fill-mask", text, "--model", model, "--top-k", 3, "--json").done().json
    assert has_shape(result, *documented("fill_mask"))
    assert result["text"] == text
    assert [len(mask) for mask in result["masks"]] == [3, 3]
    wanted = MaskedLM.load(model, dtype="auto").fill(text, 3)
    assert [[(c["text"], c["token_id"]) for c in mask] for mask in result["masks"]] == [
        [(c.text, c.token_id) for c in mask] for mask in wanted
    ]
    assert all(0 < c["probability"] < 1 for mask in result["masks"] for c in mask)


def test_on_paper(motherbird, model):
    one = motherbird("fill-mask", "a [MASK]", "--model", model).done().out.splitlines()
    assert len(one) == 5
    chances = [float(line.split("%")[0]) for line in one]
    assert chances == sorted(chances, reverse=True)
    two = motherbird("fill-mask", "[MASK] a [MASK]", "--model", model, "--top-k", 2).done().out
    lines = two.splitlines()
    assert (lines[0], lines[3]) == ("mask 1", "mask 2") and len(lines) == 6


def test_every_candidate_can_be_seen_and_differs(motherbird, model):
    """Line ends and runs of spaces are tokens as well, and "name" is another than " name"."""
    call = ("fill-mask", "a [MASK]", "--model", model, "--top-k", 1024)
    shown = [line.partition("%")[2].strip() for line in motherbird(*call).done().out.splitlines()]
    assert all(shown)
    whole = [text for text in shown if "\N{REPLACEMENT CHARACTER}" not in text]  # parts of letters
    assert len(set(whole)) == len(whole) > 500


def test_options_reach_the_model(motherbird, model):
    def fill(*options):
        call = ("fill-mask", "a [MASK]", "--model", model, "--json", "--top-k", 50, *options)
        return [c["probability"] for c in motherbird(*call).done().json["masks"][0]]

    exact = fill("--dtype", "float32", "--attention", "oracle")
    assert fill("--dtype", "float32", "--attention", "banded") == pytest.approx(exact, rel=1e-3)
    assert fill("--dtype", "float32", "--threads", 1) == pytest.approx(exact, rel=1e-3)
    assert torch.get_num_threads() == 1
    rough = fill("--dtype", "bfloat16", "--device", "cpu")
    assert rough != exact and rough == pytest.approx(exact, rel=0.2)


def test_the_text_of_other_special_tokens_is_plain_text(motherbird, model):
    """ "[SEP]" in a text is five characters, not the end of a document."""
    text = "[SEP] [CLS] [PAD] [MASK]"
    (mask,) = motherbird("fill-mask", text, "--model", model, "--json").done().json["masks"]
    assert len(mask) == 5


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["no mask"], r"no \[MASK\] in the text: 'no mask'"),
        ([""], r"no \[MASK\]"),
        (["a [mask]"], r"no \[MASK\]"),
        (
            ["word " * 600 + "[MASK]"],
            r"^error: the text has \d+ tokens, more than the model's limit of 512: shorten",
        ),
        (["a [MASK]", "--top-k", "0"], "invalid top_k 0.*1 to 1024|--top-k.*0"),
        (["a [MASK]", "--top-k", "1025"], "1 to 1024"),
        (["a [MASK]", "--top-k", "five"], "--top-k.*'five'"),
        (["a [MASK]", "--device", "tpu"], "'tpu'.*use cpu"),
        (["a [MASK]", "--device", "meta"], "'meta'.*use cpu"),
        (["a [MASK]", "--device", "cuda:99"], "'cuda:99'.*use cpu"),
        (["a [MASK]", "--dtype", "int4"], "'int4'.*bfloat16"),
        (["a [MASK]", "--attention", "fast"], "'fast'.*banded.*oracle"),
        (["a [MASK]", "--device", ""], "'--device': it is empty"),
        (["a [MASK]", "--dtype", ""], "'--dtype': it is empty"),
        (["a [MASK]", "--attention", ""], "'--attention': it is empty"),
        (["a [MASK]", "--revision", ""], "'--revision': it is empty"),
        (["a [MASK]", "--attention", "flash"], "flash: the device is cpu"),
        (["a [MASK]", "--threads", "0"], "--threads.*0"),
        (["no mask"], r'write \[MASK\] where a word is missing, as in "import \[MASK\] as np"'),
        (["a [MASK]", "--threads", "1025"], "--threads.*1<=x<=1024"),
        (
            ["caf\udce9 [MASK]"],
            r"not valid UTF-8 \(byte 0xe9\): TEXT, character 3: convert it",
        ),  # an argument that was typed in Latin-1
        ([], "Missing argument 'TEXT'.*fill-mask --help"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_bad_input(arguments, says, motherbird, model):
    result = motherbird("fill-mask", *arguments, "--model", model).refused(says)
    assert result.out == ""
    error = motherbird("fill-mask", *arguments, "--model", model, "--json").refused(says)
    assert error.json["error"]["code"] in ("input", "usage")


@pytest.mark.skipif(torch.cuda.is_available(), reason="the device is there")
def test_a_device_that_is_absent(motherbird, model):
    call = ("fill-mask", "a [MASK]", "--model", model, "--device", "cuda")
    motherbird(*call).refused("'cuda' is not available: use cpu")


def test_a_model_without_head_or_tokenizer(motherbird, model, tmp_path):
    from motherbird import Embedder

    Embedder.load(model, dtype="stored").save(tmp_path / "headless")
    call = ("fill-mask", "a [MASK]", "--model")
    motherbird(*call, tmp_path / "headless").refused(
        "this model cannot fill masks: .*headless: use one with a masked-LM head"
    )
    shutil.copytree(model, tmp_path / "mute")
    (tmp_path / "mute" / "tokenizer.json").unlink()
    motherbird(*call, tmp_path / "mute").refused("has no tokenizer")


def test_a_model_that_is_none(motherbird, tmp_path):
    call = ("fill-mask", "a [MASK]", "--model")
    motherbird(*call, tmp_path / "nowhere").refused("no such directory.*nowhere")
    motherbird(*call, tmp_path).refused("config.json is missing")
    (tmp_path / "file").write_text("x")
    motherbird(*call, tmp_path / "file").refused("this is a file")


def test_an_argument_in_the_c_locale(motherbird, model):
    """Python decodes arguments as ASCII there, and each byte of UTF-8 becomes half a character."""
    text = "caf\N{LATIN SMALL LETTER E WITH ACUTE} [MASK]"
    garbled = text.encode().decode("ascii", "surrogateescape")
    said = motherbird("fill-mask", garbled, "--model", model, "--json").done()
    assert said.json["text"] == text


def test_a_padding_row_of_the_embedding_has_no_text(model):
    from motherbird import MaskedLM

    loaded = MaskedLM.load(model)
    assert loaded.text_of(loaded.tokenizer.vocab_size) == ""
    assert loaded.text_of(loaded.tokenizer.mask_id) == "[MASK]"
