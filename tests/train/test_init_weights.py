"""Initial weights: random, from a smaller run, from a checkpoint, and for new tokens."""

from dataclasses import replace

import pytest
import torch

from motherbird.core import bpe
from motherbird.core import tokenizer as tokenizers
from motherbird.core.config import EncoderConfig
from motherbird.data.prepare import prepare
from motherbird.data.prepared import PreparedDataset
from motherbird.errors import InputError
from motherbird.nn import Encoder, MaskedLM
from motherbird.nn.init import tile
from motherbird.train import run_log, state
from motherbird.train.init_weights import added_ids, extended_weights, load, model_of_run
from motherbird.train.recipe import Geometry, Init


def from_(recipe, source, **geometry):
    model = replace(recipe.model, **geometry)
    return replace(recipe, init=Init(str(source)), model=model)


@pytest.fixture(scope="module")
def small_run(tiny, smoke_set, train, tmp_path_factory):
    out = tmp_path_factory.mktemp("start") / "small"
    train(tiny, smoke_set, out, steps=6)
    return out


def test_the_seed_makes_the_weights(tiny, smoke_set, train, tmp_path):
    hashes = []
    for name, seed in (("a", 5), ("b", 5), ("c", 6)):
        torch.manual_seed(len(hashes))  # whatever the state of torch's generator
        before = torch.get_rng_state()
        recipe = replace(tiny, seed=seed, save=replace(tiny.save, every=0))
        train(recipe, smoke_set, tmp_path / name, steps=1)
        hashes.append(state.read(state.folder(tmp_path / name, 0)).sha256)
        assert torch.equal(before, torch.get_rng_state())
    assert hashes[0] == hashes[1] != hashes[2]


def test_a_larger_model_is_tiled_from_a_run(tiny, small_run, smoke_set, train, tmp_path):
    recipe = from_(
        tiny, small_run, num_hidden_layers=4, hidden_size=48, num_attention_heads=3,
        intermediate_size=64,
    )  # fmt: skip
    train(recipe, smoke_set, tmp_path / "large", steps=1)
    large = model_of_run(tmp_path / "large", 0)[0]
    smaller = model_of_run(small_run)[0]
    wanted = MaskedLM(large.model.config)
    tile(smaller, wanted, smaller.model.config, large.model.config)
    for name, tensor in wanted.state_dict().items():
        assert torch.equal(tensor, large.state_dict()[name]), name


def test_a_run_goes_on_from_another_with_its_weights(tiny, small_run, smoke_set, train, tmp_path):
    train(from_(tiny, small_run), smoke_set, tmp_path / "next", steps=1)
    before, after = model_of_run(small_run)[0], model_of_run(tmp_path / "next", 0)[0]
    for name, tensor in before.state_dict().items():
        assert torch.equal(tensor, after.state_dict()[name])


def test_a_hugging_face_folder_goes_on(
    tiny, small_run, small_tokenizer, smoke_set, train, tmp_path
):
    model = model_of_run(small_run)[0]
    model.save(tmp_path / "hf", tokenizer=small_tokenizer)
    recipe = replace(from_(tiny, tmp_path / "hf"), model=Geometry(dropout=0.0))
    train(recipe, smoke_set, tmp_path / "run", steps=1)
    begun = model_of_run(tmp_path / "run", 0)[0]
    assert begun.model.config.hidden_size == 32  # of the directory, because no preset is given
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, begun.state_dict()[name])


@pytest.fixture
def added(small_tokenizer):
    """The small tokenizer with two more tokens."""
    more = tokenizers.Tokenizer(
        type(small_tokenizer.backend).from_str(small_tokenizer.backend.to_str()),
        dict(small_tokenizer.special),
    )
    more.backend.add_tokens(["argument_parser", " subprocess"])
    return more


def test_new_tokens_begin_as_the_mean_of_their_pieces(
    tiny, small_run, small_tokenizer, added, smoke_set, train, tmp_path
):
    model = model_of_run(small_run)[0]
    model.save(tmp_path / "hf", tokenizer=small_tokenizer)
    added.save(tmp_path / "tokenizer")
    prepare(smoke_set.parent / "library", tmp_path / "tokenizer", tmp_path / "set", [64, 256])
    recipe = replace(from_(tiny, tmp_path / "hf"), model=Geometry(dropout=0.0))
    train(recipe, tmp_path / "set", tmp_path / "run", steps=2)
    begun = model_of_run(tmp_path / "run", 0)[0]
    assert begun.model.config.vocab_size == 1088  # the next multiple of 64
    old = model.model.embeddings.tok_embeddings.weight
    new = begun.model.embeddings.tok_embeddings.weight
    assert torch.equal(new[:1024], old)
    pieces = small_tokenizer.backend.encode("argument_parser", add_special_tokens=False).ids
    assert len(pieces) > 1
    torch.testing.assert_close(new[1024], old[pieces].mean(0))
    assert len(run_log.read(tmp_path / "run")) == 2


def test_what_an_id_means_must_not_change(small_run, small_tokenizer, added, tmp_path, prose):
    model = model_of_run(small_run)[0]
    model.save(tmp_path / "hf", tokenizer=small_tokenizer)
    trained = load(str(tmp_path / "hf"))
    assert added_ids(trained, small_tokenizer, "hf") == []
    assert added_ids(trained, added, "hf") == [1024, 1025]
    assert set(extended_weights(trained, small_tokenizer, 1024, "hf")) == set(model.state_dict())
    other = bpe.train(prose[1:], 1024)
    with pytest.raises(InputError, match=r"id \d+ is .* in the data and .* in the model"):
        added_ids(trained, other, "hf")


def test_a_smaller_model_is_refused_before_anything_is_made(
    tiny, small_run, smoke_set, train, tmp_path
):
    recipe = from_(tiny, small_run, num_hidden_layers=1)
    with pytest.raises(InputError, match="num_hidden_layers would shrink from 2 to 1"):
        train(recipe, smoke_set, tmp_path / "run")
    assert not (tmp_path / "run" / "run.json").exists()


def test_nothing_there_is_refused(tiny, smoke_set, train, tmp_path):
    with pytest.raises(InputError, match="no such directory"):
        train(from_(tiny, tmp_path / "nowhere"), smoke_set, tmp_path / "run")


def test_the_data_needs_the_recipes_lengths(tiny, smoke_set, train, tmp_path):
    phases = (replace(tiny.phases[0], seq_len=128), *tiny.phases[1:])
    with pytest.raises(InputError, match="no rows of 128"):
        train(replace(tiny, phases=phases), smoke_set, tmp_path / "run")
    phases = (replace(tiny.phases[0], sources=("nothing",)),)
    with pytest.raises(InputError, match="no source 'nothing'"):
        train(replace(tiny, phases=phases), smoke_set, tmp_path / "run")
    assert PreparedDataset(smoke_set).about.lengths.keys() == {"64", "256"}


def test_an_encoder_without_a_head_has_a_new_one(tmp_path):
    """It depends on the seed alone, and leaves torch's generator as it was."""
    encoder = Encoder(EncoderConfig(
        vocab_size=64, hidden_size=32, intermediate_size=32, num_hidden_layers=1,
        num_attention_heads=2, cls_token_id=1, sep_token_id=2, pad_token_id=0,
        bos_token_id=1, eos_token_id=2,
    ))  # fmt: skip
    encoder.save(tmp_path / "encoder")
    torch.manual_seed(1)
    one, drawn = load(str(tmp_path / "encoder"), 5), torch.rand(1)
    torch.manual_seed(1)
    assert torch.equal(torch.rand(1), drawn)
    again, other = (load(str(tmp_path / "encoder"), seed) for seed in (5, 6))
    weights = [model.head.dense.weight for model in (one, again, other)]
    assert torch.equal(weights[0], weights[1]) and not torch.equal(weights[0], weights[2])
    assert torch.equal(one.model.layers[0].mlp.Wo.weight, encoder.layers[0].mlp.Wo.weight)
