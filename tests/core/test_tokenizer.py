"""The tokenizer: ModernBERT's own rebuilt, ours trained, and no text that can break out of it."""

import copy
import json
import logging
import subprocess
import sys
import unicodedata

import pytest
import tokenizers
from hypothesis import example, given, settings
from hypothesis import strategies as st
from tokenizers import models, normalizers, pre_tokenizers

from motherbird.core import tokenizer as module
from motherbird.core.bpe import complete, train
from motherbird.core.tokenizer import ROLES, Tokenizer, load
from motherbird.errors import InputError, OutputExistsError

MASK = "[MASK]"


def as_json(tokenizer: Tokenizer) -> dict:
    return json.loads(tokenizer.backend.to_str())


def raw_of(tokenizer: Tokenizer) -> tokenizers.Tokenizer:
    """What anybody else makes of our file: special tokens in the text are special."""
    return tokenizers.Tokenizer.from_str(tokenizer.backend.to_str())


# --- ModernBERT's own


@pytest.fixture(scope="module")
def modernbert(published):
    return load(published("modernbert"))


def test_modernbert_is_olmo_completed(published, modernbert):
    olmo = tokenizers.Tokenizer.from_file(str(published("olmo-dolma-v1_5")))
    ours, theirs = as_json(complete(olmo)), as_json(modernbert)
    for part in ("vocab", "merges"):
        assert ours["model"][part] == theirs["model"][part]
    for part in ("normalizer", "pre_tokenizer", "decoder", "truncation", "padding"):
        assert ours[part] == theirs[part]
    assert ours["added_tokens"] == theirs["added_tokens"]  # ids, flags and order
    for part in ("single", "pair"):
        assert ours["post_processor"][part] == theirs["post_processor"][part]
    used = theirs["post_processor"]["special_tokens"]
    assert {t: ours["post_processor"]["special_tokens"][t] for t in used} == used


def test_ids_of_modernbert(modernbert):
    assert modernbert.vocab_size == 50_368
    assert [modernbert.id_of(role) for role in ROLES] == [50280, 50281, 50282, 50283, 50284]
    assert modernbert.mask_id == 50284
    assert modernbert.backend.token_to_id("[unused0]") == 50285
    assert modernbert.backend.token_to_id("[unused82]") == 50367
    for n in range(2, 25):
        assert modernbert.backend.token_to_id(" " * n) == 50278 - n


@pytest.mark.parametrize(
    ("text", "ids"),
    [
        ("Hello world", [50281, 12092, 1533, 50282]),
        (
            "def f(x):\n    return x + 1\n",
            [50281, 1545, 269, 9, 89, 2262, 187, 50274, 2309, 1269, 559, 337, 187, 50282],
        ),
        ("     a", [50281, 50273, 66, 50282]),
        ("York", [50281, 46225, 50282]),
        (" York", [50281, 2816, 50282]),
        ("12345 3.14", [50281, 42594, 495, 15, 1047, 50282]),
    ],
)
def test_encodings_of_modernbert(modernbert, text, ids):
    assert modernbert.encode(text) == ids
    assert modernbert.encode_batch([text, "", text])[::2] == [ids, ids]
    assert modernbert.decode(ids) == f"[CLS]{text}[SEP]"


def test_masked_encoding_of_modernbert(modernbert):
    assert modernbert.encode_masked("The capital of France is [MASK].") == [
        50281, 510, 5347, 273, 6181, 310, 50284, 15, 50282,
    ]  # fmt: skip


def test_a_pair_of_modernbert(modernbert):
    assert modernbert.backend.encode("Hello world", "How are you?").ids == [
        50281, 12092, 1533, 50282, 2347, 403, 368, 32, 50282,
    ]  # fmt: skip


# --- one of our own


def test_the_last_88_ids(small_tokenizer):
    assert small_tokenizer.vocab_size == 1024
    names = [small_tokenizer.backend.id_to_token(i) for i in range(1024 - 88, 1024)]
    assert names == ["[UNK]", "[CLS]", "[SEP]", "[PAD]", MASK] + [f"[unused{n}]" for n in range(83)]
    assert [small_tokenizer.id_of(role) for role in ROLES] == [936, 937, 938, 939, 940]
    assert small_tokenizer.special_ids == [936, 937, 938, 939, 940]
    assert small_tokenizer.template_ids() == ([937], [938])


def test_every_id_has_one_token(small_tokenizer):
    vocabulary = small_tokenizer.backend.get_vocab(with_added_tokens=True)
    assert sorted(vocabulary.values()) == list(range(1024))


def test_what_was_learned_is_used(small_tokenizer, prose):
    text = prose[0]
    assert len(small_tokenizer.encode(text)) < 0.45 * len(text.encode())


def test_it_has_the_parts_of_modernbert(small_tokenizer, modernbert):
    ours, theirs = as_json(small_tokenizer), as_json(modernbert)
    assert ours["model"]["type"] == theirs["model"]["type"]
    assert ours["normalizer"] == theirs["normalizer"]
    assert ours["pre_tokenizer"] == theirs["pre_tokenizer"]
    flags = ("single_word", "lstrip", "rstrip", "normalized", "special")
    by_name = {token["content"]: token for token in theirs["added_tokens"]}
    for token in ours["added_tokens"]:
        assert all(token[f] == by_name[token["content"]][f] for f in flags), token["content"]


def test_training_is_deterministic(prose, small_tokenizer):
    assert as_json(train(iter(prose), 1024)) == as_json(small_tokenizer)


def test_ordinary_text_is_not_cut_for_training(prose):
    """The vocabulary is that of the library's trainer without anything in front of it."""
    backend = tokenizers.Tokenizer(models.BPE())
    backend.normalizer = normalizers.NFC()
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trainer = tokenizers.trainers.BpeTrainer(
        vocab_size=4096 - 88, show_progress=False, initial_alphabet=alphabet
    )
    backend.train_from_iterator(prose, trainer)
    trained = as_json(train(prose, 4096))
    assert trained["model"] == json.loads(backend.to_str())["model"]


LONG_WORDS = """
import random
from motherbird.core.bpe import train
rng = random.Random(0)
letters = "".join(rng.choices("ACGT", k=300_000))
chinese = "".join(chr(0x4E00 + int(rng.paretovariate(0.7)) % 5000) for _ in range(100_000))
trained = train([letters, "a" * 300_000, chinese, " " * 300_000, "=" * 300_000], 4096)
for text in (letters, "a" * 300_000, chinese, " " * 300_000):
    assert trained.decode(trained.backend.encode(text, add_special_tokens=False).ids) == text
"""


def test_long_words_take_seconds():
    subprocess.run([sys.executable, "-c", LONG_WORDS], check=True, timeout=60)


@pytest.mark.parametrize("size", [0, -64, 63, 1000, 320])
def test_impossible_sizes(size):
    with pytest.raises(InputError, match=f"size {size}.*multiple of 64, at least 384"):
        train(["some text"], size)


def test_text_too_small_names_a_size_that_it_can_reach(prose):
    with pytest.raises(InputError, match=r"too small.*at most (\d+)") as caught:
        train(prose[:1], 32_768)
    reachable = int(str(caught.value).rpartition(" ")[2])
    assert reachable % 64 == 0
    assert train(prose[:1], reachable).vocab_size == reachable
    with pytest.raises(InputError, match=f"at most {reachable}"):
        train(prose[:1], reachable + 64)


@pytest.mark.parametrize("size", [384, 448])
def test_no_text_at_all(size):
    """No size can be reached, so none is named."""
    with pytest.raises(InputError, match="too small for a vocabulary of .*: use more text$"):
        train([], size)


texts = st.text(max_size=80)


@settings(deadline=None)
@given(
    text=texts | st.lists(st.sampled_from(["  ", "[SEP]", "\n", "é", "a"]), max_size=9).map("".join)
)
def test_decoding_gives_the_text_back(text, small_tokenizer):
    ids = small_tokenizer.encode(text)
    assert (ids[0], ids[-1]) == (937, 938)
    assert small_tokenizer.decode(ids[1:-1]) == unicodedata.normalize("NFC", text)
    assert small_tokenizer.decode(ids) == f"[CLS]{unicodedata.normalize('NFC', text)}[SEP]"


@settings(deadline=None)
@given(words=st.lists(texts, max_size=5))
def test_a_batch_is_one_by_one(words, small_tokenizer):
    assert small_tokenizer.encode_batch(words) == [small_tokenizer.encode(w) for w in words]


@pytest.mark.parametrize("n", [4, 8, 12])
def test_a_line_end_and_its_indentation_are_one_token(n, small_tokenizer):
    ids = small_tokenizer.encode("if x:\n" + " " * n + "return y")
    assert "\n" + " " * (n - 1) in [small_tokenizer.decode([i]) for i in ids]


@settings(deadline=None)
@given(
    text=st.lists(
        st.sampled_from(["[CLS]", "[SEP]", "[PAD]", MASK, "[UNK]", " ", "a", "["]), max_size=12
    ).map("".join)
)
def test_special_tokens_in_a_text_are_text(text, small_tokenizer):
    special = set(small_tokenizer.special_ids)
    inside = small_tokenizer.encode(text)[1:-1]
    assert not special & set(inside)
    assert small_tokenizer.decode(inside) == text
    # Not so for others, which is why this test can fail.
    if any(token in text for token in small_tokenizer.special.values()):
        assert special & set(raw_of(small_tokenizer).encode(text).ids[1:-1])


# --- masks

without_brackets = st.text(st.characters(exclude_characters="[]", exclude_categories=["Cs"]))


@settings(deadline=None)
@given(
    pieces=st.lists(
        without_brackets | st.sampled_from([" ", "  a  ", "\n\t"]), min_size=2, max_size=4
    )
)
@example(pieces=["a\x1c", "b"])  # white space to Python, but not to Unicode
@example(pieces=["a\u3000", "\u0301b"])
@example(pieces=["", "", ""])
def test_masks_are_those_of_the_raw_library(pieces, small_tokenizer):
    text = MASK.join(pieces)
    ids = small_tokenizer.encode_masked(text)
    assert ids == raw_of(small_tokenizer).encode(text).ids
    assert ids.count(small_tokenizer.mask_id) == len(pieces) - 1


def test_only_the_mask_is_special_in_a_masked_text(small_tokenizer):
    ids = small_tokenizer.encode_masked("a [SEP] b [MASK] c")
    assert [i for i in ids if i in small_tokenizer.special_ids] == [937, 940, 938]
    assert MASK in small_tokenizer.decode(small_tokenizer.encode("a [MASK] b"))
    assert 940 not in small_tokenizer.encode("a [MASK] b")


@pytest.mark.parametrize("split", [False, True])
@pytest.mark.parametrize("wrong", [None, 5, b"a", ["a"], "\ud800"], ids=ascii)
def test_what_is_not_a_text_is_refused(wrong, split, small_tokenizer, no_type_checker):
    tokenizer = Tokenizer(small_tokenizer.backend, small_tokenizer.special, False, split)
    calls = {
        "": [tokenizer.encode, tokenizer.encode_masked],
        "text 1": [lambda x: tokenizer.encode_batch(["a", x]),
                   lambda x: tokenizer.encode_offsets(iter(["a", x]))],
        "pair 1, text 0": [lambda x: tokenizer.encode_pairs([("a", ""), (x, "b")], 10)],
        "pair 0, text 1": [lambda x: tokenizer.encode_pairs([("a", x)], 10)],
    }  # fmt: skip
    try:
        for name, functions in calls.items():
            for function in functions:
                says = rf"^the text is (missing|of type|not valid)(?!.*the text:).*: {name}"
                with pytest.raises(InputError, match=says):
                    function(wrong)
        for pair in ("ab", ("a",), None):
            with pytest.raises(InputError, match="not a pair of texts: pair 0"):
                tokenizer.encode_pairs([pair], 10)
    finally:
        small_tokenizer.backend.encode_special_tokens = True


@pytest.mark.parametrize("text", ["", "no mask here", "[mask]"])
def test_a_text_without_a_mask(text, small_tokenizer):
    with pytest.raises(InputError, match=r"no \[MASK\] in the text"):
        small_tokenizer.encode_masked(text)


# --- truncation


@settings(deadline=None)
@given(text=st.text(min_size=1), length=st.integers(3, 30))
def test_truncation_keeps_the_frame(text, length, small_tokenizer):
    ids = small_tokenizer.encode(text)
    cut = small_tokenizer.truncate(ids, length)
    assert len(cut) == min(len(ids), length)
    assert (cut[0], cut[-1]) == (937, 938)
    assert cut[:-1] == ids[: len(cut) - 1]


@pytest.mark.parametrize("length", [-1, 0, 1, 2])
def test_truncation_to_nothing(length, small_tokenizer):
    with pytest.raises(InputError, match=f"no text fits into {length}|invalid length {length}"):
        small_tokenizer.truncate(small_tokenizer.encode("some text"), length)


# --- files


@pytest.fixture
def transformers_log(caplog):
    logger = logging.getLogger("transformers")
    logger.addHandler(caplog.handler)  # it does not propagate
    yield caplog
    logger.removeHandler(caplog.handler)


def test_transformers_reads_what_we_save(small_tokenizer, tmp_path, prose, transformers_log):
    from transformers import AutoTokenizer

    small_tokenizer.save(tmp_path / "tokenizer", max_length=512)
    theirs = AutoTokenizer.from_pretrained(tmp_path / "tokenizer")
    assert not [r for r in transformers_log.records if r.levelno >= logging.WARNING]
    assert theirs.model_max_length == 512
    assert theirs.model_input_names == ["input_ids", "attention_mask"]
    for text in ("Hello  world\n\tdef f(): pass", "e\u0301 [unused3]", "", prose[3][:400]):
        assert theirs(text).input_ids == small_tokenizer.encode(text)
        inside = small_tokenizer.encode(text)[1:-1]
        assert theirs.decode(inside) == small_tokenizer.decode(inside)
    assert theirs("a [MASK] b").input_ids == small_tokenizer.encode_masked("a [MASK] b")
    for role in ROLES:
        assert getattr(theirs, f"{role}_token_id") == small_tokenizer.id_of(role)


def test_save_and_load(small_tokenizer, tmp_path):
    small_tokenizer.save(tmp_path / "tokenizer")
    assert {p.name for p in (tmp_path / "tokenizer").iterdir()} == {
        "motherbird.json", "special_tokens_map.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    for path in (tmp_path / "tokenizer", tmp_path / "tokenizer" / "tokenizer.json"):
        for again in (load(path), module.tokenizer(path), module.tokenizer(str(path))):
            assert as_json(again) == as_json(small_tokenizer)
            assert again.special == small_tokenizer.special
            assert again.encode("[SEP] a [MASK]")[1] == 938
        split = module.tokenizer(path, split_special_tokens=True)
        assert split.encode("[SEP] a [MASK]") == small_tokenizer.encode("[SEP] a [MASK]")


def test_a_foreign_folder_is_not_overwritten(small_tokenizer, tmp_path):
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(OutputExistsError):
        small_tokenizer.save(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]


def test_padding_and_truncation_of_a_file_are_switched_off(small_tokenizer, tmp_path):
    raw = raw_of(small_tokenizer)
    raw.enable_padding(length=64)
    raw.enable_truncation(8)
    raw.save(str(tmp_path / "tokenizer.json"))
    again = load(tmp_path)
    for text in ("short", "a longer text than eight tokens could ever hold, I should say"):
        assert again.encode(text) == small_tokenizer.encode(text)
    assert (as_json(again)["padding"], as_json(again)["truncation"]) == (None, None)


# --- roles


def written(folder, tokenizer: Tokenizer, **companions) -> Tokenizer:
    """Load a tokenizer.json with companion files of these contents beside it."""
    (folder / "tokenizer.json").write_text(tokenizer.backend.to_str())
    for name, content in companions.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return load(folder)


def test_roles_without_companions(small_tokenizer, tmp_path):
    assert written(tmp_path, small_tokenizer).special == small_tokenizer.special


def test_roles_are_what_the_companions_state(small_tokenizer, tmp_path):
    stated = {"mask_token": {"content": "[unused7]", "lstrip": True}, "pad_token": "[unused8]"}
    tokenizer = written(tmp_path, small_tokenizer, tokenizer_config=stated)
    assert tokenizer.mask_id == small_tokenizer.backend.token_to_id("[unused7]")
    assert tokenizer.special["pad"] == "[unused8]"
    assert tokenizer.special["cls"] == "[CLS]"


def test_tokenizer_config_wins_over_the_map(small_tokenizer, tmp_path):
    tokenizer = written(
        tmp_path,
        small_tokenizer,
        special_tokens_map={"pad_token": "[unused1]", "sep_token": "[unused2]"},
        tokenizer_config={"pad_token": "[unused3]"},
    )
    assert (tokenizer.special["pad"], tokenizer.special["sep"]) == ("[unused3]", "[unused2]")


@pytest.mark.parametrize("nonsense", [None, 5, "[no such token]", {"content": None}, ["[PAD]"]])
def test_roles_that_are_stated_wrongly_fall_back(nonsense, small_tokenizer, tmp_path):
    tokenizer = written(tmp_path, small_tokenizer, tokenizer_config={"pad_token": nonsense})
    assert tokenizer.special["pad"] == "[PAD]"


def test_pad_is_restored_where_pylate_put_the_mask(small_tokenizer, tmp_path):
    tokenizer = written(tmp_path, small_tokenizer, tokenizer_config={"pad_token": MASK})
    assert tokenizer.special["pad"] == "[PAD]"


def test_names_of_other_families(tmp_path):
    names = {"unk": "<unk>", "cls": "<s>", "sep": "</s>", "pad": "<pad>", "mask": "<mask>"}
    raw = tokenizers.Tokenizer(
        tokenizers.models.WordLevel(
            {"a": 0, **{t: i + 1 for i, t in enumerate(names.values())}}, unk_token="<unk>"
        )  # fmt: skip
    )
    raw.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    raw.add_special_tokens(list(names.values()))
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load(tmp_path)
    assert tokenizer.special == names
    assert [tokenizer.id_of(role) for role in ROLES] == [1, 2, 3, 4, 5]
    assert tokenizer.encode_masked("a <mask> a") == [0, 5, 0]  # no template, no frame
    assert tokenizer.template_ids() == ([], [])


def test_a_role_that_nothing_has(tmp_path):
    raw = tokenizers.Tokenizer(tokenizers.models.WordLevel({"a": 0}, unk_token="a"))
    raw.save(str(tmp_path / "tokenizer.json"))
    tokenizer = load(tmp_path)
    assert tokenizer.special == {} and tokenizer.special_ids == []
    with pytest.raises(InputError, match="no mask token"):
        tokenizer.encode_masked("a [MASK]")
    with pytest.raises(InputError, match="no pad token"):
        tokenizer.id_of("pad")


# --- broken files


def without_model(content):
    del content["model"]


def unknown_model(content):
    content["model"]["type"] = "Elsewhere"


def merge_of_nothing(content):
    content["model"]["merges"].append(["no such", "tokens"])


def negative_id(content):
    content["model"]["vocab"]["a"] = -1


def broken_pattern(content):
    content["pre_tokenizer"] = {
        "type": "Split", "pattern": {"Regex": "("}, "behavior": "Isolated", "invert": False,
    }  # fmt: skip


def template_of_nothing(content):
    content["post_processor"]["special_tokens"] = {}


def template_outside_the_vocabulary(content):
    content["post_processor"]["special_tokens"]["[CLS]"]["ids"] = [99_999]


def broken_map(content):
    content["normalizer"] = {"type": "Precompiled", "precompiled_charsmap": "AAAA"}


@pytest.mark.parametrize(
    "spoil",
    [without_model, unknown_model, merge_of_nothing, negative_id, broken_pattern,
     template_of_nothing, template_outside_the_vocabulary, broken_map],
)  # fmt: skip
def test_broken_parts(spoil, small_tokenizer, tmp_path):
    content = copy.deepcopy(as_json(small_tokenizer))
    spoil(content)
    (tmp_path / "tokenizer.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        load(tmp_path)


@pytest.mark.parametrize("text", ["", "{", "[]", "null", '{"model": 1, "model": 2}', "[" * 100_000])
@pytest.mark.parametrize("name", ["tokenizer.json", "tokenizer_config.json"])
def test_broken_files(text, name, small_tokenizer, tmp_path):
    (tmp_path / "tokenizer.json").write_text(small_tokenizer.backend.to_str())
    (tmp_path / name).write_text(text)
    with pytest.raises(InputError, match=name):
        load(tmp_path)


def test_a_folder_without_tokenizer(tmp_path):
    with pytest.raises(InputError, match="no tokenizer.json"):
        load(tmp_path)


# --- pairs and offsets


PIECES = st.text("ab .\n\té中😀", max_size=30)


@settings(max_examples=300)
@given(st.lists(st.tuples(PIECES, PIECES), max_size=5), st.integers(5, 40))
@example([("aa", "aa"), ("aaa", "aa"), ("aa", "aaa")], 6)
def test_pairs_are_those_of_the_library(small_tokenizer, pairs, max_length):
    """Its own truncation, longest first, is the oracle; it works on a whole tokenizer only."""
    oracle = tokenizers.Tokenizer.from_str(small_tokenizer.backend.to_str())
    oracle.encode_special_tokens = True
    whole = [len(oracle.encode(*pair)) for pair in pairs]
    oracle.enable_truncation(max_length, strategy="longest_first")
    ids, truncated = small_tokenizer.encode_pairs(pairs, max_length)
    assert ids == [oracle.encode(*pair).ids for pair in pairs]
    assert truncated == sum(length > max_length for length in whole)


def test_a_pair_worked_out(small_tokenizer):
    first, second = small_tokenizer.encode("import os")[1:-1], small_tokenizer.encode("x")[1:-1]
    cls, sep = small_tokenizer.id_of("cls"), small_tokenizer.id_of("sep")
    [ids], truncated = small_tokenizer.encode_pairs([("import os", "x")], 100)
    assert ids == [cls, *first, sep, *second, sep] and truncated == 0
    [ids], truncated = small_tokenizer.encode_pairs([("import os", "x")], 5)
    assert ids == [cls, first[0], sep, *second[:1], sep] and truncated == 1


def test_a_length_that_no_pair_fits_into(small_tokenizer):
    with pytest.raises(InputError, match="no pair of texts fits into 4 tokens"):
        small_tokenizer.encode_pairs([("a", "b")], 4)


@given(st.lists(st.text(max_size=40), max_size=5))
def test_offsets_point_into_the_text(small_tokenizer, texts):
    encodings = small_tokenizer.encode_offsets(texts)
    assert [e.ids for e in encodings] == [small_tokenizer.encode(text) for text in texts]
    for text, (ids, offsets) in zip(texts, encodings, strict=True):
        assert len(ids) == len(offsets) and offsets[0] == offsets[-1] == (0, 0)
        inner = offsets[1:-1]
        assert all(0 <= start <= end <= len(text) for start, end in inner)
        assert all(a <= b for (a, _), (b, _) in zip(inner, inner[1:], strict=False))
        if inner:  # no character is left out
            covered = {i for start, end in inner for i in range(start, end)}
            assert covered == set(range(len(text)))


def test_offsets_of_words(small_tokenizer):
    text = "def f(x):\n    return x + 1"
    ids, offsets = small_tokenizer.encode_offsets([text])[0]
    pieces = [text[start:end] for start, end in offsets[1:-1]]
    assert "".join(pieces) == text
    assert [small_tokenizer.backend.decode([i]) for i in ids[1:-1]] == pieces


def test_texts_that_become_tokens(small_tokenizer):
    """On the ids of unused entries, then on ids above the last one; other texts stay the same."""
    plain = small_tokenizer
    unused = [plain.backend.token_to_id(f"[unused{n}]") for n in range(83)]
    new = plain.with_tokens(["[Q] ", "[D] ", "[MASK]"], plain.vocab_size)
    assert [new.backend.token_to_id(t) for t in ("[Q] ", "[D] ")] == unused[:2]
    assert new.vocab_size == plain.vocab_size and new.mask_id == plain.mask_id
    assert new.special_ids == plain.special_ids
    for text in ("def f(x):\n    return x", "[unused5] é [Q]x"):
        assert new.encode(text) == plain.encode(text)
    assert new.encode("[Q] a")[1:-1] == [unused[0], *plain.encode("a")[1:-1]]
    assert plain.backend.token_to_id("[Q] ") is None
    many = [f"<{n}>" for n in range(85)]
    more = plain.with_tokens(many, plain.vocab_size + 2)
    ids = [more.backend.token_to_id(text) for text in many]
    assert ids == [*unused, plain.vocab_size, plain.vocab_size + 1]
    with pytest.raises(InputError, match=r"the vocabulary of 1,025 has no free id for '<84>'"):
        plain.with_tokens(many, plain.vocab_size + 1)
