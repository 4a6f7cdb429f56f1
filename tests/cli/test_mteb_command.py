"""``motherbird evaluate mteb``, on a task that is built here."""

import json

import pytest
from retrieval_set import write_set

from motherbird.retrieval.sets import read_set

mteb = pytest.importorskip("mteb")


@pytest.fixture
def data(tmp_path):
    return write_set(tmp_path / "animals")


@pytest.fixture
def task(data, monkeypatch):
    """The small retrieval set as a task of mteb."""
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    animals = read_set(data, "test")

    class Animals(AbsTaskRetrieval):
        metadata = TaskMetadata(
            name="Animals", description="Animals and food.", type="Retrieval",
            dataset={"path": "example/animals", "revision": "1"}, eval_langs=["eng-Latn"],
            eval_splits=["test"], main_score="ndcg_at_10", modalities=["text"], category="t2t",
        )  # fmt: skip

        def load_data(self, num_proc=None, **options):
            names = animals.document_ids
            asked = animals.query_ids
            relevant = {
                query: {names[n]: grade for n, grade in own.items()}
                for query, own in zip(asked, animals.relevant, strict=True)
            }
            self.dataset = {"default": {"test": {
                "corpus": Dataset.from_dict({"id": names, "text": animals.documents}),
                "queries": Dataset.from_dict({"id": asked, "text": animals.queries}),
                "relevant_docs": relevant, "top_ranked": None,
            }}}  # fmt: skip
            self.data_loaded = True

    real = mteb.get_task
    monkeypatch.setattr(mteb, "get_task", lambda n: Animals() if n == "Animals" else real(n))


@pytest.mark.parametrize("mode", ["dense", "late"])
def test_scores_are_ours(motherbird, task, data, model, late, tmp_path, mode):
    """And the results are where mteb looks for them."""
    name = {"dense": model, "late": late}[mode]
    options = ("--model", name, "--mode", mode, "--json", "--dtype", "float32")
    ours = motherbird("evaluate", "retrieval", "--data", data, *options).done().json
    call = ("evaluate", "mteb", "--tasks", "Animals", "--out", tmp_path / "results", *options)
    result = motherbird(*call)
    assert result.code == 0, result
    found = result.json
    assert list(found["tasks"]) == ["Animals"] and found["mode"] == mode
    assert found["mean"] == pytest.approx(ours["mean"][mode]["nDCG@10"], abs=1e-5)
    [file] = (tmp_path / "results").rglob("Animals.json")
    [scores] = json.loads(file.read_text())["scores"]["test"]
    assert scores["ndcg_at_10"] == found["mean"]


@pytest.mark.parametrize(
    ("names", "says", "code"),
    [
        ("Anmals", "mteb has no task 'Anmals': use names of mteb", 2),
        ("STS12", "the task STS12 is not about the retrieval of texts", 2),
        ("NanoSciFactRetrieval", "cannot be downloaded: .*NanoSciFactRetrieval: .*the Hugging", 1),
        ("", "--tasks", 2),
    ],
)
def test_refused(motherbird, model, tmp_path, names, says, code):
    call = ("evaluate", "mteb", "--model", model, "--out", tmp_path / "results")
    motherbird(*call, "--tasks", names).refused(says, code=code)
