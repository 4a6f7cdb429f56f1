"""From documents to batches: every document once, sorted once."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird.core.batching import check_batch, concatenate, split_by_tokens
from motherbird.core.config import EncoderConfig
from motherbird.errors import InputError
from motherbird.nn import Packed


@given(st.lists(st.integers(1, 60), max_size=30), st.integers(1, 100))
def test_split_by_tokens(lengths, budget):
    batches = split_by_tokens(lengths, budget)
    assert sorted(i for batch in batches for i in batch) == list(range(len(lengths)))
    assert all(batches)
    for batch in batches:
        assert sum(lengths[i] for i in batch) <= budget or len(batch) == 1
        assert [lengths[i] for i in batch] == sorted(lengths[i] for i in batch)
    in_order = [lengths[i] for batch in batches for i in reversed(batch)]
    assert in_order == sorted(lengths, reverse=True)
    # No batch could have taken the longest document of the next one.
    for batch, following in zip(batches, batches[1:], strict=False):
        assert sum(lengths[i] for i in batch) + lengths[following[-1]] > budget


def test_split_by_tokens_worked_example():
    assert split_by_tokens([3, 9, 4, 2, 12], 10) == [[4], [1], [3, 0, 2]]
    assert split_by_tokens([], 10) == []


@given(st.lists(st.integers(1, 60), min_size=1, max_size=30), st.integers(1, 100))
def test_the_encoder_has_nothing_to_sort(lengths, budget):
    for batch in split_by_tokens(lengths, budget):
        packed = Packed.from_arrays(*concatenate([[1] * lengths[i] for i in batch]))
        assert packed.by_length() == (packed, None)


@given(
    st.lists(st.lists(st.integers(0, 2**31 - 1), min_size=1, max_size=9), min_size=1, max_size=9)
)
def test_concatenate(docs):
    ids, cu_seqlens = concatenate(docs)
    assert ids.dtype == cu_seqlens.dtype == np.int32
    assert [d.tolist() for d in np.split(ids, cu_seqlens[1:-1])] == docs
    assert cu_seqlens[0] == 0 and cu_seqlens[-1] == len(ids)


@pytest.mark.parametrize(
    ("docs", "says"),
    [
        ([], "nothing to pack"),
        ([[1], [], [2]], "document 1"),
        ([[]], "document 0"),
        ([[1, 2], [3, -7, 4]], "-7 is not a token id: document 1, token 1"),
        ([[2**31]], "2147483648 is not a token id: document 0, token 0"),
    ],
)
def test_concatenate_refuses(docs, says):
    with pytest.raises(InputError, match=says):
        concatenate(docs)


@pytest.mark.parametrize("budget", [0, -5])
def test_a_budget_that_holds_nothing_is_refused(budget):
    with pytest.raises(InputError, match=str(budget)):
        split_by_tokens([1, 2], budget)


def test_check_batch_names_document_and_token():
    batch = concatenate([[1, 2, 3], [4, 99, 100], [100]])
    special = dict.fromkeys(f"{role}_token_id" for role in ("pad", "bos", "eos", "cls", "sep"))
    config = EncoderConfig(vocab_size=101, max_position_embeddings=3, **special)
    check_batch(*batch, config)
    with pytest.raises(InputError, match=r"id 99 .*document 1, token 1.*0 to 98"):
        check_batch(*batch, replace(config, vocab_size=99))
    with pytest.raises(InputError, match="3 tokens, more than the model's limit of 2: document 0"):
        check_batch(*batch, replace(config, max_position_embeddings=2))
