"""Long documents: windows of a dense model, and passages whose best one counts."""

import numpy as np
import pytest

from motherbird import Embedder, InputError
from motherbird.engine.maxsim import maxsim
from motherbird.nn import Encoder
from motherbird.retrieval.embedders import open_embedder
from motherbird.retrieval.evaluate import evaluate
from motherbird.retrieval.measure import measure
from motherbird.retrieval.passages import by_tokens, by_words, open_divide
from motherbird.retrieval.ranking import Ranking, by_vectors
from motherbird.retrieval.ranking import by_tokens as ranked_by_tokens
from motherbird.retrieval.sets import RetrievalSet

SHORT = "A hive is the home of bees."


@pytest.fixture
def long(prose):
    return prose[2][prose[2].index("JSON") :][:3000]


@pytest.mark.parametrize("include_prompt", [True, False])
@pytest.mark.parametrize("pooling", ["mean", "cls"])
def test_windows_are_averaged(base, long, pooling, include_prompt):
    """Equal windows without overlap, each with special tokens and prompt."""
    encoder = Encoder.load(base, dtype="float32")
    prompts = {"document": "document: "}
    embedder = Embedder(encoder, pooling, prompts, include_prompt=include_prompt)
    tokenizer, limit = embedder.tokenizer, 100
    for name, prompt in ((None, ""), ("document", "document: ")):
        before, after = tokenizer.template_ids()
        head = tokenizer.encode(prompt.rstrip() or "")[: -len(after)]
        ids = tokenizer.encode(prompt + long)
        assert ids[: len(head)] == head and len(ids) > 4 * limit
        body = ids[len(head) : -len(after)]
        count = -(-len(body) // (limit - len(head) - len(after)))
        cuts = [len(body) * n // count for n in range(count + 1)]
        parts = [body[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]
        assert max(map(len, parts)) - min(map(len, parts)) <= 1
        vectors = embedder.embed_ids([[*head, *part, *after] for part in parts], normalize=False,
                                     left_out=embedder.left_out(name))  # fmt: skip
        mean = np.average(vectors, axis=0, weights=[len(part) for part in parts])
        options = {"prompt_name": name, "max_length": limit, "windows": True}
        raw = embedder.embed([SHORT, long], normalize=False, **options)
        np.testing.assert_allclose(raw[1], mean, rtol=1e-5, atol=1e-6)
        [found] = embedder.embed([long], normalize=True, truncate_dim=20, **options)
        np.testing.assert_allclose(found, mean[:20] / np.linalg.norm(mean[:20]), rtol=1e-4,
                                   atol=1e-6)  # fmt: skip


def test_short_texts_have_the_same_bits(base, long):
    embedder = Embedder.load(base)
    texts = [SHORT, "Cows", long[:200]]
    plain = embedder.embed(texts)
    np.testing.assert_array_equal(embedder.embed(texts, windows=True), plain)
    mixed = embedder.embed([*texts, long], max_length=200, windows=True)
    np.testing.assert_array_equal(mixed[:3], plain)
    assert embedder.embed([], windows=True).shape == (0, embedder.size)


def test_windows_are_refused(base, long):
    embedder = Embedder.load(base)
    with pytest.raises(InputError, match="truncate and windows exclude each other"):
        embedder.embed([long], windows=True, truncate=True)
    with pytest.raises(InputError, match="the prompt leaves no room for text within 12 tokens"):
        embedder.embed([long], windows=True, prompt=SHORT * 3, max_length=12)


def test_passages_of_tokens(small_tokenizer, long):
    before, after = small_tokenizer.template_ids()
    special = len(before) + len(after)
    text = long + " \N{GRINNING FACE}" + " \N{ZERO WIDTH SPACE}" * 500
    [passages, [short]] = by_tokens(small_tokenizer, 50)([text, SHORT])
    assert short == SHORT and all(passage in text for passage in passages)
    lengths = [len(small_tokenizer.encode(passage)) - special for passage in passages]
    assert "".join("".join(passages).split()).startswith("".join(long.split()))
    assert all(46 <= length <= 54 for length in lengths[:-2])
    assert not any(passage.strip(" \N{ZERO WIDTH SPACE}") == "" for passage in passages)
    assert passages[0] == text[: len(passages[0])]


def test_passages_of_words():
    assert by_words(2)(["a bc  d\ne f", " g "]) == [["a bc", "d\ne", "f"], [" g "]]


def test_what_divides_for_a_model(base, long, tmp_path):
    tokenizer = Encoder.load(base, dtype="stored").tokenizer
    whole, passages, first = (
        open_divide(str(base), reading, 64) for reading in ("whole", "passages", "first")
    )
    assert whole is None and passages([long]) == by_tokens(tokenizer, 64)([long])
    assert first([long, SHORT]) == [passages([long])[0][:1], [SHORT]]
    with pytest.raises(InputError, match="tokens"):
        open_divide(str(base), "first", 0)


def test_the_best_passage_counts():
    draw = np.random.default_rng(0)
    counts = [1, 3, 2, 1, 4]
    starts = np.cumsum([0, *counts[:-1]])
    queries = draw.integers(-3, 4, (4, 6)).astype(np.float32)
    passages = draw.integers(-3, 4, (11, 6)).astype(np.float32)
    own = [
        [max(q @ p for p in passages[s : s + n]) for s, n in zip(starts, counts, strict=True)]
        for q in queries
    ]
    found = by_vectors(queries, passages, starts)
    np.testing.assert_array_equal(found.documents, np.argsort(-np.array(own), kind="stable"))
    tokens = [draw.integers(-2, 3, (n, 4)).astype(np.float32) for n in draw.integers(1, 5, 11)]
    asked = [draw.integers(-2, 3, (3, 4)).astype(np.float32) for _ in range(4)]
    own = [
        [max(maxsim(q, p) for p in tokens[s : s + n]) for s, n in zip(starts, counts, strict=True)]
        for q in asked
    ]
    for sizes in ((5,), (2, 3)):
        blocks, parts, first = [], [], 0
        for size in sizes:
            some = counts[first : first + size]
            begin = sum(counts[:first])
            blocks.append(tokens[begin : begin + sum(some)])
            parts.append(np.cumsum([0, *some[:-1]]))
            first += size
        found = ranked_by_tokens(asked, iter(blocks), parts)
        order = np.argsort(-np.array(own), axis=1, kind="stable")
        np.testing.assert_array_equal(found.documents, order)


def test_documents_are_read_whole_first_or_in_passages():
    """A vector has a dimension for each letter; the word that is searched stands at the end."""
    filler = "b c d e f g " * 20
    texts = [filler + "z", "", filler + "y " + filler, "h i j " * 30]
    names = [str(n) for n in range(4)]
    data = RetrievalSet("a", "test", names, texts, ["q"], ["z"], [{0: 1}], 0, 1)

    def embed(texts, kind):
        found = np.array([[t.count(c) for c in "abcdefghijklmnopqrstuvwxyz"] for t in texts], "f4")
        return found / np.linalg.norm(found, axis=1, keepdims=True)

    def embed_tokens(texts, kind):
        return [embed(text.split(), kind)[:40] for text in texts]

    def mrr(mode, divide):
        both = {"embed": embed} if mode == "dense" else {"embed_tokens": embed_tokens}
        return evaluate(data, [mode], **both, divide=divide)[mode]["MRR@10"][0]

    divide = by_words(30)
    assert mrr("dense", divide) == mrr("dense", None) == mrr("late", divide) == 1
    ranking = Ranking(np.array([[0, 2, 3]]), np.zeros((1, 3), np.float32))  # all 0: their order
    first = measure(data, ranking)["MRR@10"][0]
    assert mrr("dense", lambda texts: [own[:1] for own in divide(texts)]) == first
    data = RetrievalSet("a", "test", names, texts[::-1], ["q"], ["z"], [{3: 1}], 0, 1)
    assert mrr("dense", divide) == mrr("late", divide) == 1
    assert mrr("dense", lambda texts: [own[:1] for own in divide(texts)]) == 1 / 3
    assert mrr("late", None) == 1 / 3  # the word is behind the tokens that are read


def test_an_embedder_with_windows(base, long):
    embed = open_embedder(str(base), windows=True)
    [vector] = embed([long * 2], "document")
    model = Embedder.load(base)
    np.testing.assert_array_equal(vector, model.embed([long * 2], normalize=True, windows=True)[0])
    assert len(model.tokenizer.encode(long * 2)) > model.max_length
