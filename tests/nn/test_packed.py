"""The batch format: what goes in comes out, in order, without padding."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from motherbird.errors import InputError
from motherbird.nn.packed import pack, repad, unpack, unpad

documents = st.lists(
    st.lists(st.integers(0, 1000), min_size=1, max_size=12), min_size=1, max_size=9
)


@given(documents)
def test_unpack_undoes_pack(docs):
    packed = pack(docs)
    assert [d.tolist() for d in unpack(packed.ids, packed)] == docs
    assert [d.tolist() for d in unpack(packed.positions, packed)] == [
        list(range(len(d))) for d in docs
    ]
    assert [d.tolist() for d in unpack(packed.documents, packed)] == [
        [number] * len(d) for number, d in enumerate(docs)
    ]
    assert packed.lengths == [len(d) for d in docs]
    assert packed.max_seqlen == max(packed.lengths)
    assert packed.cu_seqlens[0] == 0 and packed.cu_seqlens[-1] == len(packed.ids)


def test_worked_example():
    packed = pack([[5, 6, 7], [8], [9, 9]])
    assert packed.ids.tolist() == [5, 6, 7, 8, 9, 9]
    assert packed.positions.tolist() == [0, 1, 2, 0, 0, 1]
    assert packed.cu_seqlens.tolist() == [0, 3, 4, 6]
    assert packed.documents.tolist() == [0, 0, 0, 1, 2, 2]
    assert packed.max_seqlen == 3


@given(documents)
def test_dtypes(docs):
    packed = pack(docs)
    ordered, _ = packed.by_length()
    for p in (packed, ordered, packed.to("cpu")):
        assert p.ids.dtype == p.positions.dtype == torch.int64
        assert p.cu_seqlens.dtype == torch.int32


@given(documents, st.integers(1, 3))
def test_unpack_gives_views_of_any_further_axes(docs, width):
    packed = pack(docs)
    x = torch.rand(len(packed.ids), 2, width)
    parts = unpack(x, packed)
    assert [tuple(p.shape) for p in parts] == [(len(d), 2, width) for d in docs]
    assert torch.equal(torch.cat(parts), x)
    assert all(p.untyped_storage().data_ptr() == x.untyped_storage().data_ptr() for p in parts)


@given(documents, st.sampled_from([0.0, -1.0, float("-inf")]))
def test_repad_holds_every_token_once_and_the_value_elsewhere(docs, value):
    packed = pack(docs)
    x = torch.rand(len(packed.ids), 3) + 1
    twin = repad(x, packed, value)
    assert twin.shape == (len(docs), packed.max_seqlen, 3)
    inside = torch.arange(packed.max_seqlen) < torch.tensor(packed.lengths)[:, None]
    assert torch.equal(twin[inside], x)
    assert (twin[~inside] == value).all()


@given(documents, st.randoms(use_true_random=False))
def test_unpad_takes_the_tokens_wherever_they_stand(docs, random):
    """Right, left, holes, empty rows: the pack is that of the documents ordered by length."""
    width = max(map(len, docs)) + random.randint(0, 3)
    rows = docs + [[] for _ in range(random.randint(0, 2))]
    random.shuffle(rows)
    ids, mask = torch.full((len(rows), width), 7), torch.zeros(len(rows), width, dtype=torch.bool)
    for row, document in enumerate(rows):
        columns = sorted(random.sample(range(width), len(document)))
        ids[row, columns] = torch.tensor(document, dtype=torch.int64)
        mask[row, columns] = True
    packed, indices = unpad(ids, mask)
    wanted = pack(sorted((row for row in rows if row), key=len))
    for one, other in ((packed.ids, wanted.ids), (packed.positions, wanted.positions),
                       (packed.cu_seqlens, wanted.cu_seqlens)):  # fmt: skip
        assert torch.equal(one, other) and one.dtype is other.dtype
    assert packed.max_seqlen == wanted.max_seqlen and packed.by_length()[1] is None
    assert torch.equal(ids.flatten()[indices], packed.ids)
    assert torch.equal(indices.sort().values, mask.flatten().nonzero()[:, 0])


@given(documents)
def test_unpad_undoes_repad(docs):
    packed = pack(sorted(docs, key=len))
    again, _ = unpad(repad(packed.ids, packed), repad(torch.ones_like(packed.ids), packed).bool())
    assert torch.equal(again.ids, packed.ids) and torch.equal(again.cu_seqlens, packed.cu_seqlens)


def test_unpad_refuses_a_batch_of_padding():
    with pytest.raises(InputError, match="nothing to pack"):
        unpad(torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, 3, dtype=torch.bool))


@given(documents)
def test_by_length_orders_and_its_index_restores(docs):
    packed = pack(docs)
    ordered, restore = packed.by_length()
    assert [d.tolist() for d in unpack(ordered.ids, ordered)] == sorted(docs, key=len)  # stable
    assert ordered.positions.tolist() == pack(sorted(docs, key=len)).positions.tolist()
    assert ordered.lengths == sorted(packed.lengths)
    assert ordered.max_seqlen == packed.max_seqlen
    if restore is None:
        assert ordered is packed and packed.lengths == sorted(packed.lengths)
    else:
        assert packed.lengths != sorted(packed.lengths)
        assert torch.equal(ordered.ids[restore], packed.ids)
        assert torch.equal(ordered.positions[restore], packed.positions)


def test_a_pack_is_not_written_to():
    packed = pack([[1, 2], [3]])
    with pytest.raises(AttributeError):
        packed.max_seqlen = 7
