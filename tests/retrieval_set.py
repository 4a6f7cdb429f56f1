"""A small retrieval set."""

import json
from pathlib import Path

DOCUMENTS = {
    "d1": ("Bees", "Bees make honey from nectar."), "d2": ("", "A hive is the home of bees."),
    "d3": ("Cheese", "Cheese is made from milk."), "d4": ("", "Goats and cows give milk."),
    "d5": ("", ""),
}  # fmt: skip
QUERIES = {"q1": "how is honey made", "q2": "where does milk come from", "q3": "unjudged"}
JUDGED = [("q1", "d1", 2), ("q1", "d2", 1), ("q2", "d4", 1), ("q2", "d1", 0), ("q3", "d3", 0)]


def write_set(folder: Path) -> Path:
    (folder / "qrels").mkdir(parents=True)
    with (folder / "corpus.jsonl").open("w") as file:
        for key, (title, text) in DOCUMENTS.items():
            file.write(json.dumps({"_id": key, "title": title, "text": text}) + "\n")
    with (folder / "queries.jsonl").open("w") as file:
        for key, text in QUERIES.items():
            file.write(json.dumps({"_id": key, "text": text}) + "\n")
    rows = ["query-id\tcorpus-id\tscore", *("\t".join(map(str, row)) for row in JUDGED)]
    (folder / "qrels" / "test.tsv").write_text("\n".join(rows) + "\n")
    return folder
