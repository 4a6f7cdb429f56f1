"""Reranker: scores and ranks, and which models can rerank."""

import numpy as np
import pytest

from motherbird import InputError, Reranker, Scorer
from motherbird.errors import HeadError
from motherbird.nn import MaskedLM, SequenceClassifier

pytestmark = pytest.mark.usefixtures("no_type_checker")

QUERY = "how is honey made"
DOCUMENTS = ["Bees make honey.", "Cheese is made from milk.", "A hive.", "Goats give milk."]


@pytest.fixture
def folder(toy, small_tokenizer, tmp_path):
    model = SequenceClassifier(toy, ("relevant",))
    model.save(tmp_path / "ranker", tokenizer=small_tokenizer)
    return tmp_path / "ranker"


def test_scores_and_ranks(folder, tmp_path):
    reranker = Reranker.load(folder, dtype="float32")
    scores = reranker.score(QUERY, DOCUMENTS)
    expected = Scorer.load(folder, dtype="float32").score([(QUERY, d) for d in DOCUMENTS])
    assert scores.dtype == np.float32 and (scores == expected).all()
    ranked = reranker.rank(QUERY, iter(DOCUMENTS), 3)
    assert [index for index, _ in ranked] == np.argsort(-scores, kind="stable")[:3].tolist()
    assert ranked[0].score == ranked[0][1] == scores.max()
    assert reranker.score(QUERY, []).shape == (0,) and reranker.rank(QUERY, []) == []
    reranker.save(tmp_path / "again")
    assert (Reranker.load(tmp_path / "again", dtype="float32").score(QUERY, DOCUMENTS)
            == scores).all()  # fmt: skip


def test_models_that_cannot_rerank(toy, small_tokenizer, tmp_path):
    MaskedLM(toy).save(tmp_path / "masked", tokenizer=small_tokenizer)
    with pytest.raises(HeadError, match="cannot score pairs of texts .*ForMaskedLM") as error:
        Reranker.load(tmp_path / "masked")
    assert "\n" not in str(error.value)
    SequenceClassifier(toy, ("no", "yes")).save(tmp_path / "two", tokenizer=small_tokenizer)
    with pytest.raises(HeadError, match="cannot rerank: it predicts 2 labels, no number: .*two"):
        Reranker.load(tmp_path / "two")
    with pytest.raises(InputError, match="scorer is of type NoneType"):
        Reranker(None)


@pytest.mark.parametrize(
    ("query", "documents", "options", "says"),
    [
        ("", DOCUMENTS, {}, "the text is empty: the query"),
        ([QUERY], DOCUMENTS, {}, "the query: call score once for each query"),
        (QUERY, ["a", " "], {}, "the text is empty: text 1"),
        (QUERY, "a", {}, "texts is a string"),
        (QUERY, ["many words " * 400], {}, "the limit is 512: pair 0"),
        (QUERY, ["a"], {"max_length": 0}, "invalid max_length 0"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_what_cannot_be_scored(query, documents, options, says, folder):
    with pytest.raises(InputError, match=says):
        Reranker.load(folder).score(query, documents, **options)
