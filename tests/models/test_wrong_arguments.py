"""Every wrong argument of the public functions is an InputError of one line."""

import os
import re
from pathlib import Path

import numpy as np
import pytest
import torch

import motherbird
from motherbird import Embedder, InputError, MaskedLM, Tokenizer, nn, tokenizer
from motherbird.core.bpe import train
from motherbird.core.hub import NANO_FOLDER
from motherbird.nn import pack, repad, unpack
from motherbird.nn.inference import TorchModel

pytestmark = pytest.mark.usefixtures("no_type_checker")

LOADERS = [Embedder, MaskedLM, nn.Encoder, nn.MaskedLM, nn.TokenClassifier]


@pytest.fixture
def encoder(toy, small_tokenizer):
    encoder = nn.Encoder(toy).eval()
    encoder.tokenizer = small_tokenizer
    return encoder


def refused(says):
    return pytest.raises(InputError, match=rf"(?s)\A(?!.*\n){says}")


@pytest.mark.parametrize("place", [None, 3, b"x", "", ["a"]], ids=repr)
def test_what_is_not_a_path(place, encoder, small_tokenizer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    kind = "an empty string" if place == "" else f"of type {type(place).__name__}, not str or Path"
    for cls in LOADERS:
        with refused(f"the model is {kind}: pass a model directory"):
            cls.load(place)
    with refused(f"the tokenizer is {kind}: pass a tokenizer.json"):
        tokenizer(place)
    for saved in (encoder, Embedder(encoder), small_tokenizer):
        with refused(f"the directory is {kind}"):
            saved.save(place)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "modules.json"])
def test_a_file_that_is_not_a_tokenizer(file, tmp_path):
    from safetensors.torch import save_file

    path = NANO_FOLDER / file
    if not path.exists():  # the package has its weights in parts
        path = tmp_path / file
        save_file({"a": torch.full((8,), -1.5)}, path)
    with refused("not a tokenizer.json: .*: pass a tokenizer.json, its directory"):
        tokenizer(path)


def test_a_tokenizer_in_the_home_directory(tmp_path, small_tokenizer, monkeypatch):
    small_tokenizer.save(tmp_path / "t")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert tokenizer("~/t/tokenizer.json").encode("a b") == tokenizer(tmp_path / "t").encode("a b")


@pytest.mark.parametrize("model", ["name", None, 3, torch.nn.Linear(2, 2), nn.Encoder], ids=str)
@pytest.mark.parametrize("cls", [Embedder, MaskedLM])
def test_what_is_not_a_model(cls, model):
    with refused(f"the model is of type {type(model).__name__}, not Model: .*load.*accelerate"):
        cls(model)


def test_a_model_of_transformers():
    transformers = pytest.importorskip("transformers")
    sizes = dict.fromkeys(["hidden_size", "intermediate_size", "num_attention_heads"], 8)
    tokens = {f"{name}_token_id": 1 for name in ("pad", "bos", "cls", "eos", "sep")}
    config = transformers.ModernBertConfig(vocab_size=9, num_hidden_layers=1, **sizes, **tokens)
    with refused("the model is of type ModernBertModel, not Model: .*accelerate"):
        Embedder(transformers.ModernBertModel(config))


def test_a_model_without_the_head_that_fills_masks(encoder):
    for model in (encoder, nn.TokenClassifier(encoder, ("a", "b"))):
        with refused(f"the model is of type {type(model).__name__}, not MaskedLM: .*MaskedLM.load"):
            MaskedLM(model)


def test_what_is_not_a_batch(encoder):
    for batch in ([[1, 2]], torch.tensor([1, 2]), None):
        for model in (encoder, nn.MaskedLM(encoder), nn.SequenceClassifier(encoder, ["a"])):
            with refused(f"the batch is of type {type(batch).__name__}, not Packed: .*nn.pack"):
                model(batch)
    for split in (unpack, repad):
        with refused("x has 3 rows, and the batch 2 tokens"):
            split(torch.zeros(3, 2), pack([[1, 2]]))


def test_what_is_not_a_configuration(toy):
    for wrong in ("name", {}, None):
        with refused("config is of type .*, not EncoderConfig: .*Encoder.load"):
            nn.Encoder(wrong)
        with refused("the encoder is of type .*, not Encoder: .*MaskedLM.load"):
            nn.MaskedLM(wrong)
    for wrong in (["banded"], None, 3):
        with refused("unknown attention kernel .*: use auto, "):
            nn.Encoder(toy, wrong)


def test_an_array_without_dimensions(encoder):
    embedder = Embedder(encoder)
    with refused("texts is a 0-d ndarray: pass a list of strings"):
        embedder.embed(np.array("a"))
    with refused("documents is a 0-d Tensor: pass a list of lists"):
        embedder.embed_ids(torch.tensor(3))
    with refused("the document is of type ndarray: document 1"):
        embedder.embed_ids([[1], np.array(3)])


@pytest.mark.parametrize("wrong", ["no", 1, None, np.int64(1)], ids=repr)
def test_what_is_neither_true_nor_false(wrong, encoder, small_tokenizer):
    kind = type(wrong).__name__
    with refused(f"split_special_tokens is of type {kind}, not bool"):
        motherbird.tokenizer(NANO_FOLDER, split_special_tokens=wrong)
    with refused(f"split_special_tokens is of type {kind}, not bool"):
        Embedder.load("motherbird-nano", split_special_tokens=wrong)
    with refused(f"clean_up is of type {kind}, not bool"):
        Tokenizer(small_tokenizer.backend, {}, wrong)
    with refused(f"truncate is of type {kind}, not bool"):
        Embedder(encoder).embed(["a"], truncate=wrong)
    with refused(f"normalize is of type {kind}, not bool"):
        Embedder(encoder, normalize=wrong)
    if wrong is not None:  # which is what the directory says
        with refused(f"normalize is of type {kind}, not bool"):
            Embedder(encoder).embed(["a"], normalize=wrong)
    assert len(Embedder(encoder).embed(["a"], normalize=np.True_, truncate=np.False_)) == 1


def test_prompts(encoder):
    with refused("prompt_name is of type list, not str"):
        Embedder(encoder, prompts={"a": "b"}).embed(["a"], prompt_name=["a"])
    with refused("prompts is of type list, not dict"):
        Embedder(encoder, prompts=["a"])
    with refused("the text is of type int, not str: prompt 'a'"):
        Embedder(encoder, prompts={"a": 3})
    with refused("there is no prompt called 'b': the model has 'a'"):
        Embedder(encoder, prompts={"a": ""}, default_prompt="b")


IDS = {
    "-100 is not a token id: the ids, token 1": [1, -100],
    f"{2**40} is not a token id: the ids, token 0": [2**40],
    "1.5 is not a token id: the ids, token 0": [1.5],
    "'a' is not a token id: the ids, token 0": "ab",
    r"a list is not a token id: the ids, token 0: pass a list of token ids$": [[1]],
    "True is not a token id": [True],
    "token id 1000000 is outside the vocabulary: the ids: use 0 to 1023": [1, 1000000, 2],
    "the document is of type NoneType: the ids": None,
    "the document is of type int: the ids": 5,
}


@pytest.mark.parametrize("says", IDS)
def test_ids_that_cannot_be_decoded(says, small_tokenizer):
    with refused(says):
        small_tokenizer.decode(IDS[says])


def test_ids_that_can_be_decoded(small_tokenizer):
    ids = small_tokenizer.encode("def f(x): return x")
    for each in (ids, tuple(ids), np.array(ids), torch.tensor(ids)):
        assert small_tokenizer.decode(each) == "[CLS]def f(x): return x[SEP]"
    assert small_tokenizer.decode([]) == small_tokenizer.decode(np.array([])) == ""


@pytest.mark.parametrize("role", ["[MASK]", "MASK", ""])
def test_a_role_that_does_not_exist(role, small_tokenizer):
    with refused(f"there is no role {re.escape(repr(role))}: use unk, cls, sep, pad, mask$"):
        small_tokenizer.id_of(role)


def test_a_length_without_room_names_the_smallest(small_tokenizer):
    ids = small_tokenizer.encode("a text of some words")
    with refused("no text fits into 2 tokens: use 3 or more"):
        small_tokenizer.truncate(ids, 2)
    with refused("no pair of texts fits into 4 tokens: use 5 or more"):
        small_tokenizer.encode_pairs([("a", "b")], 4)
    assert len(small_tokenizer.truncate(ids, 3)) == 3
    assert len(small_tokenizer.encode_pairs([("a b c", "b c d")], 5)[0][0]) == 5


def test_a_file_where_a_directory_has_to_be(small_tokenizer, tmp_path, monkeypatch):
    """Of a tokenizer and of an embedder, on the engine and on torch."""
    (tmp_path / "afile").touch()
    (tmp_path / "lost").symlink_to("nowhere")
    monkeypatch.chdir(tmp_path)
    models = [Embedder.load("motherbird-nano", dtype=dtype) for dtype in ("auto", "stored")]
    for saved in (small_tokenizer, *models):
        with refused("this is a file, not a directory: afile: use another path"):
            saved.save("afile/sub")
        with refused("this is a file, not a directory: afile: use another path"):
            saved.save("afile/sub/sub")
        with refused("this link leads nowhere: lost"):
            saved.save("lost/sub")


def test_a_directory_without_write_permission(small_tokenizer, tmp_path, monkeypatch):
    """As root, every directory can be written, so that the answer of the system is replaced."""
    (tmp_path / "ro").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path).name != "ro")
    with refused("nothing can be created in this directory: ro: check its permissions"):
        small_tokenizer.save("ro/new")
    assert not list((tmp_path / "ro").iterdir())


def test_arguments_of_a_tokenizer(small_tokenizer, tmp_path):
    for wrong in ("8", None, 8.0):
        kind = type(wrong).__name__
        with refused(f"max_length is of type {kind}, not int: .*: use 1 or more"):
            small_tokenizer.encode_pairs([("a", "b")], wrong)
        with refused(f"length is of type {kind}, not int"):
            small_tokenizer.truncate([1, 2, 3], wrong)
        with refused(f"max_length is of type {kind}, not int"):
            small_tokenizer.save(tmp_path / "new", max_length=wrong)
        with refused(f"the vocabulary size is of type {kind}, not int"):
            train(["a"], wrong)
    for wrong in (None, 3, "ab"):
        with refused("pairs is (a NoneType|an int|a string): pass a list of pairs of texts"):
            small_tokenizer.encode_pairs(wrong, 8)
    with refused("backend is of type str, not Tokenizer"):
        Tokenizer("name", {})
    assert not (tmp_path / "new").exists()


def test_another_library_s_tokenizer_is_not_saved(encoder, tmp_path):
    with refused("tokenizer is of type str, not Tokenizer"):
        encoder.save(tmp_path / "new", tokenizer="name")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("engine", [True, False])
def test_outputs_and_positions(engine, encoder):
    loaded = MaskedLM.load("motherbird-nano") if engine else MaskedLM(nn.MaskedLM(encoder))
    ids, starts = np.array([1, 2, 3], np.int32), np.array([0, 3], np.int32)
    for output in ("median", None, "logits"):
        with refused(f"unknown output {output!r}: use tokens, mean, cls$"):
            list(loaded.batches([[1, 2]], output))
    with refused("unknown output 'median': use tokens, mean, cls, logits"):
        loaded.model.run(ids, starts, "median")
    for wrong, index in (([3], 0), ([0, -1], 1), ([1, 2**40], 1)):
        with refused(
            rf"position {wrong[index]} is outside the batch: positions.{index}.: use 0 to 2"
        ):
            loaded.model.run(ids, starts, "logits", np.array(wrong))
    with refused("positions are for logits: output 'mean': leave them out"):
        loaded.model.run(ids, starts, "mean", np.array([0]))
    assert len(loaded.model.run(ids, starts, "logits", np.array([2, 0]))) == 2


@pytest.mark.parametrize("names", [["x"], [], ["x", "y", "z"], "xy", 5], ids=str)
def test_names_of_texts(names, encoder):
    says = ". names? for 2 texts|names is (a string|an int): pass a list of strings"
    with refused(says):
        Embedder(encoder).tokenize(["a", "b"], names=names)
    with refused("the text is empty: y"):
        Embedder(encoder).tokenize(["a", ""], names=["x", "y"])


@pytest.mark.parametrize("missing", [None, float("nan")])
def test_a_missing_text(missing, encoder):
    says = "the text is missing .(None|nan).: text 1: leave it out, or put a text in its place"
    with pytest.raises(InputError, match=says):
        Embedder(encoder).embed(["a text", missing])


def test_habits_of_other_libraries(encoder, toy):
    embedder = Embedder(encoder)
    with pytest.raises(AttributeError, match="no attribute 'encode': use embed"):
        embedder.encode(["a text"])
    assert not hasattr(embedder, "something_else")
    ids = torch.ones(1, 4, dtype=torch.long)
    for model in (encoder, nn.MaskedLM(toy)):
        for call in ({"input_ids": ids}, {"input_ids": ids, "attention_mask": ids}):
            with pytest.raises(InputError, match="one packed batch.*nn.pack"):
                model(**call)
        with pytest.raises(InputError, match="one packed batch.*nn.pack"):
            model(ids, attention_mask=ids)


def test_a_list_of_texts_in_place_of_a_text(toy, small_tokenizer):
    model = nn.MaskedLM(toy)
    model.encoder.tokenizer = small_tokenizer
    for texts in (["a [MASK]"], ("a [MASK]",), np.array(["a [MASK]"])):
        with refused("the text is of type [a-z]+, not str: call fill once for each text$"):
            MaskedLM(TorchModel(model)).fill(texts)


@pytest.mark.parametrize("load", [Embedder.load, lambda name: Embedder(nn.Encoder.load(name))])
def test_padded_ids(load):
    """As transformers wants them: the vectors would be those of other texts."""
    embedder = load("motherbird-nano")
    texts = ["compress a file", "read the members of an archive one after the other"]
    ids, _ = embedder.tokenize(texts)
    pad_id, longest = embedder.tokenizer.id_of("pad"), max(map(len, ids))
    padding = [[pad_id] * (longest - len(document)) for document in ids]
    count = len(padding[0])
    right = [document + more for document, more in zip(ids, padding, strict=True)]
    left = [more + document for document, more in zip(ids, padding, strict=True)]
    for kind in (list, np.array, torch.tensor):
        for padded, side in ((right, "ends"), (left, "begins")):
            says = f"the document {side} with {count} padding tokens: document 0: pass ids without"
            with refused(says):
                embedder.embed_ids(kind(padded))
            with refused(says):
                list(embedder.batches(kind(padded), "tokens"))
    with refused("the document has only padding tokens: document 1: leave it out"):
        embedder.embed_ids([[5], [pad_id]])
    with refused("documents is what tokenize returns.*: pass its first value"):
        embedder.embed_ids(embedder.tokenize(texts))


def test_the_text_of_a_padding_token_is_not_padding(encoder):
    texts = ["[PAD] at the start", "in the [PAD] middle", "at the end [PAD]", "[PAD]"]
    assert Embedder(encoder).embed(texts).shape == (4, 32)


@pytest.mark.parametrize("role", ["sep", "mask", None])
def test_ids_that_may_end_with_the_pad_token(role, encoder, small_tokenizer):
    """Of models that pad with another token's id, or have no tokenizer."""
    special = small_tokenizer.special
    padded = [[937, 5, 938, 938], [937, 5, 940, 940]] if role else [[937, 5, 939]]
    expected = Embedder(encoder).embed_ids(padded) if role else None
    encoder.tokenizer = role and Tokenizer(
        small_tokenizer.backend, {**special, "pad": special[role]}, split_special_tokens=True
    )
    vectors = Embedder(encoder).embed_ids(padded)
    assert len(vectors) == len(padded) and (role is None or (vectors == expected).all())


def test_an_error_names_a_document_by_its_place_in_the_list(encoder):
    """Batches are sorted by length."""
    with refused("token id 5000 is outside the vocabulary: document 2, token 0"):
        Embedder(encoder).embed_ids([[1, 2, 3], [5], [5000], [1, 2]])
    with refused("a document has 600 tokens, more than .*: document 2"):
        Embedder(encoder).embed_ids([[1, 2, 3], [5], [5] * 600, [1, 2]], batch_tokens=2)
