"""Models with a head: pooling, masked LM, classifiers, and what every head declares."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.nn import Encoder, MaskedLM, SequenceClassifier, TokenClassifier, pack
from motherbird.nn import heads as heads_package
from motherbird.nn.heads import (
    HEADS,
    IGNORED,
    masked_lm,
    pool,
    sequence_classifier,
    token_classifier,
)

DOCUMENTS = [[937, 5, 6, 7, 938], [937, 100, 938], [937, *range(60), 938]]


# --- pooling


@settings(deadline=None)
@given(
    lengths=st.lists(st.integers(1, 20), min_size=1, max_size=8),
    how=st.sampled_from(["cls", "mean"]),
)
def test_pooling_is_a_loop_over_documents(lengths, how):
    packed = pack([[0] * n for n in lengths])
    x = torch.randn(sum(lengths), 5)
    rows = [d[0] if how == "cls" else d.mean(0) for d in x.split(lengths)]
    torch.testing.assert_close(pool(x, packed, how), torch.stack(rows))


def test_pooling_in_bfloat16_sums_in_float32():
    packed = pack([[0] * 4000])
    x = torch.ones(4000, 3, dtype=torch.bfloat16)
    x[1::2] = 2
    pooled = pool(x, packed, "mean")
    assert pooled.dtype == torch.float32
    assert (pooled == 1.5).all()  # a sum in bfloat16 would stop at 512


def test_pooling_has_a_gradient():
    packed = pack([[0] * 3, [0]])
    x = torch.randn(4, 2, requires_grad=True)
    pool(x, packed, "mean").sum().backward()
    torch.testing.assert_close(x.grad[:, 0], torch.tensor([1 / 3, 1 / 3, 1 / 3, 1]))


# --- masked LM


@pytest.fixture
def model(toy):
    return MaskedLM(toy).eval()


@torch.no_grad()
def test_positions_are_rows_of_the_full_logits(model):
    packed = pack(DOCUMENTS)
    full = model(packed)
    assert full.shape == (len(packed.ids), 1024)
    for rows in ([0], [3, 1, 3], list(range(len(packed.ids)))):
        torch.testing.assert_close(model(packed, torch.tensor(rows)), full[rows])
    assert model(packed, torch.tensor([], dtype=torch.int64)).shape == (0, 1024)


@torch.no_grad()
def test_logits_are_the_head_written_out(model):
    state = model.state_dict()
    state["decoder.bias"].uniform_()
    packed = pack(DOCUMENTS)
    x = model.model(packed) @ state["head.dense.weight"].T
    x = x * 0.5 * (1 + torch.erf(x / 2**0.5))
    x = (x - x.mean(1, keepdim=True)) / (x.var(1, correction=0, keepdim=True) + 1e-5).sqrt()
    x = x * state["head.norm.weight"]
    expected = x @ state["model.embeddings.tok_embeddings.weight"].T + state["decoder.bias"]
    torch.testing.assert_close(model(packed), expected, atol=1e-5, rtol=1e-4)


def test_an_untied_decoder_has_a_weight_of_its_own(toy):
    model = MaskedLM(replace(toy, tie_word_embeddings=False, decoder_bias=False))
    names = dict(model.named_parameters()).keys()
    assert "decoder.weight" in names and "decoder.bias" not in names
    model(pack(DOCUMENTS)).sum().backward()
    assert model.decoder.weight.grad is not None
    tied = dict(MaskedLM(toy).named_parameters()).keys()
    assert "decoder.weight" not in tied and "decoder.bias" in tied


def test_ids_outside_the_vocabulary_are_refused(model):
    with pytest.raises(InputError, match="id 1024 .*document 1, token 2"):
        model(pack([[1], [2, 3, 1024]]))


def test_documents_beyond_the_limit_are_refused(model):
    with pytest.raises(
        InputError, match="513 tokens, more than the model's limit of 512: document 1"
    ):
        model(pack([[1], [2] * 513]))
    with torch.no_grad():
        assert model(pack([[2] * 512])).shape == (512, 1024)


# --- classifiers


@torch.no_grad()
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_a_sequence_classifier_pools_before_its_head(pooling, toy):
    model = SequenceClassifier(replace(toy, classifier_pooling=pooling), ("a", "b", "c")).eval()
    packed = pack(DOCUMENTS)
    logits = model(packed)
    assert logits.shape == (3, 3)
    for row, document in zip(logits, DOCUMENTS, strict=True):
        x = model.model(pack([document]))
        x = x[:1] if pooling == "cls" else x.mean(0, keepdim=True)
        torch.testing.assert_close(row, model.classifier(model.head(x))[0], atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_a_token_classifier_answers_every_token(toy):
    model = TokenClassifier(toy, ("O", "B", "I")).eval()
    packed = pack(DOCUMENTS)
    expected = model.classifier(model.head(model.model(packed)))
    assert torch.equal(model(packed), expected)
    assert model(packed).shape == (len(packed.ids), 3)


def test_dropout_is_for_training_only(toy):
    model = SequenceClassifier(replace(toy, classifier_dropout=0.5), ("a", "b"))
    packed = pack(DOCUMENTS)
    assert not torch.equal(model.train()(packed), model(packed))
    assert torch.equal(model.eval()(packed), model(packed))


@pytest.mark.parametrize("cls", [MaskedLM, SequenceClassifier, TokenClassifier])
def test_every_parameter_of_a_model_is_trained(cls, toy):
    model = cls(toy) if cls is MaskedLM else cls(toy, ("a", "b"))
    model(pack(DOCUMENTS)).square().sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


# --- the contract


def make(head, encoder):
    return head(encoder) if head is MaskedLM else head(encoder, ("a", "b", "c"))


def rows_of(head, count=16):
    """Rows of data that can only be learned by heart."""
    generator = torch.Generator().manual_seed(0)

    def draw(most, size):
        return torch.randint(0, most, (size,), generator=generator).tolist()

    rows = []
    for number in range(count):
        ids = [937, *draw(900, 6 + number % 4), 938]
        if head is MaskedLM:
            positions = [1, 3]
            rows.append(masked_lm.Example(ids, positions, draw(900, 2)))
        elif head is SequenceClassifier:
            rows.append(sequence_classifier.Example(ids, draw(3, 1)[0]))
        else:
            labels = [IGNORED, *draw(3, len(ids) - 2), IGNORED]
            rows.append(token_classifier.Example(ids, labels))
    return rows


def test_every_head_is_a_file_and_is_listed():
    files = {p.stem for p in Path(heads_package.__file__).parent.glob("*.py")}
    shared = {"__init__", "base", "classifier"}
    assert {head.__module__.rpartition(".")[2] for head in HEADS} == files - shared
    assert len({head.architecture for head in HEADS}) == len(HEADS)


@pytest.mark.parametrize("head", HEADS)
def test_a_head_learns_16_rows_by_heart(head, toy):
    torch.manual_seed(0)
    model = make(head, replace(toy, initializer_range=0.18)).train()
    batch = model.collate(rows_of(head))
    optimizer = torch.optim.AdamW(model.parameters(), lr=5e-3)
    first = model.loss(*batch).item()
    for _ in range(120):
        optimizer.zero_grad()
        loss = model.loss(*batch)
        loss.backward()
        optimizer.step()
    assert loss.item() < 0.05 * first


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_the_loss_of_a_batch_is_the_sum_over_its_rows(head, toy):
    model, rows = make(head, toy).eval(), rows_of(head)
    alone = sum(model.loss(*model.collate([row])).item() for row in rows)
    assert model.loss(*model.collate(rows)).item() == pytest.approx(alone, rel=1e-5)


@torch.no_grad()
def test_ignored_tokens_do_not_count(toy):
    model = TokenClassifier(toy, ("a", "b")).eval()
    ids = [1, 2, 3, 4]
    both = [model.loss(*model.collate([token_classifier.Example(ids, labels)])).item()
            for labels in ([0, IGNORED, 1, IGNORED], [0, 1, 1, 0])]  # fmt: skip
    logits = model(pack([ids])).log_softmax(-1)
    assert both[0] == pytest.approx(-(logits[0, 0] + logits[2, 1]).item(), rel=1e-5)
    assert both[1] > both[0]


@pytest.mark.parametrize("head", HEADS)
def test_a_fresh_head_on_a_loaded_encoder(head, toy, tmp_path):
    Encoder(toy).save(tmp_path / "encoder")
    encoder = Encoder.load(tmp_path / "encoder", dtype="bfloat16")
    model = make(head, encoder)
    assert model.encoder is encoder
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    with torch.no_grad():
        assert model(pack(DOCUMENTS)).isfinite().all()
    model.save(tmp_path / "model")
    again = head.load(tmp_path / "model")
    assert again.labels == model.labels and type(again) is head
    for name, tensor in again.state_dict().items():
        assert torch.equal(tensor, model.state_dict()[name])


@torch.no_grad()
@pytest.mark.parametrize("head", HEADS)
def test_the_output_is_as_declared(head, toy):
    model = make(head, toy).eval()
    rows = {"tokens": sum(map(len, DOCUMENTS)), "documents": len(DOCUMENTS)}[model.axis]
    assert model(pack(DOCUMENTS)).shape == (rows, model.size)


# --- what is refused


LABELS = {
    "there are no labels": (),
    "two labels are called 'a': label 0 and 2": ("a", "b", "a"),
    "of type int, not str: label 1": ["a", 3],
    "the text is missing .None.: label 0": [None],
    "labels is a string": "abc",
    "labels is a NoneType": None,
    "labels is an int": 3,
    "labels is a dict": {"a": 1},
    "not valid Unicode.*label 0": ["\ud800"],
}


@pytest.mark.parametrize("says", LABELS)
@pytest.mark.parametrize("head", [SequenceClassifier, TokenClassifier])
@pytest.mark.usefixtures("no_type_checker")
def test_names_of_labels(head, says, toy):
    with pytest.raises(InputError, match=says):
        head(toy, LABELS[says])


def test_labels_are_copied(toy):
    names = ["a", "b"]
    model = TokenClassifier(toy, names)
    names[0] = "b"
    assert model.labels == ("a", "b") == SequenceClassifier(toy, ("a", "b")).labels
    assert model.size == 2


IDS = [[1, 2], [3, 4, 5]]
ROWS = {
    # the same number of labels in all, so that each would stand at another token
    "the document has 2 tokens and 3 labels: document 0": (TokenClassifier, [0, 1, 0], [0, 1]),
    "the document has 3 tokens and 1 label: document 1": (TokenClassifier, [0, 1], [0]),
    "0.5 is not an integer: document 1, label 2": (TokenClassifier, [0, 1], [0, 1, 0.5]),
    "labels of document 0 is a string": (TokenClassifier, "01", [0, 1, 0]),
    "labels of document 0 is a NoneType": (TokenClassifier, None, [0, 1, 0]),
    "the target 3 is out of range: document 1, token 2: use 0 to 2, or -100 for none": (
        TokenClassifier, [0, IGNORED], [0, 1, 3]),
    "the target -1 is out of range: document 0, token 0": (TokenClassifier, [-1, 0], [0, 1, 3]),
    "the target 3 is out of range: document 1: use 0 to 2$": (SequenceClassifier, 0, 3),
    "the target -100 is out of range: document 0": (SequenceClassifier, IGNORED, 0),
    "'a' is not an integer: document 0, label 0": (SequenceClassifier, "a", 0),
    "None is not an integer: document 1, label 0": (SequenceClassifier, 0, None),
    "the document has 1 position and 2 targets: document 1": (MaskedLM, ([0], [7]), ([0], [7, 8])),
    "the document has 2 positions and 1 target: document 0": (
        MaskedLM, ([0, 1], [7]), ([0], [7, 8])),
    "position 2 is outside the document: document 0: use 0 to 1": (
        MaskedLM, ([2], [7]), ([0], [7])),
    "position -1 is outside the document: document 1": (MaskedLM, ([0], [7]), ([-1], [7])),
    "0.5 is not an integer: document 1, position 0": (MaskedLM, ([0], [7]), ([0.5], [7])),
    "the target -100 is out of range: masked token 1: use 0 to 1023": (
        MaskedLM, ([0], [7]), ([0], [IGNORED])),
    "the target 1024 is out of range: masked token 0": (MaskedLM, ([0], [1024]), ([0], [7])),
}  # fmt: skip


@pytest.mark.parametrize("says", ROWS)
@pytest.mark.usefixtures("no_type_checker")
def test_rows_that_do_not_fit_together(says, toy):
    head, *answers = ROWS[says]
    module = {MaskedLM: masked_lm, SequenceClassifier: sequence_classifier}.get(
        head, token_classifier
    )
    model = make(head, toy)
    rows = [
        module.Example(ids, *(answer if head is MaskedLM else [answer]))
        for ids, answer in zip(IDS, answers, strict=True)
    ]
    with pytest.raises(InputError, match=says):
        model.loss(*model.collate(rows))


@given(
    st.lists(st.lists(st.tuples(st.integers(0, 1023), st.integers(-1, 2)), min_size=1), min_size=1)
)
def test_labels_stay_at_their_tokens(documents):
    rows = [
        token_classifier.Example(
            [token for token, _ in document], [IGNORED if x < 0 else x for _, x in document]
        )
        for document in documents
    ]
    packed, labels = TokenClassifier.collate(rows)
    pairs = list(zip(packed.ids.tolist(), labels.tolist(), strict=True))
    assert pairs == [(t, IGNORED if x < 0 else x) for document in documents for t, x in document]


def test_no_masked_position_at_all(toy):
    model = MaskedLM(toy)
    assert model.loss(*model.collate([masked_lm.Example([1, 2], [], [])])).item() == 0
