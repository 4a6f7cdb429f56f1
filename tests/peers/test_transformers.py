"""The same numbers as transformers: hidden states, logits, files, both ways.

Weights of initial scale hide errors (a wrong window changes a bf16 cosine by 1e-6 only), so every
comparison is made twice, the second time with every layer's matrices scaled by 4.
"""

import copy
import logging
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers
from torch.nn.functional import cosine_similarity

from motherbird import Embedder, EncoderConfig, InputError, presets
from motherbird import MaskedLM as FillMask
from motherbird.core import hf_config
from motherbird.core.batching import concatenate
from motherbird.engine import library
from motherbird.engine.model import NativeModel
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier, TokenClassifier, pack, repad
from motherbird.nn.checkpoint import from_torch

VARIANTS = ("portable", "avx2", "avxvnni", "avx512", "amx", "neon", "neon_bf16")
LENGTHS = [1, 2, 63, 64, 65, 128, 129, 512, 1500]

# Geometries from public model cards; vocabularies shortened, which no formula depends on.
ids = dict(pad_token_id=3, bos_token_id=1, eos_token_id=2, cls_token_id=1, sep_token_id=2)
ettin = dict(local_rope_theta=160_000.0, **ids)
FAMILY = {
    "base": replace(presets.base(), vocab_size=4096, num_hidden_layers=7, **ids),
    "ettin-7x256": EncoderConfig(4096, 256, 384, 7, 4, **ettin),
    "ettin-10x384": EncoderConfig(4096, 384, 576, 10, 6, **ettin),
    "ettin-19x512": EncoderConfig(4096, 512, 768, 19, 8, **ettin),
    "mmbert-22x384": EncoderConfig(8192, 384, 1152, 22, 6, **ettin),
    "granite-12x384": EncoderConfig(  # heads of 32; the last layer is local
        4096, 384, 1536, 12, 12, global_rope_theta=80_000.0, hidden_activation="silu", **ids
    ),
    "everything-else": EncoderConfig(
        4096, 128, 192, 5, 4, local_attention=32, hidden_activation="gelu_pytorch_tanh",
        layer_types=("sliding_attention", "full_attention", "full_attention", "sliding_attention",
                     "sliding_attention"),
        norm_eps=1e-4, norm_bias=True, attention_bias=True, mlp_bias=True, classifier_bias=True,
        decoder_bias=False, tie_word_embeddings=False, **ids,
    ),
}  # fmt: skip


def twins(config, scale, ours=MaskedLM, theirs="ModernBertForMaskedLM"):
    """Our model and transformers', with the same weights."""
    raw = hf_config.write(config, theirs, "float32", ())
    reference = getattr(transformers, theirs)(transformers.ModernBertConfig(**raw)).eval()
    model = ours(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 1:  # biases and norms at rest would hide a missing one
                weight.add_(torch.randn_like(weight) * 0.1)
            elif "layers." in name:
                weight.mul_(scale)
    missing, unexpected = reference.load_state_dict(model.state_dict(), strict=False)
    assert not unexpected and set(missing) <= {"decoder.weight"}
    return model, reference


def documents(config, lengths=LENGTHS):
    return [torch.randint(4, config.vocab_size, (n,)).tolist() for n in lengths]


def padded(reference, documents):
    """Hidden states of transformers on padded batches, cut back to the packed row.

    Two batches, short and long documents: one alone would be nine tenths padding.
    """
    rows = {}
    for long in (False, True):
        batch = [i for i, document in enumerate(documents) if (len(document) > 200) is long]
        if batch:
            packed = pack([documents[i] for i in batch])
            ids, mask = repad(packed.ids, packed, 3), repad(torch.ones_like(packed.ids), packed)
            hidden = reference(input_ids=ids, attention_mask=mask).last_hidden_state
            rows |= {i: row[: len(documents[i])] for i, row in zip(batch, hidden, strict=True)}
    return torch.cat([rows[i] for i in range(len(documents))])


def hidden_and_logits(model, packed):
    seen = []
    hook = model.model.register_forward_hook(lambda module, given, out: seen.append(out))
    logits = model(packed)
    hook.remove()
    return seen[0], logits


@torch.inference_mode()
def compare(model, reference, scale):
    """Bars at initial scale, and 20 times as much at scale 4."""
    docs = documents(model.model.config)
    hidden, logits = hidden_and_logits(model, pack(docs))
    wanted = padded(reference.model, docs)
    allowed = 1 if scale == 1 else 20
    assert (hidden - wanted).abs().max() <= 5e-5 * allowed
    assert (logits - reference.decoder(reference.head(wanted))).abs().max() <= 5e-4 * allowed


LOADED = ["ettin-7x256", pytest.param("granite-12x384", marks=pytest.mark.slow), "everything-else"]


def of_family(*slow):
    return [pytest.param(n, marks=pytest.mark.slow) if n in slow else n for n in FAMILY]


@pytest.mark.parametrize(
    "name", of_family("base", "ettin-19x512", "granite-12x384", "mmbert-22x384")
)
def test_float32_at_scale_4(name):
    compare(*twins(FAMILY[name], 4), 4)


@pytest.mark.parametrize("name", of_family(*FAMILY.keys() - {"everything-else"}))
def test_float32_at_initial_scale(name):
    compare(*twins(FAMILY[name], 1), 1)


@pytest.mark.slow
@pytest.mark.parametrize("scale", [1, 4])
def test_float32_whole_base(scale):
    compare(*twins(presets.base(), scale), scale)


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize("name", of_family(*FAMILY.keys() - {"ettin-7x256", "everything-else"}))
@torch.inference_mode()
def test_engine_in_float32(name, scale):
    """The same bars as `compare`, in every variant that this CPU has."""
    model, reference = twins(FAMILY[name], scale)
    docs, allowed = documents(FAMILY[name]), 1 if scale == 1 else 20
    hidden = padded(reference.model, docs)
    logits = reference.decoder(reference.head(hidden))
    tensors = {name: from_torch(tensor) for name, tensor in model.state_dict().items()}
    for variant in VARIANTS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setenv(library.VARIABLE, variant)
            library.variant.cache_clear()
            try:
                native = NativeModel(FAMILY[name], tensors, "float32", "MaskedLM")
            except InputError:  # this CPU cannot run it
                continue
            finally:
                library.variant.cache_clear()
        batch = concatenate(docs)
        assert np.abs(native.run(*batch, "tokens") - hidden.numpy()).max() <= 5e-5 * allowed
        assert np.abs(native.run(*batch, "logits") - logits.numpy()).max() <= 5e-4 * allowed


@pytest.fixture(scope="module")
def truth():
    """Our base at scale 4, and what transformers gives for it."""
    torch.manual_seed(0)
    model, reference = twins(FAMILY["base"], 4)
    docs = documents(FAMILY["base"])
    with torch.inference_mode():
        return model, docs, padded(reference.model, docs)


def no_norm(model):
    model.model.layers[2].attn_norm = torch.nn.Identity()


def window_off_by(step):
    def change(model):
        for layer in model.model.layers:
            if layer.attn.window is not None:
                layer.attn.window += step

    return change


def theta_of_the_other_kind(model):
    for layer in model.model.layers:
        layer.attn.theta = 10_000.0


def halves_swapped(model):
    with torch.no_grad():
        for layer in model.model.layers:
            layer.mlp.Wi.weight.copy_(layer.mlp.Wi.weight.roll(layer.mlp.Wo.in_features, 0))


@pytest.mark.parametrize(
    "mistake",
    [window_off_by(1), window_off_by(-1), theta_of_the_other_kind, no_norm, halves_swapped],
    ids=["wider", "narrower", "theta", "norm", "glu"],
)
def test_a_mistake_is_seen(mistake, truth):
    """The tolerance at scale 4 is not so wide that a real error fits into it."""
    model, docs, wanted = truth
    model = copy.deepcopy(model)
    mistake(model)
    with torch.inference_mode():
        assert (model.model(pack(docs)) - wanted).abs().max() > 10 * 20 * 5e-5


def mean_cosine(a, b):
    return cosine_similarity(a.float(), b.float(), dim=-1).mean().item()


@pytest.mark.parametrize("scale", [1, 4])
@pytest.mark.parametrize(
    "name",
    ["ettin-10x384", *(pytest.param(n, marks=pytest.mark.slow) for n in ("base", "ettin-19x512"))],
)
def test_bfloat16(name, scale):
    """Near float32 at initial scale; at scale 4 no further from it than transformers' bfloat16."""
    config = FAMILY[name]
    model, reference = twins(config, scale)
    docs = documents(config)
    packed = pack(docs)
    with torch.inference_mode():
        exact = model.model(packed)
        ours = mean_cosine(model.model.to(torch.bfloat16)(packed), exact)
        theirs = mean_cosine(padded(reference.model.to(torch.bfloat16), docs), exact)
    if scale == 1:
        assert ours >= 0.999
    assert ours >= theirs - 1e-5


@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_sequence_classifier(pooling):
    config = replace(FAMILY["ettin-7x256"], classifier_pooling=pooling)
    labels = ("no", "maybe", "yes")
    raw = hf_config.write(config, "-", "float32", labels)
    theirs = transformers.ModernBertForSequenceClassification(
        transformers.ModernBertConfig(**raw)
    ).eval()
    ours = SequenceClassifier(config, labels).eval()
    theirs.load_state_dict(ours.state_dict())
    docs = documents(config, [3, 70, 200])
    packed = pack(docs)
    mask = repad(torch.ones_like(packed.ids), packed)
    with torch.inference_mode():
        wanted = theirs(input_ids=repad(packed.ids, packed, 3), attention_mask=mask).logits
        assert (ours(packed) - wanted).abs().max() <= 5e-5


def test_token_classifier():
    config = FAMILY["ettin-7x256"]
    raw = hf_config.write(config, "-", "float32", ("O", "B"))
    theirs = transformers.ModernBertForTokenClassification(transformers.ModernBertConfig(**raw))
    ours = TokenClassifier(config, ("O", "B")).eval()
    theirs.eval().load_state_dict(ours.state_dict())
    docs = documents(config, [3, 70, 200])
    packed = pack(docs)
    with torch.inference_mode():
        wanted = torch.cat([theirs(input_ids=torch.tensor([d])).logits[0] for d in docs])
        assert (ours(packed) - wanted).abs().max() <= 5e-5


CLASSES = {
    "AutoModel": lambda config: Encoder(config),
    "AutoModelForMaskedLM": lambda config: MaskedLM(config),
    "AutoModelForSequenceClassification": lambda config: SequenceClassifier(
        config, ("a", "b", "c")
    ),
    "AutoModelForTokenClassification": lambda config: TokenClassifier(config, ("O", "B", "I")),
}


@pytest.mark.parametrize("theirs", CLASSES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("name", LOADED)
def test_what_we_save_loads(name, theirs, dtype, tmp_path, caplog):
    config = FAMILY[name]
    model = CLASSES[theirs](config).to(dtype)
    model.save(tmp_path / "model")
    loaded, report = getattr(transformers, theirs).from_pretrained(
        tmp_path / "model", output_loading_info=True, dtype=dtype
    )
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    state = loaded.state_dict()
    for key, tensor in model.state_dict().items():
        assert torch.equal(state[key], tensor), key
    assert loaded.config.layer_types == list(config.layers)
    if theirs.endswith("Classification"):
        assert loaded.config.id2label == dict(enumerate(model.labels))
    back = hf_config.read(loaded.config.to_dict(), "their config")
    assert back == config


@pytest.mark.parametrize("name", LOADED)
def test_what_they_save_loads(name, tmp_path):
    model, reference = twins(FAMILY[name], 1)
    reference.save_pretrained(tmp_path / "model")
    back = MaskedLM.load(tmp_path / "model", dtype="stored")
    assert back.model.config == FAMILY[name]
    for key, tensor in model.state_dict().items():
        assert torch.equal(back.state_dict()[key], tensor), key


@pytest.fixture
def quiet_peers(caplog):
    """Whatever a peer logs or warns while it loads our files is a failure."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    loud = [r for r in caplog.records if r.levelno >= logging.WARNING]
    assert not loud, [r.getMessage() for r in loud]


@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_sentence_transformers(pooling, small_tokenizer, toy, tmp_path, quiet_peers):
    from sentence_transformers import SentenceTransformer

    encoder = Encoder(replace(toy, vocab_size=small_tokenizer.vocab_size)).eval()
    encoder.tokenizer = small_tokenizer
    ours = Embedder(encoder, pooling=pooling, prompts={"query": "search: ", "document": ""})
    ours.save(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    texts = ["def f(x):\n    return x", "a", "A longer text. " * 20, "see [MASK], [SEP] and [PAD] "]
    ours = Embedder.load(tmp_path / "model", dtype="stored")
    assert abs(ours.embed(texts) - theirs.encode(texts)).max() < 1e-6
    asked = ours.embed(texts, prompt_name="query")
    assert abs(asked - theirs.encode(texts, prompt_name="query")).max() < 1e-6
    theirs.save(str(tmp_path / "theirs"))  # the dialect of version 6
    again = Embedder.load(tmp_path / "theirs", dtype="stored")
    assert abs(again.embed(texts) - ours.embed(texts)).max() < 1e-6
    assert again.prompts["query"] == "search: " and again.pooling == pooling


@pytest.mark.parametrize("kind", ["with Normalize", "without Normalize", "encoder alone"])
def test_vectors_are_those_of_sentence_transformers(kind, small_tokenizer, toy, tmp_path):
    """No argument is needed: the directory says whether vectors are normalized."""
    from sentence_transformers import SentenceTransformer

    encoder = Encoder(toy).eval()
    encoder.tokenizer = small_tokenizer
    if kind == "encoder alone":
        encoder.save(tmp_path / "model")
    else:
        Embedder(encoder, normalize=kind == "with Normalize").save(tmp_path / "model")
    theirs = SentenceTransformer(str(tmp_path / "model"), device="cpu", local_files_only=True)
    texts = ["a", "see [MASK] and [SEP] [PAD] and </s> [unused3]", "[CLS]", "a longer text " * 20]
    ours = Embedder.load(tmp_path / "model", dtype="stored").embed(texts)
    assert abs(ours - theirs.encode(texts)).max() < 1e-5


def test_fills_are_those_of_transformers(small_tokenizer, toy, tmp_path):

    MaskedLM(toy).save(tmp_path / "model", tokenizer=small_tokenizer)
    theirs = transformers.AutoModelForMaskedLM.from_pretrained(tmp_path / "model").eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "model")
    for text in ("a [MASK]", "see [SEP] [MASK] and [PAD] [CLS] [MASK]."):
        batch = tokenizer(text, return_tensors="pt")
        with torch.no_grad():
            probabilities = theirs(**batch).logits[0].softmax(-1)
        positions = (batch["input_ids"][0] == tokenizer.mask_token_id).nonzero()[:, 0].tolist()
        filled = FillMask.load(tmp_path / "model", dtype="stored").fill(text, 3)
        assert len(filled) == len(positions)
        for candidates, position in zip(filled, positions, strict=True):
            best = probabilities[position].topk(3)
            assert [c.token_id for c in candidates] == best.indices.tolist()
            expected = pytest.approx(best.values.tolist(), rel=1e-3)
            assert [c.probability for c in candidates] == expected


def test_to_any_dtype_and_back(toy):
    """``.to`` works at any time; RoPE tables never lose their precision by it."""
    encoder = Encoder(toy).eval()
    packed = pack([list(range(300))])
    with torch.inference_mode():
        before = encoder(packed)
        rounded = copy.deepcopy(encoder).to(torch.bfloat16).to(torch.float32)
        for weight, original in zip(rounded.parameters(), encoder.parameters(), strict=True):
            weight.copy_(original)
        assert torch.equal(rounded(packed), before)
