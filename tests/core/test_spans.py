"""Spans and tag schemes, compared with seqeval."""

import warnings

import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.core.spans import Span, bio_tags, scheme_of, spans, to_bio
from motherbird.errors import InputError

TYPES = st.sampled_from(["PER", "LOC", "creative-work"])


@st.composite
def spans_of_words(draw):
    """Spans that may touch, and the number of words."""
    found, word = [], draw(st.integers(0, 2))
    for kind in draw(st.lists(TYPES, max_size=6)):
        end = word + draw(st.integers(1, 3))
        found.append(Span(kind, word, end))
        word = end + draw(st.integers(0, 2))
    return found, word + draw(st.integers(0, 2))


def written(found, length, scheme):
    """The oracle: tags of spans by the definition of each scheme."""
    tags = ["O"] * length
    before = {span.end: span.type for span in found}
    for kind, first, end in found:
        for word in range(first, end):
            prefix = "B" if word == first else "I"
            if scheme == "IOB1":
                prefix = "B" if word == first and before.get(first) == kind else "I"
            if scheme in ("BIOES", "BILOU") and word == end - 1:
                prefix = ("S" if end - first == 1 else "E") if scheme == "BIOES" else "L"
                prefix = "U" if scheme == "BILOU" and end - first == 1 else prefix
            tags[word] = kind if scheme == "bare" else f"{prefix}-{kind}"
    return tags


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES", "BILOU"])
@given(spans_of_words())
def test_spans_of_every_scheme(scheme, drawn):
    found, length = drawn
    tags = written(found, length, scheme)
    assert spans(tags, "BIOES" if scheme == "BILOU" else scheme) == found
    assert to_bio(tags, "BIOES" if scheme == "BILOU" else scheme) == written(found, length, "BIO")


@given(spans_of_words())
def test_equal_neighbours_without_prefixes_are_one_span(drawn):
    found, length = drawn
    tags = written(found, length, "bare")
    words = [tags[first:end] for _, first, end in spans(tags, "bare")]
    assert all(len(set(each)) == 1 for each in words)
    assert written(spans(tags, "bare"), length, "bare") == tags


@pytest.mark.parametrize("scheme", ["BIO", "IOB1", "BIOES"])
@given(st.lists(st.tuples(st.sampled_from("BIES"), st.sampled_from(["X", "Y-Z"])) | st.none()))
def test_invalid_sequences_are_read_as_seqeval_reads_them(scheme, drawn):
    labelling = pytest.importorskip("seqeval.metrics.sequence_labeling")
    tags = ["O" if tag is None else "-".join(tag) for tag in drawn]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = labelling.get_entities(tags)
    assert [(kind, first, end - 1) for kind, first, end in spans(tags, scheme)] == expected


@pytest.mark.parametrize(
    ("tags", "scheme"),
    [
        ([["B-PER", "I-PER", "O"], ["B-LOC", "B-LOC"]], "BIO"),
        ([["I-PER", "I-PER", "O"], ["I-LOC", "B-LOC"]], "IOB1"),
        ([["I-PER", "B-PER"]], "IOB1"),
        ([["B-PER", "E-PER", "S-LOC"]], "BIOES"),
        ([["B-PER", "L-PER", "U-LOC"]], "BIOES"),
        ([["PER", "O", "creative-work"]], "bare"),
        ([["O", "O"], []], "BIO"),
        ([["B-PER", "I-PER"]] * 9 + [["O", "I-PER"]], "BIO"),  # a mistake in one of ten
        (["O", "B-PER", "I-PER", "B-LOC"], "BIO"),  # the labels of a model
        (["O", "I-PER", "I-LOC", "I-MISC", "B-LOC"], "IOB1"),
        (["O", "PER", "LOC"], "bare"),
    ],
)
def test_schemes_are_told_apart(tags, scheme):
    assert scheme_of(tags) == scheme


def test_some_tags_with_a_prefix():
    with pytest.raises(InputError, match='"B-PER" has a prefix, but "LOC" has none: write all'):
        scheme_of([["B-PER", "LOC"]])


@pytest.mark.parametrize("wrong", [Span("X", 0, 0), Span("X", 2, 4), Span("X", -1, 1)])
def test_spans_that_no_tags_can_express(wrong):
    with pytest.raises(ValueError, match="overlaps another, or is out of range"):
        bio_tags([wrong], 3)
    with pytest.raises(ValueError, match="overlaps"):
        bio_tags([Span("X", 0, 2), Span("Y", 1, 3)], 3)
