"""Tokens that tokenizers need for packages that are in none of the mixtures.

    python benchmarks/tokenizer_efficiency.py TOKENIZER --compare FILE [--out FILE.json]

These are 150 random Python files of each installed package that is reserved for evaluation (numpy,
scipy, networkx, scikit-learn, pandas, xarray, statsmodels, scikit-image). Counts on held-out
documents of a mixture are in the report.json of `motherbird tokenizer train`.
"""

import argparse
import random
from importlib.util import find_spec
from pathlib import Path

from common import finish

from motherbird import tokenizer as load_tokenizer
from motherbird.data import readers

RESERVED = ("numpy", "scipy", "networkx", "sklearn", "pandas", "xarray", "statsmodels", "skimage")
FILES = 150


def sources(name: str) -> list[str]:
    """Return Python sources of a package; an empty list if it is not installed."""
    spec = find_spec(name)
    if spec is None or not spec.submodule_search_locations:
        return []
    files = readers.files_of(Path(spec.submodule_search_locations[0]), ["*.py"])
    random.Random(0).shuffle(files)
    found = (item for file in files[:FILES] for item in readers.read_file(file))
    return [item.text for item in found if isinstance(item, readers.Document)]


def main() -> None:
    """Count, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--compare", type=Path, action="append", default=[])
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    compared = {"motherbird": load_tokenizer(options.tokenizer)}
    compared |= {path.name.split(".")[0]: load_tokenizer(path) for path in options.compare}
    packages: dict[str, dict[str, int]] = {}
    for package in RESERVED:
        texts = sources(package)
        if texts:
            packages[package] = {"bytes": sum(len(text.encode()) for text in texts)} | {
                name: sum(
                    len(each.ids)
                    for each in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
                )
                for name, tokenizer in compared.items()
            }
    total = {key: sum(each[key] for each in packages.values()) for key in ("bytes", *compared)}
    ratios = {name: total["motherbird"] / total[name] for name in compared}
    finish({"packages": packages, "total": total, "motherbird_relative_to": ratios}, options.out)


if __name__ == "__main__":
    main()
