"""A model with a prompt for queries, and what it computes."""

import pytest
import torch

TEXTS = ["one text", "another text about files", "numbers 1 2 3"]


@pytest.fixture(scope="session")
def model(base, tmp_path_factory):
    from motherbird import Embedder

    embedder = Embedder.load(base, dtype="float32")
    embedder.prompts = {"query": "question: "}
    directory = tmp_path_factory.mktemp("models") / "search"
    torch.manual_seed(0)
    embedder.save(directory)
    return str(directory)


@pytest.fixture
def texts():
    return list(TEXTS)


@pytest.fixture
def wanted(model):
    """The vectors of the texts as documents, and of a query."""
    from motherbird import Embedder

    embedder = Embedder.load(model)
    documents = embedder.embed(TEXTS, normalize=True)
    query = embedder.embed(["files"], prompt_name="query", normalize=True)
    return documents, query[0]
