"""What a certificate measures, and what it does not let pass."""

import math

import numpy as np
import pytest
from exportables import exportable

from motherbird.errors import ParityError
from motherbird.export.certificate import (
    CASES,
    Agreement,
    Case,
    cases,
    check,
    compare,
    padded,
    reference,
)
from motherbird.nn import Encoder


def outputs(*documents):
    """A run that gives these, whatever it is asked."""
    return lambda ids: {"x": [np.array(d, np.float32) for d in documents]}


def one(a, b):
    """The agreement of one document's outputs."""
    (case,) = compare(outputs(a), outputs(b), [(len(a),)], 10)
    assert case.packed == case.one_by_one
    return case.packed


def test_agreement_is_the_worst_of_all_rows():
    found = one([[3, 4], [1, 0], [0, -2]], [[3, 4.5], [1, 0], [-2, 0]])
    assert found.difference == 2 and found.largest == 4
    assert found.cosine == pytest.approx(0, abs=1e-7)


def test_agreement_of_pooled_rows_and_of_numbers():
    assert one([3, 4], [4, 3]).cosine == pytest.approx(24 / 25)
    assert one([[1], [-1]], [[1.5], [1]]) == Agreement(2.0, None, 1.0)


def test_rows_of_zeros_agree_with_each_other_only():
    assert one([[0, 0]], [[0, 0]]).cosine == 1
    assert math.isnan(one([[0, 0]], [[1, 0]]).cosine)


@pytest.mark.parametrize("size", [300, 1000])
def test_every_row_is_compared(size):
    a = np.ones((size, 2))
    for row in (0, 255, 256, size - 1):
        b = a.copy()
        b[row] = -1
        found = one(a, b)
        assert (found.difference, found.largest) == (2, 1)
        assert found.cosine == pytest.approx(-1)


@pytest.mark.parametrize("place", [0, 1, 2])
def test_nan_anywhere_is_seen(place):
    documents = [[[1.0, 2.0]], [[3.0, 4.0]], [[5.0, 6.0]]]
    bad = [[row[:] for row in d] for d in documents]
    bad[place][0][1] = math.nan
    (case,) = compare(
        lambda ids: outputs(*documents[: len(ids)])(ids),
        lambda ids: outputs(*bad[: len(ids)])(ids),
        [(1, 1, 1)],
        10,
    )
    assert math.isnan(case.packed.difference)
    with pytest.raises(ParityError, match="nan"):
        check([case], "int8", "file")


def test_another_shape_is_no_agreement():
    assert math.isnan(one([[1, 2], [3, 4]], [[1, 2]]).difference)
    assert math.isnan(one([[1, 2]], [[1, 2, 3]]).difference)


def case(difference=0.0, cosine=1.0, largest=1.0):
    good = Agreement(0.0, 1.0, largest)
    return [
        Case((5,), "x", good, good),
        Case((7, 3), "x", good, Agreement(difference, cosine, largest)),
    ]


def test_check():
    assert check(case(9e-5), "float32", "file") == Agreement(9e-5, 1.0, 1.0)
    assert check(case(9e-4, largest=10.0), "float32", "file").difference == 9e-4
    assert check(case(9e-5, largest=1e-3), "float32", "file").difference == 9e-5
    assert check(case(0.4, 0.85), "int8", "file") == Agreement(0.4, 0.85, 1.0)
    assert check(case(cosine=None), "float32", "file").cosine == 1.0


@pytest.mark.parametrize(
    ("bad", "dtype"),
    [
        (dict(difference=2e-4), "float32"),
        (dict(difference=math.nan), "float32"),
        (dict(cosine=0.999), "float32"),
        (dict(cosine=math.nan), "float32"),
        (dict(cosine=math.nan, largest=math.nan), "int8"),
        (dict(difference=math.inf), "int8"),
        (dict(cosine=0.79), "int8"),
    ],
    ids=str,
)
def test_check_refuses(bad, dtype):
    with pytest.raises(ParityError, match="exported x .*file, one by one, documents of 7, 3 tok"):
        check(case(**bad), dtype, "file")


def test_cases_are_those_of_the_documentation():
    assert cases(8192, 768) == list(CASES)
    assert cases(2**20, 50_368)[-1] == (8192,)
    assert cases(512, 768) == [(1,), (64, 65), (129, 129), (300, 150, 60), (512, 4), (512,)]
    assert cases(1, 768) == [(1,), (1, 1), (1, 1, 1)]
    (longest,) = cases(8192, 256_000)[-1]
    assert longest * 256_000 * 4 <= 2**31 < (longest + 1) * 256_000 * 4


def test_padded_documents_come_back_without_padding():
    seen = []

    def infer(inputs):
        seen.append(inputs)
        numbers = inputs["input_ids"].astype(np.float32)
        return {"tokens": numbers[..., None], "pooled": numbers[:, :1]}

    result = padded(infer, 9)([[1, 2, 3], [4]])
    assert seen[0]["input_ids"].tolist() == [[1, 2, 3], [4, 9, 9]]
    assert seen[0]["attention_mask"].tolist() == [[1, 1, 1], [1, 0, 0]]
    assert {x.dtype for x in seen[0].values()} == {np.dtype(np.int64)}
    assert [x.tolist() for x in result["tokens"]] == [[[1], [2], [3]], [[4]]]
    assert [x.tolist() for x in result["pooled"]] == [[1], [4]]


def test_packed_and_one_by_one_are_run_apart(toy):
    """Each document is also alone on both sides, and the documents are the same for all."""
    calls = []

    def theirs(documents):
        calls.append(documents)
        return reference(exportable(model))(documents)

    model, told = Encoder(toy).eval(), []
    found = compare(
        reference(exportable(model)), theirs, [(3, 5), (2,)], toy.vocab_size, told.append
    )
    assert [list(map(len, documents)) for documents in calls] == [[3, 5], [3], [5], [2]]
    assert [calls[0][0]] == calls[1] and [calls[0][1]] == calls[2]
    assert told == [8, 2] and [c.lengths for c in found] == [(3, 5), (2,)]
    assert all(c.packed.difference < 1e-5 and c.one_by_one.difference == 0 for c in found)
