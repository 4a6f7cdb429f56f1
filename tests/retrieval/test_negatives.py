"""Hard negatives against plain loops, by words and by vectors."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from motherbird import InputError
from motherbird.data.pairs import Pairs
from motherbird.retrieval.negatives import Search, mine, read_corpus


def of(rows):
    queries, answers = [query for query, _ in rows], [[text] for _, text in rows]
    return Pairs(queries, answers, [], [f"a:{n}" for n in range(len(rows))])


@pytest.fixture
def by():
    """A model that knows the vector of each text."""

    def embed(table):
        return lambda texts, kind: np.array([table[text] for text in texts], np.float32)

    return embed


TABLE = {"q": [1, 0], "r": [0, 1], "a": [0.8, 0.6], "b": [0.78, 0.62], "c": [0.6, 0.8],
         "d": [0, 1], "e": [0.9, 0.1]}  # fmt: skip


def test_ranks_count_and_margin(by):
    pairs, embed = of([("q", "a"), ("r", "d")]), by(TABLE)
    # For q the ranking is e, a, b, c, d.
    found = mine(pairs, ["b", "c", "e"], Search(2, 1, 50, 0.99), embed)
    assert found.negatives[0] == ["b", "c"]
    assert (found.candidates, found.fewer, found.none, found.above_margin) == (5, 0, 0, 1)
    assert mine(pairs, ["b", "c", "e"], Search(2, 1), embed).negatives[0] == ["c", "d"]
    assert mine(pairs, ["b", "c", "e"], Search(1, 1, 50, 2.0), embed).negatives[0] == ["e"]
    assert mine(pairs, ["b", "c", "e"], Search(4, 2, 4, 2.0), embed).negatives[0] == ["b", "c"]
    few = mine(pairs, [], Search(4, 1), embed)
    assert few.negatives == [["d"], ["a"]] and (few.fewer, few.none) == (2, 0)
    none = mine(of([("q", "a")]), [], Search(), embed)
    assert none.negatives == [[]] and (none.fewer, none.none) == (1, 1)


def test_every_answer_of_a_query_and_the_query_itself_are_left_out(by):
    pairs = of([("q", "a"), ("Q ", "b"), ("r", "d")])
    table = TABLE | {"A  a": [0.7, 0.7], "Q ": [1, 0]}
    found = mine(pairs, ["q", "c", "B"], Search(9, 1, 50, 9.0), by(table | {"B": [1, 0]}))
    assert found.negatives == [["c", "d"], ["c", "d"], ["c", "b", "a", "q"]]
    assert found.candidates == 5  # "b" and "B" are one


def test_cosines_below_zero(by):
    table = {"q": [1, 0], "a": [-0.2, 1], "b": [-0.195, 1], "c": [-0.9, 1]}
    found = mine(of([("q", "a")]), ["b", "c"], Search(9, 1), by(table))
    assert found.negatives == [["c"]]


@given(
    scores=st.lists(st.lists(st.integers(-4, 4), min_size=6, max_size=6), min_size=6, max_size=6),
    first=st.integers(1, 3), more=st.integers(0, 5), margin=st.sampled_from([0.5, 0.95, 1.0, 3.0]),
)  # fmt: skip
def test_as_a_plain_loop(scores, first, more, margin):
    names = [f"d{n}" for n in range(6)]
    table = {f"q{n}": row for n, row in enumerate(scores)}
    table |= {name: np.eye(6)[n] for n, name in enumerate(names)}

    def embed(texts, kind):
        return np.array([table[text] for text in texts], np.float32)

    pairs = of([(f"q{n % 5}", names[n]) for n in range(6)])  # q0 has two answers
    search = Search(2, first, first + more, margin)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("motherbird.retrieval.negatives.SCORES", 12)  # 2 queries at once
        patch.setattr("motherbird.retrieval.negatives.BATCH", 4)
        found = mine(pairs, [], search, embed)
    for row, own in enumerate(found.negatives):
        mine_, values = row % 5, scores[row % 5]
        limit = values[row] * (margin if values[row] > 0 else 1)
        answers = {n for n in range(6) if n % 5 == mine_}
        assert not answers & {names.index(name) for name in own} and len(own) <= 2
        kept = [values[names.index(name)] for name in own]
        assert kept == sorted(kept, reverse=True) and all(value <= limit for value in kept)
        # Which of equal scores have a rank is not said.
        if len({*values}) == 6:
            order = sorted(range(6), key=lambda n: -values[n])[first - 1 : first + more]
            right = [n for n in order if n not in answers and values[n] <= limit]
            assert own == [names[n] for n in right[:2]]


def test_words():
    pytest.importorskip("bm25s")
    pairs = of([
        ("how do bees make honey", "Bees make honey of nectar, and honey is sweet."),
        ("where do cows live", "Cows live on farms."),
        ("zebra", "An animal with stripes."),
    ])  # fmt: skip
    corpus = ["Honey bees.", "Bees live in hives, not on farms.", "and the of"]
    found = mine(pairs, corpus, Search(9, 1, 50, 0.95))
    assert found.candidates == 6
    assert found.negatives[0] and {*found.negatives[0]} <= {*corpus[:2]}
    assert found.negatives[1] == [corpus[1]]
    assert found.negatives[2] == [] and found.none == 1  # no text has the word
    for (_, answer), own in zip(zip(pairs.queries, pairs.documents, strict=True), found.negatives,
                                strict=True):  # fmt: skip
        assert answer[0] not in own


def test_documents_without_words():
    pytest.importorskip("bm25s")
    found = mine(of([("the", "and of"), ("?", "!")]), [], Search())
    assert found.negatives == [[], []] and found.none == 2


def test_ranks():
    with pytest.raises(InputError, match="--to-rank 1 is before --from-rank 2"):
        Search(last_rank=1)


def test_a_corpus(tmp_path):
    def write(rows):
        path = tmp_path / "corpus.jsonl"
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        return path

    rows = [{"_id": "1", "title": "Bees", "text": "Honey."}, {"title": "", "text": "b"},
            {"text": " "}, {"positive": "c"}]  # fmt: skip
    assert read_corpus(write(rows)) == ["Bees Honey.", "b", "c"]
    with pytest.raises(InputError, match="no column is called text, positive.*:1: rename"):
        read_corpus(write([{"a": "b"}]))
    with pytest.raises(InputError, match='"text" is not a text: .*:1'):
        read_corpus(write([{"text": 3}]))
