"""The metrics of a real set against those of sentence-transformers."""

import numpy as np
import pytest

from motherbird import StaticEmbedder
from motherbird.retrieval.evaluate import evaluate
from motherbird.retrieval.measure import means
from motherbird.retrieval.sets import read_set

pytest.importorskip("ir_measures")


def test_metrics_are_those_of_sentence_transformers(shared, small_tokenizer):
    library = pytest.importorskip("sentence_transformers.sentence_transformer.evaluation")
    table = np.random.default_rng(0).normal(size=(1024, 64)).astype(np.float32)
    static = StaticEmbedder(small_tokenizer.backend, table)
    data = read_set(shared / "data/retrieval/cranfield", "dev")
    found = means(evaluate(data, ["dense"], lambda texts, kind: static.embed(texts))["dense"])

    class Model:
        similarity_fn_name = "cosine"

        class model_card_data:
            @staticmethod
            def set_evaluation_metrics(*values):
                pass

        def encode(self, texts, **options):
            return static.embed(texts)

        encode_query = encode_document = encode

        def similarity(self, one, other):
            import torch

            return torch.from_numpy(np.asarray(one) @ np.asarray(other).T)

    assert {grade for own in data.relevant for grade in own.values()} == {1}  # as theirs has it
    evaluator = library.InformationRetrievalEvaluator(
        dict(zip(data.query_ids, data.queries, strict=True)),
        dict(zip(data.document_ids, data.documents, strict=True)),
        {
            query: {data.document_ids[n] for n in own}
            for query, own in zip(data.query_ids, data.relevant, strict=True)
        },
        ndcg_at_k=[10], mrr_at_k=[10], accuracy_at_k=[10], precision_recall_at_k=[100],
        map_at_k=[10], score_functions={"cosine": Model().similarity}, write_csv=False,
    )  # fmt: skip
    theirs = evaluator(Model())
    assert 0.01 < found["nDCG@10"] < 0.9
    for ours, name in (("nDCG@10", "ndcg@10"), ("MRR@10", "mrr@10"), ("recall@100", "recall@100")):
        assert found[ours] == pytest.approx(theirs[f"cosine_{name}"], abs=5e-5)
