"""Fill the masks of a dozen sentences and a dozen lines of code.

    python benchmarks/fills.py MODEL [--out FILE.json]

Each has one answer that most readers would give. The report counts how often it is the first
candidate or among the first five; white space and case are ignored.
"""

import argparse
from pathlib import Path

from common import finish, machine

from motherbird import MaskedLM

SENTENCES = (
    ("The capital of France is [MASK].", "Paris"),
    ("The sun rises in the [MASK] and sets in the west.", "east"),
    ("He opened the [MASK] and walked into the room.", "door"),
    ("Water freezes at zero [MASK] Celsius.", "degrees"),
    ("She was born in 1912 and [MASK] in 1987.", "died"),
    ("There are seven days in a [MASK].", "week"),
    ("The king and the [MASK] sat on their thrones.", "queen"),
    ("I have never [MASK] anything like it before.", "seen"),
    ("The results of the experiment are shown in [MASK] 2.", "Table"),
    ("It is one of the [MASK] cities in the world.", "largest"),
    ("They went home because it was too [MASK] to work outside.", "cold"),
    ("The company was founded [MASK] 1998.", "in"),
)
CODE = (
    ("import [MASK] as np", "numpy"),
    ("for i in [MASK](len(items)):", "range"),
    ("def __init__([MASK], name):", "self"),
    ("if value is [MASK] None:", "not"),
    ("with open(path) [MASK] file:", "as"),
    ("return [x for x in values [MASK] x > 0]", "if"),
    ("    except [MASK] as error:", "Exception"),
    ("raise [MASK]('the value is negative')", "ValueError"),
    ("while [MASK]:\n    line = read()\n    if not line:\n        break", "True"),
    ("from collections import [MASK]\ncounts = defaultdict(int)", "defaultdict"),
    ("function add(a, b) { [MASK] a + b; }", "return"),
    ("const total = items.[MASK]((item) => item.price);", "map"),
)


def main() -> None:
    """Fill the masks; print and write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("model")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    model = MaskedLM.load(options.model, dtype="auto")
    report: dict[str, object] = {
        "command": "python benchmarks/fills.py MODEL",
        "machine": machine(),
    }
    for kind, examples in (("sentences", SENTENCES), ("code", CODE)):
        rows = []
        for text, answer in examples:
            [candidates] = model.fill(text, 5)
            given = [candidate.text.strip() for candidate in candidates]
            near = [each.lower() for each in given]
            place = near.index(answer.lower()) + 1 if answer.lower() in near else None
            rows.append({"text": text, "answer": answer, "given": given, "place": place})
        report[kind] = {
            "first": sum(row["place"] == 1 for row in rows),
            "in five": sum(row["place"] is not None for row in rows),
            "of": len(rows),
            "each": rows,
        }
    finish(report, options.out)


if __name__ == "__main__":
    main()
