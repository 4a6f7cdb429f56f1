"""Time and memory of packing, and of opening a prepared dataset, with arithmetic for more tokens.

    python benchmarks/dataset_start.py [--before SRC] [--out FILE.json]

Documents and tokens are generated; the mean document has about 500 tokens. Everything runs in a
process of its own. "peak_mb" is the largest memory above that after the imports, sampled every 10
ms, without pages of mapped files, which the system can drop. "first start" opens a dataset that was
never verified, with
its files out of the page cache; "second start" opens it again. --before measures an earlier version
of motherbird, from its directory src, in the same way. Linux only.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from common import finish, machine

TOKENS = 500_000_000  # 1 GB
SHARD = 16_000_000  # tokens of a file
FILES = 50_000  # in the dataset of many files
TRILLIONS = 2e12
MOST_BEFORE = 10_000_000  # documents that an earlier version packs, with 700 bytes for each

BEGIN = """
import json, sys, threading, time
from pathlib import Path
import numpy as np
from motherbird import files
from motherbird.data import prepared as module
from motherbird.data.prepared import PreparedDataset
try:
    from motherbird.data import packing, verified
    from motherbird.data.packing import DOCUMENT, Selection, packed_rows, write_rows
except ImportError:  # before
    from motherbird.data.prepared import DOCUMENT, packed_rows
    write_rows = None
folder, given = Path(sys.argv[1]), json.loads(sys.argv[2])

def pack(documents, length):
    if write_rows:
        groups = packed_rows(documents, length, Selection(False))
        return write_rows(folder, ("rows.npy", "pieces.npy"), groups).rows
    arrays = packed_rows(documents, length, False)
    for name, array in zip(("rows.npy", "pieces.npy"), arrays):
        files.write_array(folder / name, array)
    return len(arrays[0]) - 1

def generate(count):
    documents = np.lib.format.open_memmap(folder / "documents.npy", "w+", DOCUMENT, (count,))
    for first in range(0, count, 1 << 20):
        block = documents[first : first + (1 << 20)]
        random = np.random.default_rng(first)
        block["tokens"] = np.minimum(random.lognormal(5.7, 1.0, len(block)) + 1, 1e6)
        block["copies"], block["shard"] = 1, first >> 20
        block["hash"] = random.integers(0, 1 << 63, len(block))
    return np.load(folder / "documents.npy", mmap_mode="r")

def memory():
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1e3

def measure(function):
    peaks, done = [memory()], threading.Event()

    def sample():
        while not done.wait(0.01):
            peaks.append(memory())

    sampler = threading.Thread(target=sample)
    sampler.start()
    start = time.perf_counter()
    result = function()
    seconds = time.perf_counter() - start
    done.set()
    sampler.join()
    peak = round(max(peaks) - peaks[0])
    print(json.dumps({"seconds": round(seconds, 3), "peak_mb": peak, "result": result}))
"""

PACK = """
documents = generate(given["documents"])
measure(lambda: pack(documents, given["length"]))
"""

# Groups as small as given, to show that memory does not grow beyond that of one group.
PACK_GROUPS = "packing.GROUP = given['group']\n" + PACK

DATASET = """
import shutil
from dataclasses import asdict
from motherbird.core import hub, tokenizer
from motherbird.data.prepared import DatasetInfo, LengthInfo, SourceInfo
shutil.rmtree(folder, ignore_errors=True)
with files.new_directory(folder, "prepared-text") as fresh:
    loaded = tokenizer.tokenizer(hub.NANO)
    loaded.write_files(fresh, 1024)
    each, left, count = min(given["shard"], given["tokens"]), given["tokens"], given["shards"]
    random = np.random.default_rng(0)
    documents = []
    for shard in range(count):
        random.integers(0, 32_000, each, np.uint16).tofile(fresh / f"tokens-{shard:05}.bin")
        lengths = np.minimum(random.lognormal(5.7, 1.0, max(1, each // 493)) + 1, 1e5).astype(int)
        lengths = lengths[lengths.cumsum() <= each]
        own = np.zeros(len(lengths), DOCUMENT)
        own["shard"], own["tokens"], own["copies"] = shard, lengths, 1
        own["start"] = lengths.cumsum() - lengths
        documents.append(own)
    documents = np.concatenate(documents)
    files.write_array(fresh / "documents.npy", documents)
    folder, home = fresh, folder
    rows = pack(documents, 1024)
    (fresh / "rows.npy").rename(fresh / "rows-1024.npy")
    (fresh / "pieces.npy").rename(fresh / "pieces-1024.npy")
    files.write_array(fresh / "rows-1024-held-out.npy", np.zeros(1, np.int64))
    files.write_array(fresh / "pieces-1024-held-out.npy", np.empty(0, module.PIECE))
    total = int(documents["tokens"].sum())
    info = DatasetInfo(
        "uint16", count, {"text": SourceInfo(len(documents), total, 0, 1.0, {}, 0)},
        {"1024": LengthInfo(rows, 0, 1, 0, 1, 1.0)}, "", 0, 0.0, {},
    )
    (fresh / "set.json").write_text(json.dumps(asdict(info)))
print(json.dumps({"documents": len(documents), "tokens": total}))
"""

EVICT = """
import os
os.sync()
for path in folder.iterdir():
    with path.open("rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
print("{}")
"""
START = """
if "large" in given and "verified" in globals():
    verified.LARGE = given["large"]
measure(lambda: PreparedDataset(folder).about.shards)
"""
FILTER = """
measure(lambda: len(PreparedDataset(folder, verify=False).rows(1024, min_tokens=400)))
"""


def call(code: str, folder: Path, source: Path, cache: Path, **given: object) -> dict[str, float]:
    """Run code in a process that imports motherbird from a directory."""
    environment = {"PYTHONPATH": str(source), "XDG_CACHE_HOME": str(cache)}
    done = subprocess.run(
        [sys.executable, "-c", BEGIN + code, str(folder), json.dumps(given)],
        stdout=subprocess.PIPE, text=True, env=os.environ | environment,
    )  # fmt: skip
    if done.returncode:
        raise SystemExit(done.returncode)
    return json.loads(done.stdout)


def measure(source: Path, folder: Path, counts: list[int], now: bool) -> dict[str, object]:
    """Measure one version of motherbird."""
    cache, found = folder / "cache", {}
    for count in counts:
        for length in (1024, 8192):
            packed = call(PACK, folder, source, cache, documents=count, length=length)
            found[f"pack {count:,} documents, rows of {length:,}"] = packed
    if now:
        for count in counts:
            given = {"documents": count, "length": 1024, "group": 1 << 20}
            packed = call(PACK_GROUPS, folder, source, cache, **given)
            found[f"pack {count:,} documents in groups of {1 << 20:,}"] = packed
    home = folder / "set"
    sizes = {"tokens": TOKENS, "shard": SHARD, "shards": -(-TOKENS // SHARD)}
    found["dataset"] = call(DATASET, home, source, cache, **sizes)
    call(EVICT, home, source, cache)
    # Files that were written in the last 2 seconds are not recorded.
    subprocess.run(["sleep", "3"], check=True)
    found["first start"] = call(START, home, source, cache)
    found["second start"] = call(START, home, source, cache)
    found["selected rows, first"] = call(FILTER, home, source, cache)
    found["selected rows, again"] = call(FILTER, home, source, cache)
    if now:
        small = {"tokens": 32 * FILES, "shard": 32, "shards": FILES}
        call(DATASET, folder / "many", source, cache, **small)
        subprocess.run(["sleep", "3"], check=True)
        for name in ("first", "second"):
            opened = call(START, folder / "many", source, cache, large=0)
            found[f"{name} start with {FILES:,} files"] = opened
    return found


def arithmetic(found: dict[str, dict[str, float]], count: int) -> dict[str, object]:
    """Scale the measurements of this machine to `TRILLIONS` tokens."""
    data = found["dataset"]
    per_document = data["tokens"] / data["documents"]
    files = TRILLIONS / SHARD
    rate = 2 * TOKENS / found["first start"]["seconds"]
    packed = found[f"pack {count:,} documents, rows of 1,024"]["seconds"] / count
    opened = found[f"second start with {FILES:,} files"]["seconds"] / FILES
    documents = TRILLIONS / per_document
    return {
        "tokens": TRILLIONS,
        "bytes": 2 * TRILLIONS,
        "documents": round(documents),
        "files": round(files),
        "first start, hours at the measured bytes/s": round(2 * TRILLIONS / rate / 3600, 2),
        "first start, hours at 5 GB/s": round(2 * TRILLIONS / 5e9 / 3600, 2),
        "second start, minutes": round(files * opened / 60, 2),
        "packing in prepare, minutes": round(documents * packed / 60, 1),
    }


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--documents", default="1000000,10000000,40000000", help="for packing")
    parser.add_argument("--before", type=Path, help="directory src of an earlier version")
    parser.add_argument("--folder", type=Path, help="where 3 GB are free (default: temporary)")
    parser.add_argument("--out", type=Path, help="also write the JSON here")
    options = parser.parse_args()
    counts = [int(count) for count in options.documents.split(",")]
    source = Path(__file__).resolve().parents[1] / "src"
    report: dict[str, object] = {}
    with tempfile.TemporaryDirectory(dir=options.folder) as name:
        after = measure(source, Path(name), counts, now=True)
        if options.before:
            earlier = Path(name) / "before"
            earlier.mkdir()
            few = [count for count in counts if count <= MOST_BEFORE]
            report["before"] = measure(options.before.resolve(), earlier, few, now=False)
    report |= {"after": after, "two trillion tokens": arithmetic(after, counts[-1])}
    finish(report | {"machine": machine()}, options.out)


if __name__ == "__main__":
    main()
