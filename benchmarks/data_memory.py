"""Peak memory of building and preparing a corpus, and how it grows with the number of documents.

    python benchmarks/data_memory.py CORPUS TOKENIZER [--out FILE.json]

CORPUS is an output of `motherbird data build` of about 1 GB. Its text is cleaned again (including
near-duplicates, on all cores) and prepared for rows of 1,024 and 8,192, and so are 400,000
generated documents of a few words. Memory is the sum of the resident memory of a process and its
children, sampled every 50 ms, in MB; shared pages are counted for each process. Linux only.
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from common import finish, machine

from motherbird.data.corpus import Corpus

SHORT = 400_000
BUILD = """
import sys
from motherbird.data.corpus import build
from motherbird.data.mixture import Mixture, Source
source = Source("text", path=sys.argv[1], files=("*.jsonl.zst", "*.jsonl"))
build(Mixture((source,), near_duplicates=0.7), sys.argv[2])
"""
PREPARE = """
import sys
from motherbird.data.prepare import prepare
prepare(sys.argv[1], sys.argv[2], sys.argv[3], [1024, 8192], held_out=0.005)
"""
IMPORT = "import motherbird.data.prepare"


def resident(process: int) -> int:
    """Return the resident bytes of a process and its children."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
        children = Path(f"/proc/{process}/task/{process}/children").read_text().split()
    except (OSError, IndexError):
        return 0
    return 4096 * pages + sum(resident(int(child)) for child in children)


def peak(code: str, *arguments: str | Path) -> float:
    """Return the peak memory in MB while the code runs."""
    process = subprocess.Popen([sys.executable, "-c", code, *map(str, arguments)])
    most = 0
    while process.poll() is None:
        most = max(most, resident(process.pid))
        time.sleep(0.05)
    if process.returncode:
        raise SystemExit(process.returncode)
    return most / 1e6


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        short = folder / "short"
        short.mkdir()
        with (short / "short.jsonl").open("w", encoding="utf-8") as file:
            for number in range(SHORT):
                file.write(json.dumps({"text": f"Document {number:x} says {number}."}) + "\n")
        peaks = {
            "import": peak(IMPORT),
            "build, short": peak(BUILD, short, folder / "a"),
            "prepare, short": peak(PREPARE, folder / "a", options.tokenizer, folder / "b"),
            "build": peak(BUILD, options.corpus, folder / "c"),
            "prepare": peak(PREPARE, options.corpus, options.tokenizer, folder / "d"),
        }
    kept = [tally.kept for tally in Corpus(options.corpus).about.sources.values()]
    report = {
        "machine": machine(),
        "corpus_mb": sum(count.bytes for count in kept) / 1e6,
        "documents": sum(count.documents for count in kept),
        "short_documents": SHORT,
        "peak_mb": peaks,
        "kb_per_short_document": {
            step: (peaks[f"{step}, short"] - peaks["import"]) * 1000 / SHORT
            for step in ("build", "prepare")
        },
    }
    finish(report, options.out)


if __name__ == "__main__":
    main()
