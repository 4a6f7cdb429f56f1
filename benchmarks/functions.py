"""Write functions and classes with their docstrings, as text for masked-LM.

    python benchmarks/functions.py PAIRS --out functions.jsonl [--share 0.4]

PAIRS is a file of `motherbird data pairs --kind docstring`, whose documents have no docstrings.
"""

import argparse
import ast
import json
import random
import warnings
from pathlib import Path

from motherbird.files import write_text


def with_docstring(code: str, docstring: str) -> str | None:
    """Return a definition with its docstring; None if that is not valid Python."""
    try:
        node = ast.parse(code).body[0]
        first = node.body[0]  # type: ignore[attr-defined]
        decorators = [each.lineno for each in getattr(first, "decorator_list", ())]
        at = min([first.lineno, *decorators]) - 1
        lines = code.split("\n")
        text = "\n".join([*lines[:at], f'{" " * first.col_offset}"""{docstring}"""', *lines[at:]])
        found = ast.get_docstring(ast.parse(text).body[0])  # type: ignore[arg-type]
    except (SyntaxError, ValueError, IndexError, AttributeError, TypeError, RecursionError,
            MemoryError):  # fmt: skip
        return None
    return text if found else None


def main() -> None:
    """Write a random share of the definitions."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("pairs", type=Path)
    parser.add_argument("--share", type=float, default=0.4)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    warnings.simplefilter("ignore")  # those about the code
    draw, found = random.Random(0), []
    with options.pairs.open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            if draw.random() < options.share:
                found.append(with_docstring(row["positive"], row["query"]))
    lines = [json.dumps({"text": text}) + "\n" for text in found if text is not None]
    write_text(options.out, "".join(lines))
    print(f"{options.out}: {len(lines):,} definitions")


if __name__ == "__main__":
    main()
