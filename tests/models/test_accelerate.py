"""Nothing but the speed may change: the model before `accelerate` is the oracle of every test."""

import copy
import gc
import inspect
import io
import logging
import pickle
import warnings
import weakref
from types import SimpleNamespace

import pytest
import torch
from torch import nn

import motherbird
from motherbird import InputError, accelerate, restore
from motherbird.models import accelerate as home

transformers = pytest.importorskip("transformers")

PAD, MASK = 0, 3
HEADS = {
    "ModernBertModel": {},
    "ModernBertForMaskedLM": {},
    "ModernBertForTokenClassification": {"num_labels": 3},
    "ModernBertForSequenceClassification": {"num_labels": 3, "classifier_pooling": "cls"},
    "mean": {"num_labels": 3, "classifier_pooling": "mean"},
    "ModernBertForMultipleChoice": {},
    "ModernBertForQuestionAnswering": {},
}


def geometry(**changes):
    return transformers.ModernBertConfig(
        **{
            "vocab_size": 200, "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 4,
            "num_attention_heads": 4, "local_attention": 16, "max_position_embeddings": 256,
            "pad_token_id": PAD, "bos_token_id": 1, "cls_token_id": 1, "eos_token_id": 2,
            "sep_token_id": 2, **changes,
        }
    )  # fmt: skip


def tiny(name="ModernBertModel", **changes):
    """A model whose weights are large enough for a wrong window or theta to show."""
    kind = "ModernBertForSequenceClassification" if name == "mean" else name
    model = getattr(transformers, kind)(geometry(**HEADS.get(name, {}), **changes)).eval()
    with torch.no_grad():
        for key, weight in model.named_parameters():
            if weight.ndim == 1:
                weight.add_(torch.randn_like(weight) * 0.1)
            elif "layers." in key:
                weight.mul_(3)
    return model


def batch(lengths=(5, 40, 17, 1, 100), side="right"):
    width = max(lengths)
    ids = torch.full((len(lengths), width), PAD)
    for row, length in enumerate(lengths):
        start = 0 if side == "right" else width - length
        ids[row, start : start + length] = torch.randint(4, 200, (length,))
    return {"input_ids": ids, "attention_mask": (ids != PAD).long()}


@pytest.fixture
def runs(monkeypatch):
    """How often our encoder has run: ``runs.ours``."""
    count = SimpleNamespace(ours=0)
    encode = home.unpad

    def counted(*arguments):
        count.ours += 1
        return encode(*arguments)

    monkeypatch.setattr(home, "unpad", counted)
    return count


def numbers(model, given, **more):
    """Hidden states or logits, where they have a meaning: at tokens, or in rows that have one."""
    with torch.inference_mode():
        output = model(**given, **more)
    mask = given["attention_mask"].bool()
    if "start_logits" in output:
        return torch.stack([output.start_logits, output.end_logits], -1)  # at every place
    if mask.ndim == 3:
        return output.logits[mask.any(-1)]
    values = output[0]
    return values[mask] if values.ndim == 3 else values[mask.any(-1)]


PADDING = {
    "right": lambda: batch(),
    "none": lambda: batch((60, 60, 60)),
    "one row": lambda: batch((70,)),
    "an empty row": lambda: batch((5, 0, 40)),
}


@pytest.mark.parametrize("padding", PADDING)
@pytest.mark.parametrize("name", HEADS)
def test_outputs_of_every_class(name, padding, runs):
    model, given = tiny(name), PADDING[padding]()
    if name.endswith("MultipleChoice"):
        given = {key: x[None] for key, x in given.items()}
    before = numbers(model, given)
    assert accelerate(model) is model
    after = numbers(model, given)
    assert after.shape == before.shape and (after - before).abs().max() <= 1e-5
    reads_padding = name.endswith("QuestionAnswering") and not given["attention_mask"].all()
    assert runs.ours == (0 if reads_padding else 1)


def test_a_mistake_would_be_seen():
    """The comparison above tells a window that is one too narrow, or a missing mask."""
    given = batch()
    model, narrow = tiny(), tiny(local_attention=14)
    narrow.load_state_dict(model.state_dict())
    exact = numbers(model, given)
    assert (numbers(accelerate(narrow), given) - exact).abs().max() > 1e-3
    leaky = {**given, "attention_mask": torch.ones_like(given["attention_mask"])}
    inside = given["attention_mask"].bool().flatten()
    assert (numbers(accelerate(model), leaky)[inside] - exact).abs().max() > 1e-3


def test_without_a_mask_and_by_position(runs):
    model, ids = tiny(), batch((30, 30))["input_ids"]
    with torch.inference_mode():
        before = model(ids).last_hidden_state
        accelerate(model)
        for output in (model(ids), model(ids, torch.ones(ids.shape)), model(input_ids=ids.int())):
            assert (output.last_hidden_state - before).abs().max() <= 1e-5
        as_tuple = model(ids, return_dict=False)
        assert isinstance(as_tuple, tuple) and len(as_tuple) == 1
        assert torch.equal(as_tuple[0], output[0])
    assert runs.ours == 4


def test_padded_places_are_zero():
    given = batch()
    hidden = accelerate(tiny())(**given).last_hidden_state
    assert (hidden[~given["attention_mask"].bool()] == 0).all()
    assert hidden[given["attention_mask"].bool()].abs().sum(-1).min() > 0


def with_hole():
    given = batch()
    given["attention_mask"][1, 10:20] = 0
    given["input_ids"][1, 10:20] = PAD
    return given


def with_read_padding():
    given = batch()
    given["input_ids"][given["attention_mask"] == 0] = MASK
    return given


def empty():
    ids = torch.full((2, 7), PAD)
    return {"input_ids": ids, "attention_mask": torch.zeros_like(ids)}


def as_embeds(model):
    given = batch()
    given["inputs_embeds"] = model.embeddings.tok_embeddings(given.pop("input_ids"))
    return given


def in_four_dimensions(model):
    given = batch()
    mask = given["attention_mask"].bool()
    given["attention_mask"] = mask[:, None, None, :].expand(-1, 1, mask.shape[1], -1)
    return given


def train_with(**changes):
    def change(model):
        for part in model.modules():
            for name, value in changes.items():
                if hasattr(part, name):
                    setattr(part, name, value)
        model.train()
        return batch()

    return change


def hooked(model):
    model.layers[2].register_forward_hook(lambda module, given, output: output * 2)
    return batch()


def checkpointed(model):
    model.activation_checkpointing_enable()
    model.train()
    return batch()


def configured(model):
    model.config.output_hidden_states = True
    return batch()


REASONS = {
    "output_hidden_states": lambda model: batch() | {"output_hidden_states": True},
    "position_ids": lambda model: batch() | {"position_ids": torch.arange(100).flip(0)[None]},
    "cu_seq_lens_q": lambda model: batch((90,)) | {"cu_seq_lens_q": torch.tensor([0, 50, 90])},
    "batch of token ids": as_embeds,
    "does not have the shape": in_four_dimensions,
    "padded on the left": lambda model: batch(side="left"),
    "or have gaps": lambda model: with_hole(),
    "other tokens than pad": lambda model: with_read_padding(),
    "no token": lambda model: empty(),
    "longer than max": lambda model: batch((300, 2)),
    "hook": hooked,
    "dropout": train_with(p=0.3),
    "trained with dropout": train_with(attention_dropout=0.3),
    "gradient checkpointing": checkpointed,
    "configuration": configured,
}


def flat(output):
    """Every tensor of an output."""
    for value in output.to_tuple():
        yield from value if isinstance(value, tuple) else [value]


@pytest.mark.parametrize("reason", REASONS)
def test_what_our_encoder_does_not_do_their_forward_does(reason, runs, caplog):
    """To the last bit, and it is said why."""
    caplog.set_level(logging.INFO, "motherbird")
    home._log_once.cache_clear()
    model = tiny()
    given = REASONS[reason](model)
    torch.manual_seed(1)
    before = model(**given)
    accelerate(model)
    torch.manual_seed(1)
    after = model(**given)
    assert before.keys() == after.keys() and runs.ours == 0
    for x, y in zip(flat(before), flat(after), strict=True):
        assert torch.equal(x, y)
    assert any(reason in record.getMessage() for record in caplog.records)


def test_hooks_that_transformers_leaves_behind_are_no_reason(runs):
    model, given = tiny("ModernBertForMaskedLM"), batch()
    before = numbers(model, given)
    accelerate(model)
    model(**given, output_hidden_states=True)
    model.activation_checkpointing_enable()
    model.activation_checkpointing_disable()
    assert (numbers(model, given) - before).abs().max() <= 1e-5 and runs.ours == 1


def loss_and_gradients(model, given):
    model.zero_grad()
    loss = model(**given).loss
    loss.backward()
    return loss.detach(), {k: p.grad for k, p in model.named_parameters() if p.grad is not None}


@pytest.mark.parametrize(
    "name", ["ModernBertForMaskedLM", "mean", "ModernBertForQuestionAnswering"]
)
def test_gradients(name, runs):
    """Of all parameters, tied ones too; a padding id among the tokens gets none, as in theirs."""
    model, given = tiny(name).train(), batch()
    given["input_ids"][1, 3] = PAD
    if "MaskedLM" in name:
        given["labels"] = given["input_ids"].masked_fill(given["attention_mask"] == 0, -100)
    elif name == "mean":
        given["labels"] = torch.tensor([0, 1, 2, 0, 1])
    else:
        given |= {"start_positions": torch.tensor([1, 2, 3, 0, 9])}
        given["end_positions"] = given["start_positions"] + 1
    loss, gradients = loss_and_gradients(model, given)
    again, others = loss_and_gradients(accelerate(model), given)
    assert runs.ours == (not name.endswith("QuestionAnswering"))
    assert (loss - again).abs() <= 1e-5 and gradients.keys() == others.keys()
    for key, gradient in gradients.items():
        assert (gradient - others[key]).abs().max() <= 1e-5, key
    assert (others["model.embeddings.tok_embeddings.weight"][PAD] == 0).all() or "MaskedLM" in name


def test_frozen_parameters_stay_frozen(runs):
    model = tiny()
    model.layers[0].requires_grad_(False)
    model.embeddings.requires_grad_(False)
    accelerate(model)(**batch()).last_hidden_state.sum().backward()
    assert runs.ours == 1
    for name, parameter in model.named_parameters():
        frozen = name.startswith(("layers.0.", "embeddings."))
        assert parameter.requires_grad is not frozen and (parameter.grad is None) is frozen
    model.layers[0].requires_grad_(True)  # and those that thaw later learn again
    model(**batch()).last_hidden_state.sum().backward()
    assert all(p.grad is not None for p in model.layers[0].parameters())


@pytest.mark.parametrize("training", [False, True])
def test_autocast(training):
    """The dtype is theirs, and no number is further from float32 than theirs."""
    model, given = tiny().train(training), batch()
    inside = given["attention_mask"].bool()
    exact = model(**given).last_hidden_state[inside]
    with torch.autocast("cpu", torch.bfloat16):
        before = model(**given).last_hidden_state
        after = accelerate(model)(**given).last_hidden_state
    assert after.dtype is before.dtype
    errors = [(x[inside] - exact).abs().mean() for x in (before, after)]
    assert errors[1] <= 1.2 * errors[0]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_another_dtype_at_any_time(dtype, runs):
    model, given = tiny(), batch()
    twin = copy.deepcopy(model).to(dtype)
    exact, before = numbers(model, given), numbers(twin, given)
    accelerate(model)
    numbers(model, given)
    after = numbers(model.to(dtype), given)
    assert runs.ours == 2 and after.dtype is dtype
    wide = 0 if dtype is torch.float64 else 1.2 * (before.double() - exact).abs().mean()
    assert (after.double() - exact).abs().mean() <= max(wide, 1e-5)
    assert (numbers(model.float().half().float(), given) - exact).abs().max() < 0.2


def test_a_changed_model_is_followed(runs):
    """Steps of an optimizer, loaded weights, a resized vocabulary, a new layer."""
    model, given = accelerate(tiny("ModernBertForMaskedLM")), batch()

    def agree():
        after = numbers(model, given)
        before = numbers(restore(model), given)
        accelerate(model)
        assert (after - before).abs().max() <= 1e-5
        return after

    seen = [agree()]
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(1.1)
    seen.append(agree())
    model.load_state_dict(tiny("ModernBertForMaskedLM").state_dict())
    seen.append(agree())
    model.resize_token_embeddings(256, mean_resizing=False)
    given["input_ids"][0, 0] = 255
    seen.append(agree()[:, :200])
    model.model.layers[1] = copy.deepcopy(model.model.layers[2])
    seen.append(agree()[:, :200])
    assert runs.ours == 5
    assert all((x - y).abs().max() > 1e-3 for x, y in zip(seen, seen[1:], strict=False))


def files(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


def looks(model):
    base = getattr(model, "model", model)
    names = [name for name, _ in model.named_modules()]
    return type(base), [*model.state_dict()], names, inspect.signature(base.forward), repr(model)


def test_the_model_stays_what_it_was(tmp_path):
    """Class, names, state, signature, saved bytes; and no random number is drawn."""
    model, given = tiny("ModernBertForMaskedLM"), batch()
    kept = looks(model)
    model.save_pretrained(tmp_path / "before")
    random = torch.get_rng_state()
    accelerate(model)(**given)
    assert looks(model) == kept and torch.equal(torch.get_rng_state(), random)
    model.save_pretrained(tmp_path / "after")
    assert len(files(tmp_path / "after")) >= 2
    assert files(tmp_path / "after") == files(tmp_path / "before")


def test_restore(runs):
    model, given = tiny("ModernBertForMaskedLM"), batch()
    before, kept = numbers(model, given), looks(model)
    assert restore(model) is model  # was never accelerated
    attributes = dict(vars(model.model))
    accelerate(accelerate(model))
    numbers(model, given)
    assert runs.ours == 1
    assert restore(model) is model and restore(model) is model
    assert torch.equal(numbers(model, given), before) and runs.ours == 1
    assert vars(model.model) == attributes and looks(model) == kept
    assert isinstance(restore(nn.Linear(2, 2)), nn.Linear)


def test_what_another_library_put_there_comes_back():
    model, given, calls = tiny(), batch(side="left"), []

    def earlier(*arguments, **named):
        calls.append(named)
        return type(model).forward(model, *arguments, **named)

    model.forward = earlier
    accelerate(accelerate(model))
    numbers(model, given)  # theirs: padded on the left
    assert len(calls) == 1
    assert restore(model).forward is earlier


@pytest.mark.parametrize("how", ["deepcopy", "pickle", "torch.save"])
def test_a_copy_is_accelerated_and_free(how, runs):
    """It computes with weights of its own."""
    model, given = tiny("ModernBertForMaskedLM"), batch()
    before = numbers(accelerate(model), given)
    if how == "torch.save":
        buffer = io.BytesIO()
        torch.save(model, buffer)
        buffer.seek(0)
        twin = torch.load(buffer, weights_only=False)
    else:
        twin = copy.deepcopy(model) if how == "deepcopy" else pickle.loads(pickle.dumps(model))
    assert (numbers(twin, given) - before).abs().max() <= 1e-6 and runs.ours == 2
    with torch.no_grad():
        for parameter in twin.parameters():
            parameter.zero_()
    assert (numbers(twin, given) == 0).all()
    assert torch.equal(numbers(model, given), before) and runs.ours == 4


def test_no_cycle_keeps_a_model_alive():
    gc.collect()
    gc.disable()
    try:
        model = accelerate(tiny())
        model(**batch())
        gone = weakref.ref(model)
        del model
        assert gone() is None
    finally:
        gc.enable()


def test_compiled_and_traced_models_run_their_own_code(runs):
    """A trace of motherbird's encoder would contain the lengths of one batch."""
    model, given = tiny(), batch((5, 30))
    before = numbers(model, given)
    accelerate(model)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        compiled = torch.compile(model, backend="eager")
        assert (numbers(compiled, given) - before).abs().max() <= 1e-5
        traced = torch.jit.trace(model, (*given.values(),), strict=False, check_trace=False)
    other = batch((30, 12))
    wanted = numbers(restore(model), other)
    with torch.inference_mode():
        hidden = traced(*other.values())["last_hidden_state"]
    assert (hidden[other["attention_mask"].bool()] - wanted).abs().max() <= 1e-5
    assert runs.ours == 0


def test_data_parallel_without_gpus(runs):
    model, given = nn.DataParallel(accelerate(tiny())), batch()
    numbers(model, given)
    assert runs.ours == 1


class LowRank(nn.Module):
    """As adapters are put around a layer."""

    def __init__(self, base_layer):
        super().__init__()
        self.base_layer = base_layer

    def forward(self, x):
        return self.base_layer(x)


def adapted(model):
    model.layers[1].attn.Wqkv = LowRank(model.layers[1].attn.Wqkv)


def patched(model):
    model.layers[1].mlp.forward = lambda x: x


def normed_otherwise(model):
    model.final_norm = nn.RMSNorm(64)


def pruned(model):
    from torch.nn.utils import prune

    prune.l1_unstructured(model.layers[1].mlp.Wo, "weight", 0.5)


def narrowed(model):
    model.layers[2].mlp.Wi = nn.Linear(64, 100, bias=False)


def quantized(model):
    layer = model.layers[0].mlp.Wo
    layer.weight = nn.Parameter(layer.weight.to(torch.int8), requires_grad=False)


def elsewhere(model):
    model.layers[3].to("meta")


ALTERED = {
    "layers.1.attn.Wqkv has type LowRank": adapted,
    "layers.1.mlp has type ModernBertMLP": patched,
    "final_norm has type RMSNorm": normed_otherwise,
    "layers.1.mlp.Wo.weight is missing|weight_orig is new": pruned,
    r"layers.2.mlp.Wi.weight is \(100, 64\), not \(192, 64\)": narrowed,
    "layers.0.mlp.Wo.weight is not a plain tensor": quantized,
    "layers.3.attn.Wqkv.weight is not a plain tensor|attn_norm": elsewhere,
}


@pytest.mark.parametrize("says", ALTERED)
def test_altered_layers_are_refused(says):
    """At once, and nothing is changed; after the fact too, rather than wrong numbers."""
    model = tiny()
    ALTERED[says](model)
    with pytest.raises(InputError, match=f"({says}).*restore"):
        accelerate(model)
    assert not isinstance(model.forward, home._Forward)
    if ALTERED[says] is not patched and ALTERED[says] is not quantized:
        model = accelerate(tiny())
        model(**batch())
        ALTERED[says](model)
        with pytest.raises(InputError, match=f"({says}).*restore"):
            model(**batch())


def test_one_refusal_leaves_the_other_models_alone():
    models = nn.ModuleList([tiny(), tiny()])
    adapted(models[1])
    with pytest.raises(InputError):
        accelerate(models)
    assert not any("forward" in vars(model) for model in models)


def bert():
    return transformers.BertModel(
        transformers.BertConfig(vocab_size=20, hidden_size=8, num_attention_heads=1)
    )


def decoder():
    config = transformers.ModernBertDecoderConfig(
        vocab_size=20, hidden_size=8, intermediate_size=8, num_hidden_layers=1,
        num_attention_heads=1, pad_token_id=0,
    )  # fmt: skip
    return transformers.ModernBertDecoderModel(config)


OTHERS = {
    "BertModel of type 'bert' is no": lambda: nn.Sequential(bert(), nn.Linear(2, 2)),
    "BertModel of type 'bert'": bert,
    "ModernBertDecoderModel of type 'modernbert-decoder'": decoder,
    "Linear is not supp": lambda: nn.Linear(2, 2),
    "Encoder is not supp": lambda: motherbird.nn.Encoder(motherbird.presets.nano()),
    "str is not a model": lambda: "answerdotai/ModernBERT-base",
}


@pytest.mark.parametrize("says", OTHERS)
def test_other_architectures_are_refused(says):
    """As a user calls it: the tests' own type checker is put aside."""
    with pytest.raises(InputError, match=says):
        inspect.unwrap(accelerate)(OTHERS[says]())


def test_restore_wants_a_model():
    with pytest.raises(InputError, match="dict is not a model: motherbird.restore"):
        inspect.unwrap(restore)({})


@pytest.mark.parametrize("wrong", [200, -1])
def test_an_id_outside_the_vocabulary(wrong):
    given = batch((9, 5))
    given["input_ids"][1, 4] = wrong
    with pytest.raises(InputError, match=f"{wrong} is outside.*row 1, column 4.*0 to 199"):
        accelerate(tiny())(**given)


def test_settings_of_the_family(runs):
    """Biases, layers in any order, another activation and theta: nothing is taken for granted."""
    changes = dict(
        norm_bias=True, attention_bias=True, mlp_bias=True, hidden_activation="silu",
        norm_eps=1e-3, cls_token_id=5_000,
        layer_types=["sliding_attention", "full_attention", "full_attention", "sliding_attention"],
        rope_parameters={
            "full_attention": {"rope_type": "default", "rope_theta": 5_000.0},
            "sliding_attention": {"rope_type": "default", "rope_theta": 500.0},
        },
    )  # fmt: skip
    model, given = tiny(**changes), batch()
    before = numbers(model, given)
    assert (numbers(accelerate(model), given) - before).abs().max() <= 1e-5 and runs.ours == 1


@torch.no_grad()
def test_after_a_write_to_data_accelerate_is_called_again():
    """As docs/accelerate.md says: torch does not count a write to ``p.data``."""
    model, given = accelerate(tiny("ModernBertForMaskedLM")), batch()
    before = numbers(model, given)
    for parameter in model.parameters():
        parameter.data.mul_(1.1)
    after = numbers(accelerate(model), given)
    assert (after - before).abs().max() > 1e-3
    assert (after - numbers(restore(model), given)).abs().max() <= 1e-5
