"""Directories of models: written and read back, and every way in which one can be bad."""

import hashlib
import inspect
import json
import math
import os
import pickle
import shutil
import struct
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from motherbird import DamagedError, Embedder, EncoderConfig, InputError, tokenizer
from motherbird import MaskedLM as FillMask
from motherbird.core import weights
from motherbird.errors import DivergedError, HeadError, OutputExistsError
from motherbird.files import MANIFEST, new_directory
from motherbird.nn import (
    Encoder,
    MaskedLM,
    SequenceClassifier,
    TokenClassifier,
    checkpoint,
    devices,
    pack,
)

WEIGHTS = "model.safetensors"
LABELS = tuple(f"class {i}" for i in range(12))  # as strings "10" sorts before "2"
DOCUMENTS = [[937, 5, 6, 7, 938], [937, 100, 938], [937, *range(40), 938]]


@pytest.fixture(autouse=True)
def _no_type_checker_before_ours(monkeypatch):
    # A user has none: values in config.json have to be checked by EncoderConfig itself.
    monkeypatch.setattr(EncoderConfig, "__init__", inspect.unwrap(EncoderConfig.__init__))


def contents(folder: Path) -> dict[str, str]:
    """Every file below a folder and the hash of what is in it."""
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def same_weights(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    left, right = a.state_dict(), b.state_dict()
    return left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def edit_json(file: Path, **changes) -> None:
    """Change keys of a JSON file; None stands for null, ... for taking the key out."""
    content = json.loads(file.read_text()) | changes
    file.write_text(json.dumps({k: v for k, v in content.items() if v is not ...}))


MODELS = {
    "Encoder": Encoder,
    "MaskedLM": MaskedLM,
    "SequenceClassifier": lambda config: SequenceClassifier(config, LABELS),
    "TokenClassifier": lambda config: TokenClassifier(config, LABELS),
}


@pytest.fixture
def model(toy):
    return MaskedLM(toy).eval()


@pytest.fixture
def folder(model, tmp_path):
    """A MaskedLM that we wrote ourselves, manifest included."""
    model.save(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture
def foreign(folder):
    """The same without our manifest, as if it came from elsewhere."""
    (folder / "motherbird.json").unlink()
    return folder


# --- there and back


@pytest.mark.parametrize("name", MODELS)
@torch.no_grad()
def test_round_trip_is_bit_equal(name, toy, tmp_path):
    model = MODELS[name](toy).eval()
    model.save(tmp_path / "model")
    again = type(model).load(tmp_path / "model", dtype="stored")
    assert same_weights(model, again)
    assert not again.training
    assert getattr(again, "model", again).config == toy
    assert getattr(again, "labels", None) == getattr(model, "labels", None)
    packed = pack(DOCUMENTS)
    assert torch.equal(model(packed), again(packed))


def test_what_is_written(model, small_tokenizer, tmp_path):
    model.save(tmp_path / "model", tokenizer=small_tokenizer)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    files = contents(tmp_path / "model")
    assert files.keys() == {
        "README.md", "config.json", WEIGHTS, "motherbird.json", "special_tokens_map.json",
        "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    manifest = json.loads((tmp_path / "model/motherbird.json").read_text())
    assert manifest["kind"] == "model"
    assert manifest["sha256"] == {n: d for n, d in files.items() if n != "motherbird.json"}
    config = json.loads((tmp_path / "model/config.json").read_text())
    assert config["architectures"] == ["ModernBertForMaskedLM"]
    stored = load_file(tmp_path / "model" / WEIGHTS)
    assert "decoder.weight" not in stored  # tied, so not written twice
    assert "model.layers.0.attn_norm.weight" not in stored
    assert "model.layers.1.attn_norm.weight" in stored


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_embedder_round_trip(pooling, toy, small_tokenizer, tmp_path):
    encoder = Encoder(toy)
    encoder.tokenizer = small_tokenizer
    prompts = {"query": "search_query: ", "document": "search_document: "}
    embedder = Embedder(encoder, pooling, prompts, default_prompt="query", max_length=100)
    embedder.save(tmp_path / "model")
    again = Embedder.load(tmp_path / "model", dtype="stored")
    assert same_weights(encoder, again.encoder)
    assert (again.pooling, again.prompts, again.default_prompt, again.max_length) == (
        pooling,
        prompts,
        "query",
        100,
    )
    texts = ["one text", "and a longer one, on another matter"]
    assert (embedder.embed(texts) == again.embed(texts)).all()


def test_an_empty_prompt_stays_an_empty_prompt(toy, small_tokenizer, tmp_path):
    encoder = Encoder(toy)
    encoder.tokenizer = small_tokenizer
    embedder = Embedder(encoder, prompts={"query": "question: ", "document": ""})
    embedder.save(tmp_path / "model")
    again = Embedder.load(tmp_path / "model", dtype="stored")
    plain = embedder.embed(["a text"])
    assert (embedder.embed(["a text"], prompt_name="document") == plain).all()
    assert (again.embed(["a text"], prompt_name="document") == plain).all()


def test_an_encoder_of_any_checkpoint_loads_as_an_embedder(folder, small_tokenizer):
    small_tokenizer.write_files(folder, 512)
    embedder = Embedder.load(folder, dtype="stored")
    assert (embedder.pooling, embedder.max_length, embedder.prompts) == ("mean", 512, {})


def test_masked_lm_loads_as_encoder(model, folder):
    assert same_weights(model.model, Encoder.load(folder, dtype="stored"))


@pytest.mark.parametrize("cls", [MaskedLM, SequenceClassifier, TokenClassifier])
def test_an_encoder_has_no_head(cls, toy, tmp_path):
    Encoder(toy).save(tmp_path / "model")
    with pytest.raises(InputError, match=f"no head of {cls.__name__}"):
        cls.load(tmp_path / "model", dtype="stored")


def test_a_masked_lm_is_no_classifier(folder):
    with pytest.raises(InputError, match="no head of SequenceClassifier"):
        SequenceClassifier.load(folder, dtype="stored")


def in_shards(folder: Path, below: str = "") -> None:
    tensors = load_file(folder / WEIGHTS)
    names = sorted(tensors)
    half = len(names) // 2
    parts = {
        "model-00001-of-00002.safetensors": names[:half],
        f"{below}model-00002-of-00002.safetensors": names[half:],
    }
    (folder / below).mkdir(exist_ok=True)
    for file, part in parts.items():
        save_file({name: tensors[name] for name in part}, folder / file)
    index = {
        "metadata": {"total_size": sum(t.nbytes for t in tensors.values())},
        "weight_map": {name: file for file, part in parts.items() for name in part},
    }
    (folder / f"{WEIGHTS}.index.json").write_text(json.dumps(index))
    (folder / WEIGHTS).unlink()


@pytest.mark.parametrize("kept", ["decoder.weight", "model.embeddings.tok_embeddings.weight"])
def test_either_of_two_tied_tensors_is_enough(kept, model, foreign):
    """safetensors.torch.save_model keeps one of them, whichever it meets first."""
    tensors = load_file(foreign / WEIGHTS)
    tensors[kept] = tensors.pop("model.embeddings.tok_embeddings.weight")
    save_file(tensors, foreign / WEIGHTS)
    assert same_weights(model, MaskedLM.load(foreign, dtype="stored"))
    assert same_weights(model.model, Encoder.load(foreign, dtype="stored"))


def test_a_path_that_is_not_utf_8_is_the_reason(folder, small_tokenizer):
    small_tokenizer.write_files(folder, 512)
    place = Path(os.fsdecode(os.fsencode(folder.parent) + b"/caf\xe9"))
    folder.rename(place)
    for load in (Encoder.load, MaskedLM.load, Embedder.load, FillMask.load, tokenizer,
                 lambda path: tokenizer(path / "tokenizer.json")):  # fmt: skip
        with pytest.raises(InputError, match=r"path is not valid UTF-8.*caf\\udce9.*rename"):
            load(place)


def test_shards(model, foreign):
    in_shards(foreign)
    assert same_weights(model, MaskedLM.load(foreign, dtype="stored"))


def test_a_shard_in_a_folder_below(model, tmp_path):
    """As in the weights of the package; its hash is looked at as well."""
    model.save(tmp_path / "model")
    with new_directory(tmp_path / "split", "model") as fresh:
        stale = shutil.ignore_patterns(MANIFEST)
        shutil.copytree(tmp_path / "model", fresh, ignore=stale, dirs_exist_ok=True)
        in_shards(fresh, "part/")
    assert same_weights(model, MaskedLM.load(tmp_path / "split", dtype="stored"))
    shard = tmp_path / "split" / "part" / "model-00002-of-00002.safetensors"
    content = bytearray(shard.read_bytes())
    content[-4] ^= 1  # the lowest bit of a float32
    shard.write_bytes(content)
    with pytest.raises(DamagedError, match="part/model-00002"):
        MaskedLM.load(tmp_path / "split", dtype="stored")


def test_research_names(model, foreign):
    def research(name: str) -> str:
        name = name.replace("model.layers.", "bert.encoder.layers.")
        return name.replace("model.", "bert.", 1) if name.startswith("model.") else name

    tensors = {research(n): t for n, t in load_file(foreign / WEIGHTS).items()}
    assert {n.split(".")[0] for n in tensors} == {"bert", "head", "decoder"}
    save_file(tensors, foreign / WEIGHTS)
    assert same_weights(model, MaskedLM.load(foreign, dtype="stored"))
    assert same_weights(model.model, Encoder.load(foreign, dtype="stored"))


def test_a_copy_of_the_tied_weight_is_accepted_while_it_is_one(model, foreign):
    tensors = load_file(foreign / WEIGHTS)
    tensors["decoder.weight"] = tensors["model.embeddings.tok_embeddings.weight"].clone()
    save_file(tensors, foreign / WEIGHTS)
    assert same_weights(model, MaskedLM.load(foreign, dtype="stored"))
    tensors["decoder.weight"][3, 3] += 1
    save_file(tensors, foreign / WEIGHTS)
    with pytest.raises(DamagedError, match="decoder.weight is tied"):
        MaskedLM.load(foreign, dtype="stored")


def test_a_classifier_of_transformers_with_its_default_labels(toy, tmp_path):
    from transformers import ModernBertConfig, ModernBertForSequenceClassification

    names = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers",
             "num_attention_heads", "pad_token_id", "bos_token_id", "eos_token_id",
             "cls_token_id", "sep_token_id")  # fmt: skip
    config = ModernBertConfig(**{name: getattr(toy, name) for name in names})
    ModernBertForSequenceClassification(config).save_pretrained(tmp_path / "theirs")
    assert "id2label" not in json.loads((tmp_path / "theirs/config.json").read_text())
    assert SequenceClassifier.load(tmp_path / "theirs", dtype="stored").labels == (
        "LABEL_0",
        "LABEL_1",
    )


def test_a_home_folder_is_found_again(model, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("USERPROFILE", str(tmp_path / "home"))
    (tmp_path / "cwd").mkdir()
    monkeypatch.chdir(tmp_path / "cwd")
    model.save("~/model")
    assert same_weights(model, MaskedLM.load("~/model", dtype="stored"))
    assert (tmp_path / "home/model").is_dir()


# --- dtypes and devices


def test_dtype(model, tmp_path):
    for stored in (torch.float32, torch.bfloat16):
        model.to(stored).save(tmp_path / "model")
        assert Encoder.load(tmp_path / "model", dtype="stored").final_norm.weight.dtype == stored
        for dtype in (torch.bfloat16, "bfloat16"):
            loaded = Encoder.load(tmp_path / "model", dtype=dtype)
            assert {p.dtype for p in loaded.parameters()} == {torch.bfloat16}
            assert loaded(pack(DOCUMENTS)).dtype == torch.bfloat16
        fastest = devices.fastest_dtype(torch.device("cpu"))
        assert Encoder.load(tmp_path / "model", dtype="auto").final_norm.weight.dtype == fastest


def test_weights_of_several_dtypes_become_the_widest(foreign):
    tensors = load_file(foreign / WEIGHTS)
    save_file(
        {n: t.to(torch.bfloat16 if t.ndim == 2 else torch.float32) for n, t in tensors.items()},
        foreign / WEIGHTS,
    )
    assert {p.dtype for p in MaskedLM.load(foreign, dtype="stored").parameters()} == {torch.float32}


@pytest.mark.parametrize("dtype", ["float8", "fp32", "", torch.int8])
def test_unknown_dtypes_are_refused(dtype, folder):
    with pytest.raises(InputError, match=r"bfloat16"):
        Encoder.load(folder, dtype=dtype)


@pytest.mark.parametrize("device", ["toaster", "cuda:99"])
def test_unknown_devices_are_refused(device, folder):
    with pytest.raises(InputError, match=f"'{device}' is not available: use cpu"):
        Encoder.load(folder, device=device, dtype="stored")


# --- the tokenizer beside the weights


def test_the_tokenizer_travels_along(model, small_tokenizer, tmp_path):
    model.save(tmp_path / "first", tokenizer=small_tokenizer)
    first = MaskedLM.load(tmp_path / "first", dtype="stored")
    first.save(tmp_path / "second")
    encoder = Encoder.load(tmp_path / "second", dtype="stored")
    text = "def f(x):\n    return x  # [unused1]"
    assert encoder.tokenizer.encode(text) == small_tokenizer.encode(text)
    assert encoder.tokenizer.special == small_tokenizer.special


def test_a_model_without_a_tokenizer(folder):
    model = MaskedLM.load(folder, dtype="stored")
    assert model.model.tokenizer is None
    with pytest.raises(InputError, match="has no tokenizer.*tokenizer.json"):
        FillMask(model).fill("the [MASK]")


def test_a_tokenizer_of_another_model_is_refused(toy, small_tokenizer, tmp_path):
    Encoder(replace(toy, vocab_size=960)).save(tmp_path / "model", tokenizer=small_tokenizer)
    with pytest.raises(InputError, match=r"1024.*960"):
        Encoder.load(tmp_path / "model", dtype="stored")


# --- names on the Hub

COMMIT, OLDER = "0123456789abcdef" * 2 + "01234567", "f" * 40


@pytest.fixture
def hub(toy, tmp_path, monkeypatch):
    """A cache as huggingface_hub lays it out, with two commits of one model; no network."""
    import huggingface_hub.constants

    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    root = tmp_path / "hub/models--somebody--tiny"
    (root / "refs").mkdir(parents=True)
    models = {}
    for commit, ref in ((COMMIT, "main"), (OLDER, "v1")):
        models[ref] = Encoder(toy)
        models[ref].save(root / "snapshots" / commit)
        (root / "refs" / ref).write_text(commit)
    return models


def test_hub_names_come_from_the_cache(hub):
    assert same_weights(Encoder.load("somebody/tiny", dtype="stored"), hub["main"])
    for revision, ref in (("main", "main"), ("v1", "v1"), (OLDER, "v1"), (COMMIT, "main")):
        assert same_weights(
            Encoder.load("somebody/tiny", revision=revision, dtype="stored"), hub[ref]
        )


def test_hub_names_that_are_not_there(hub):
    with pytest.raises(InputError, match="somebody/other.*check the name"):
        Encoder.load("somebody/other", dtype="stored")
    with pytest.raises(InputError, match="somebody/tiny at revision v2"):
        Encoder.load("somebody/tiny", revision="v2", dtype="stored")


@pytest.mark.parametrize(
    "name",
    ["nowhere", "./nowhere", "a/b/c", "../a/b", "-x/y", "https://host/a", "a\0b", "", "x" * 5000,
     "~no-such-user/model"],
    ids=lambda name: repr(name)[:20],
)  # fmt: skip
def test_what_is_neither_folder_nor_name(name, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match="no such directory|a NUL|an empty string"):
        Encoder.load(name, dtype="stored")


def test_a_file_is_no_model(folder):
    with pytest.raises(InputError, match="this is a file"):
        Encoder.load(folder / WEIGHTS, dtype="stored")


# --- bad directories


class Canary:
    """Runs code when it is unpickled."""

    def __reduce__(self):
        return pytest.fail, ("a pickle was read",)


def read_header(file: Path) -> tuple[dict, bytes]:
    data = file.read_bytes()
    (length,) = struct.unpack("<Q", data[:8])
    return json.loads(data[8 : 8 + length]), data[8 + length :]


def write_header(file: Path, header: str, body: bytes) -> None:
    encoded = header.encode()
    encoded += b" " * (-len(encoded) % 8)
    file.write_bytes(struct.pack("<Q", len(encoded)) + encoded + body)


NORM = "model.final_norm.weight"
BAD = {}


def bad(error):
    def add(spoil):
        BAD[spoil.__name__] = (spoil, error)
        return spoil

    return add


for _length in (0, 4, 8, 100, 3000, -4096, -1):

    def _truncate(folder, length=_length):
        data = (folder / WEIGHTS).read_bytes()
        (folder / WEIGHTS).write_bytes(data[:length])

    BAD[f"truncated to {_length}"] = (_truncate, DamagedError)


def altered(**changes):
    def spoil(folder):
        header, body = read_header(folder / WEIGHTS)
        header[NORM] |= changes
        write_header(folder / WEIGHTS, json.dumps(header), body)

    return spoil


BAD |= {
    "shape of the same size": (altered(shape=[4, 8]), DamagedError),
    "shape of another size": (altered(shape=[33]), DamagedError),
    "shape beyond memory": (altered(shape=[2**40, 2**40]), DamagedError),
    "offset moved": (altered(data_offsets=[4, 132]), DamagedError),
    "offset outside": (altered(data_offsets=[0, 2**40]), DamagedError),
    "whole numbers": (altered(dtype="I32"), DamagedError),
    "dtype unknown": (altered(dtype="F33"), DamagedError),
}


@bad(DamagedError)
def another_name(folder):
    header, body = read_header(folder / WEIGHTS)
    header["model.last_norm.weight"] = header.pop(NORM)
    write_header(folder / WEIGHTS, json.dumps(header), body)


@bad(DamagedError)
def a_key_twice(folder):
    # Two tensors change places under one name: which of them counts is up to the reader.
    header, body = read_header(folder / WEIGHTS)
    first, second = "model.layers.1.attn_norm.weight", NORM
    again = json.dumps({first: header[second], second: header[first]})
    write_header(folder / WEIGHTS, json.dumps(header)[:-1] + ", " + again[1:], body)


@bad(DamagedError)
def header_of_many_bytes(folder):
    data = (folder / WEIGHTS).read_bytes()
    (folder / WEIGHTS).write_bytes(struct.pack("<Q", 2**62) + data[8:])


@bad(DamagedError)
def header_of_deep_json(folder):
    _, body = read_header(folder / WEIGHTS)
    write_header(folder / WEIGHTS, "[" * 100_000, body)


@bad(DamagedError)
def a_tail(folder):
    with (folder / WEIGHTS).open("ab") as file:
        file.write(b"more")


def with_tensors(change):
    def spoil(folder):
        tensors = load_file(folder / WEIGHTS)
        change(tensors)
        save_file(tensors, folder / WEIGHTS)

    return spoil


BAD |= {
    "NaN": (with_tensors(lambda t: t[NORM].view(-1)[5:6].fill_(math.nan)), DamagedError),
    "infinity": (with_tensors(lambda t: t[NORM].view(-1)[5:6].fill_(-math.inf)), DamagedError),
    "a tensor missing": (with_tensors(lambda t: t.pop(NORM)), DamagedError),
    "a tensor of the head missing": (with_tensors(lambda t: t.pop("head.norm.weight")), HeadError),
    "an unknown tensor": (
        with_tensors(lambda t: t.update({"model.adapter.weight": torch.ones(3)})),
        DamagedError,
    ),
    "no tensors": (with_tensors(lambda t: t.clear()), DamagedError),
}


@bad(DamagedError)
def a_pickle_under_our_name(folder):
    (folder / WEIGHTS).write_bytes(pickle.dumps({"model": Canary()}))


@bad(DamagedError)
def a_torch_file_under_our_name(folder):
    torch.save({"x": torch.zeros(3)}, folder / WEIGHTS)


@bad(InputError)
def only_a_pickle(folder):
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps({"model": Canary()}))


@bad(InputError)
def no_weights(folder):
    (folder / WEIGHTS).unlink()


def indexed(weight_map):
    def spoil(folder):
        in_shards(folder)
        edit_json(folder / f"{WEIGHTS}.index.json", weight_map=weight_map)

    return spoil


BAD |= {
    "index outside": (indexed({NORM: "../x.safetensors"}), InputError),
    "index absolute": (indexed({NORM: "/etc/x.safetensors"}), InputError),
    "index through a folder": (indexed({NORM: "a/../x.safetensors"}), InputError),
    "index two folders below": (indexed({NORM: "a/b/x.safetensors"}), InputError),
    "index of another system": (indexed({NORM: "a\\x.safetensors"}), InputError),
    "index of a pickle": (indexed({NORM: "pytorch_model.bin"}), InputError),
    "index of a hidden file": (indexed({NORM: ".safetensors"}), InputError),
    "index of a number": (indexed({NORM: 5}), InputError),
    "index of a list": (indexed({NORM: ["x.safetensors"]}), InputError),
    "index empty": (indexed({}), InputError),
    "index a list": (indexed(["x.safetensors"]), InputError),
}


@bad(DamagedError)
def a_shard_missing(folder):
    in_shards(folder)
    (folder / "model-00002-of-00002.safetensors").unlink()


@bad(InputError)
def index_broken(folder):
    in_shards(folder)
    (folder / f"{WEIGHTS}.index.json").write_text("{")


@bad(InputError)
def no_config(folder):
    (folder / "config.json").unlink()


def config_text(text):
    return lambda folder: (folder / "config.json").write_bytes(text)


def config(**changes):
    return lambda folder: edit_json(folder / "config.json", **changes)


BAD |= {
    "config broken": (config_text(b'{"model_type": "modernbert",'), InputError),
    "config empty": (config_text(b""), InputError),
    "config no object": (config_text(b"[]"), InputError),
    "config no text": (config_text(b"\xff\xfe\x00"), InputError),
    "config with a key twice": (
        config_text(b'{"model_type": "modernbert", "model_type": "bert"}'),
        InputError,
    ),
    "config with NaN": (config_text(b'{"model_type": "modernbert", "norm_eps": NaN}'), InputError),
    "config too deep": (config_text(b"[" * 100_000), InputError),
    "config with a long number": (
        config_text(b'{"model_type": "modernbert", "vocab_size": ' + b"9" * 5000 + b"}"),
        InputError,
    ),
    "another architecture": (config(model_type="bert"), InputError),
    "code in the folder": (config(auto_map={"AutoModel": "modeling.Model"}), InputError),
    "10**12 layers": (config(num_hidden_layers=10**12, layer_types=...), InputError),
    "width of 2**40": (config(hidden_size=2**40), InputError),
    "width below 0": (config(hidden_size=-32), InputError),
    "width in words": (config(hidden_size="wide"), InputError),
    "another width": (config(hidden_size=64), DamagedError),
    "more layers": (
        config(num_hidden_layers=5, layer_types=..., global_attn_every_n_layers=3),
        DamagedError,
    ),
    "fewer layers": (
        config(num_hidden_layers=3, layer_types=..., global_attn_every_n_layers=3),
        DamagedError,
    ),
    "tokenizer broken": (lambda f: (f / "tokenizer.json").write_text("{}"), InputError),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_directories_are_refused(case, foreign, tmp_path):
    spoil, error = BAD[case]
    spoil(foreign)
    before = contents(tmp_path)
    with pytest.raises((InputError, DamagedError)) as caught:
        MaskedLM.load(foreign, dtype="stored")
    assert type(caught.value) is error
    assert str(foreign) in str(caught.value)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(
    "labels",
    [
        {"id2label": ["a", "b"]},
        {"id2label": "ab"},
        {"id2label": {"first": "a"}},
        {"id2label": {"0": 5, "1": None}},
        {"id2label": {"0": "a", "2": "c"}},
        {"id2label": ..., "num_labels": -1},
        {"id2label": ..., "num_labels": 0},
        {"id2label": ..., "num_labels": 10**7},  # refused before a name is made for each
    ],
    ids=str,
)
def test_impossible_labels_are_refused(labels, toy, tmp_path):
    SequenceClassifier(toy, LABELS).save(tmp_path / "model")
    edit_json(tmp_path / "model/config.json", **labels)
    with pytest.raises(InputError, match="label"):
        SequenceClassifier.load(tmp_path / "model", dtype="stored")


def test_numbered_labels(toy, tmp_path):
    SequenceClassifier(toy, LABELS).save(tmp_path / "model")
    edit_json(tmp_path / "model/config.json", id2label=..., label2id=...)
    assert SequenceClassifier.load(tmp_path / "model", dtype="stored").labels == tuple(
        f"LABEL_{i}" for i in range(12)
    )


def flip(file: Path, offset: int, bit: int) -> None:
    data = bytearray(file.read_bytes())
    data[offset] ^= 1 << bit
    file.write_bytes(data)


def test_every_flipped_bit_of_our_own_files_is_found(folder):
    weights = folder / WEIGHTS
    whole = weights.read_bytes()
    for offset in range(3, len(whole), len(whole) // 40):
        flip(weights, offset, offset % 8)
        with pytest.raises(DamagedError, match=WEIGHTS):
            MaskedLM.load(folder, dtype="stored")
        weights.write_bytes(whole)
    MaskedLM.load(folder, dtype="stored")


def test_without_a_manifest_a_flipped_bit_would_pass(foreign, model):
    # The control of the test above: the lowest bit of a number is damage that only a hash shows.
    flip(foreign / WEIGHTS, (foreign / WEIGHTS).stat().st_size - 128, 0)
    assert not same_weights(MaskedLM.load(foreign, dtype="stored"), model)


@pytest.mark.parametrize(
    "text", ["{", "[]", "{}", '{"sha256": []}', '{"sha256": {"model.safetensors": 5}}']
)
def test_a_broken_manifest_is_refused(text, folder):
    (folder / "motherbird.json").write_text(text)
    with pytest.raises((InputError, DamagedError), match="motherbird.json|model.safetensors"):
        MaskedLM.load(folder, dtype="stored")


# --- where to write


def test_our_own_folder_is_replaced(toy, folder, tmp_path):
    newer = MaskedLM(toy)
    newer.save(folder)
    assert same_weights(MaskedLM.load(folder, dtype="stored"), newer)
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_an_empty_folder_is_used(model, tmp_path):
    (tmp_path / "model").mkdir()
    model.save(tmp_path / "model")
    assert same_weights(MaskedLM.load(tmp_path / "model", dtype="stored"), model)


def foreign_folder(folder):
    (folder / "motherbird.json").unlink()


def foreign_file_inside(folder):
    (folder / "notes.txt").write_text("mine")


def foreign_file_deep_inside(folder):
    (folder / "runs").mkdir()
    (folder / "runs/log.txt").write_text("mine")


def foreign_link_inside(folder):
    (folder / "link").symlink_to(folder)


def a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("mine")


def a_link(folder):
    folder.rename(folder.parent / "elsewhere")
    folder.symlink_to(folder.parent / "elsewhere")


@pytest.mark.parametrize(
    "make",
    [foreign_folder, foreign_file_inside, foreign_file_deep_inside, foreign_link_inside, a_file,
     a_link],
)  # fmt: skip
def test_what_is_not_ours_is_never_overwritten(make, model, folder, tmp_path):
    make(folder)
    before = contents(tmp_path)
    with pytest.raises(
        OutputExistsError, match=f"{folder}.*(choose another directory|it leads to)"
    ):
        model.save(folder)
    assert contents(tmp_path) == before


def test_a_failure_in_the_middle_leaves_the_old_one_whole(model, folder, tmp_path):
    before = contents(tmp_path)

    def fail(fresh):
        assert (fresh / WEIGHTS).is_file()  # almost done
        raise RuntimeError("the disk burns")

    with pytest.raises(RuntimeError, match="burns"):
        checkpoint.save(model, folder, write_more=fail)
    assert contents(tmp_path) == before
    assert [p.name for p in tmp_path.iterdir()] == ["model"]


def test_weights_that_are_not_finite_are_not_saved(model, folder, tmp_path):
    before = contents(tmp_path)
    with torch.no_grad():
        model.head.dense.weight[0, 0] = math.nan
    with pytest.raises(DivergedError, match=r"head\.dense\.weight.*nothing was saved"):
        model.save(folder)
    assert contents(tmp_path) == before


def test_weights_are_as_readable_as_their_neighbours(toy, tmp_path):
    Encoder(toy).save(tmp_path / "m")
    modes = {path.stat().st_mode for path in (tmp_path / "m").iterdir() if path.is_file()}
    assert len(modes) == 1


# --- weights of wrapped models


@pytest.mark.parametrize(
    "prefix", ["module.", "_orig_mod.", "_orig_mod.module.", "module._orig_mod."]
)
@pytest.mark.parametrize("cls", [Encoder, MaskedLM])
def test_the_names_of_a_wrapped_model(cls, prefix, toy, tmp_path):
    """As DistributedDataParallel and torch.compile name the parameters of what they wrap."""
    model = cls(toy)
    model.save(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).unlink()
    wrapped = {
        prefix + name: tensor for name, tensor in load_file(tmp_path / "model" / WEIGHTS).items()
    }
    save_file(wrapped, tmp_path / "model" / WEIGHTS)
    assert same_weights(cls.load(tmp_path / "model", dtype="stored"), model)
    heads = {name for name in model.state_dict() if name.startswith(weights.HEADS)}
    assert weights.head_tensors(tmp_path / "model") == heads


def test_names_of_what_torch_wraps(toy):
    class Wrapper(torch.nn.Module):  # DistributedDataParallel needs a process group
        def __init__(self, module):
            super().__init__()
            self.module = module

    compiled = partial(torch.compile, backend="eager")
    model = MaskedLM(toy)
    for wrapped in (compiled(model), Wrapper(model), compiled(Wrapper(model))):
        assert weights.published_names(wrapped.state_dict()).keys() == model.state_dict().keys()


@pytest.mark.parametrize("inner", ["model.module.", "model._orig_mod."])
def test_a_wrapped_part_is_refused_with_the_reason(inner, toy, tmp_path):
    MaskedLM(toy).save(tmp_path / "model")
    (tmp_path / "model" / MANIFEST).unlink()
    tensors = load_file(tmp_path / "model" / WEIGHTS)
    renamed = {name.replace("model.", inner, 1): tensor for name, tensor in tensors.items()}
    save_file(renamed, tmp_path / "model" / WEIGHTS)
    with pytest.raises(
        DamagedError, match="lacks tensors.*module. and _orig_mod. are of a wrapped"
    ):
        MaskedLM.load(tmp_path / "model")


def test_equal_names_of_labels_in_a_file(toy, tmp_path):
    SequenceClassifier(toy, ("a", "b")).save(tmp_path / "model")
    edit_json(tmp_path / "model/config.json", id2label={"0": "a", "1": "a"})
    with pytest.raises(InputError, match="two labels are called 'a'"):
        SequenceClassifier.load(tmp_path / "model")


def test_shards_without_their_index(foreign):
    in_shards(foreign)
    (foreign / weights.INDEX).unlink()
    with pytest.raises(InputError, match=r"index\.json is missing.*model-00001-of-00002"):
        MaskedLM.load(foreign)


def test_weights_that_are_a_git_lfs_pointer(foreign):
    (foreign / WEIGHTS).write_text("version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(DamagedError, match="Git LFS pointer.*git lfs pull"):
        MaskedLM.load(foreign)


def test_a_config_without_a_model_type(foreign):
    edit_json(foreign / "config.json", model_type=..., architectures=...)
    with pytest.raises(InputError, match=r"config\.json states no model_type"):
        MaskedLM.load(foreign)


def test_a_tokenizer_whose_ids_differ_from_config(foreign, small_tokenizer, caplog):
    small_tokenizer.write_files(foreign, 512)
    MaskedLM.load(foreign)
    edit_json(foreign / "config.json", cls_token_id=938)  # another special token
    MaskedLM.load(foreign)
    assert not caplog.records
    edit_json(foreign / "config.json", cls_token_id=5, sep_token_id=None)
    MaskedLM.load(foreign)
    assert r"tokenizer's [CLS] is 937, config.json says 5: is it this model's own?" in caplog.text
