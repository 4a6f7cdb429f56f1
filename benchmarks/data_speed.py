"""Speed and memory of the data engine beside tokenizers.encode_batch, on real text.

    python benchmarks/data_speed.py CORPUS TOKENIZER [--decontaminate PATH] [--out FILE.json]

CORPUS is what `motherbird data build` made. Of its documents, taken by chance, 100 MB are

1. encoded by `encode_batch` alone (tokenizers, all cores, lots of 1,000 texts), and prepared by
   `motherbird prepare` (tokens, packing for 1,024 and 8,192, writing, hashing), in turns;
2. cleaned from a .jsonl file with every filter on: language, letters, long lines, overlap with
   evaluation sets, equal and near-duplicates; on all cores;
3. delivered by the loader with masking at 30%, in one thread.

Memory: the whole CORPUS is prepared in a process of its own, and a made-up one of many short
documents; peak resident memory, with that of an import alone beside it. Linux only.
"""

import argparse
import json
import random
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from common import finish, machine

from motherbird import tokenizer as load_tokenizer
from motherbird.data import corpus as corpora
from motherbird.data.corpus import Corpus
from motherbird.data.loader import Choice, Cursor, Loader
from motherbird.data.mixture import Mixture, Source
from motherbird.data.prepare import prepare
from motherbird.data.show import masking_of

MEGABYTES = 100
PEAK = """
import resource, sys
from pathlib import Path
from motherbird.data.prepare import prepare
if len(sys.argv) > 1:
    prepare(sys.argv[1], sys.argv[2], sys.argv[3], [1024, 8192], held_out=0.005)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)
"""


def timed(work: Callable[[], object]) -> float:
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sample(corpus: Corpus, megabytes: float) -> list[str]:
    """Texts by chance, in their order."""
    whole = sum(tally.kept.bytes for tally in corpus.about.sources.values())
    chance = random.Random(0)
    share = megabytes * 1e6 / whole
    return [document.text for document in corpus if chance.random() < share]


def peak(*arguments: str | Path) -> float:
    """Megabytes that a process needs to prepare a corpus; of the import alone without one."""
    command = [sys.executable, "-c", PEAK, *map(str, arguments)]
    return float(subprocess.check_output(command, text=True))


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("corpus", type=Path)
    parser.add_argument("tokenizer", type=Path)
    parser.add_argument("--decontaminate", action="append", default=[])
    parser.add_argument("--megabytes", type=float, default=MEGABYTES)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    whole = Corpus(options.corpus)
    texts = sample(whole, options.megabytes)
    size = sum(len(text.encode()) for text in texts) / 1e6
    backend = load_tokenizer(options.tokenizer).backend
    report: dict[str, object] = {"machine": machine(), "megabytes": size, "documents": len(texts)}

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        raw = folder / "raw"
        raw.mkdir()
        for number in range(8):
            rows = (json.dumps({"text": text}) + "\n" for text in texts[number::8])
            (raw / f"{number}.jsonl").write_text("".join(rows), encoding="utf-8")
        plain = corpora.build(Mixture(source=(Source("text", path=str(raw)),)), folder / "plain")

        def alone() -> None:
            for i in range(0, len(texts), 1000):
                backend.encode_batch(texts[i : i + 1000], add_special_tokens=False)

        def whole_way() -> None:
            prepare(plain.directory, options.tokenizer, folder / "set", [1024, 8192])

        times: dict[str, list[float]] = {"encode_batch": [], "prepare": []}
        for _ in range(options.repeats):
            times["encode_batch"].append(timed(alone))
            times["prepare"].append(timed(whole_way))
        rates = {key: size / statistics.median(value) for key, value in times.items()}
        report["mb_per_s"] = rates
        report["prepare_beside_encode_batch"] = rates["prepare"] / rates["encode_batch"]

        source = Source("text", path=str(raw), language="en", min_letters=0.3, max_line=100_000)
        mixture = Mixture(
            (source,), near_duplicates=0.7, decontaminate=tuple(options.decontaminate)
        )
        times["clean"] = [timed(lambda: corpora.build(mixture, folder / "clean"))]
        report["clean_mb_per_s"] = size / times["clean"][0]

        made = prepare(plain.directory, options.tokenizer, folder / "set", [1024, 8192])
        report["efficiency"] = {n: about.efficiency for n, about in made.about.lengths.items()}
        report["loader_tokens_per_s"] = {}
        for length in (1024, 8192):
            rows = 65536 // length
            loader = Loader(
                made, Choice(length), Cursor(0), masking_of(made, 0.3), lambda _, n=rows: n
            )
            batches = iter(loader)
            next(batches)
            runs = []
            for _ in range(5):
                start = time.perf_counter()
                tokens = sum(len(batch.ids) for batch in islice(batches, 40))
                runs.append(tokens / (time.perf_counter() - start))
            report["loader_tokens_per_s"][length] = statistics.median(runs)

        many = folder / "many"
        short = folder / "short.jsonl"
        with short.open("w", encoding="utf-8") as file:
            for number in range(400_000):
                file.write(json.dumps({"text": f"Document {number} says hello."}) + "\n")
        corpora.build(Mixture(source=(Source("text", path=str(short)),)), many)
        import_alone = peak()
        peaks = {
            "import": import_alone,
            "corpus": peak(options.corpus, options.tokenizer, folder / "set2"),
            "400,000 short documents": peak(many, options.tokenizer, folder / "set3"),
        }
        report["peak_mb"] = peaks
        report["kb_per_document"] = (peaks["400,000 short documents"] - import_alone) / 400
        report["build_peak_mb"] = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024
        report["corpus_megabytes"] = sum(t.kept.bytes for t in whole.about.sources.values()) / 1e6
    report["seconds"] = times
    finish(report, options.out)


if __name__ == "__main__":
    main()
