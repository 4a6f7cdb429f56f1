"""Tokens that tokenizers need for packages that no mixture of ours contains.

    python benchmarks/tokenizer_efficiency.py TOKENIZER --compare FILE [--out FILE.json]

Python sources of those installed packages that are reserved for evaluation (numpy, scipy, networkx,
scikit-learn, pandas, xarray, statsmodels, scikit-image), 150 files of each, by chance. Figures on
documents held out of a mixture are in the report.json of `motherbird tokenizer train`.
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
    """Python sources of an installed package; none where it is not there."""
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
    contenders = {"motherbird": load_tokenizer(options.tokenizer)}
    contenders |= {path.name.split(".")[0]: load_tokenizer(path) for path in options.compare}
    packages: dict[str, dict[str, int]] = {}
    for package in RESERVED:
        texts = sources(package)
        if texts:
            packages[package] = {"bytes": sum(len(text.encode()) for text in texts)} | {
                name: sum(
                    len(each.ids)
                    for each in tokenizer.backend.encode_batch_fast(texts, add_special_tokens=False)
                )
                for name, tokenizer in contenders.items()
            }
    total = {key: sum(each[key] for each in packages.values()) for key in ("bytes", *contenders)}
    ratios = {name: total["motherbird"] / total[name] for name in contenders}
    finish({"packages": packages, "total": total, "motherbird_beside": ratios}, options.out)


if __name__ == "__main__":
    main()
