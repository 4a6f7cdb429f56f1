"""Speed of the data engine, compared with tokenizers.encode_batch, on real text.

    python benchmarks/data_speed.py CORPUS TOKENIZER [--decontaminate PATH] [--out FILE.json]

CORPUS is an output of `motherbird data build`. 100 MB of its documents, chosen at random, are

1. encoded by `encode_batch` (tokenizers, all cores, batches of 1,000 texts), and prepared by
   `motherbird prepare` (tokens, packing for 1,024 and 8,192, writing, hashing), in turns;
2. cleaned from .jsonl files with all filters: language, letters, long lines, overlap with
   evaluation sets, equal and near-duplicates; on all cores;
3. loaded by the data loader with 30% masking, in one thread.
"""

import argparse
import json
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

from common import finish, machine

from motherbird import tokenizer as load_tokenizer
from motherbird.data import corpus as corpora
from motherbird.data.corpus import Corpus
from motherbird.data.loader import Cursor, Loader, RowFilter, masking_of
from motherbird.data.mixture import Mixture, Source
from motherbird.data.prepare import prepare

MEGABYTES = 100


def timed(work: Callable[[], object]) -> float:
    """Return the seconds that a function takes."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def sample(corpus: Corpus, megabytes: float) -> list[str]:
    """Return a random sample of the texts, in order."""
    total = sum(tally.kept.bytes for tally in corpus.about.sources.values())
    rng = random.Random(0)
    fraction = megabytes * 1e6 / total
    return [document.text for document in corpus if rng.random() < fraction]


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

        def encode() -> None:
            for i in range(0, len(texts), 1000):
                backend.encode_batch(texts[i : i + 1000], add_special_tokens=False)

        def prepare_all() -> None:
            prepare(plain.directory, options.tokenizer, folder / "set", [1024, 8192])

        times: dict[str, list[float]] = {"encode_batch": [], "prepare": []}
        for _ in range(options.repeats):
            times["encode_batch"].append(timed(encode))
            times["prepare"].append(timed(prepare_all))
        rates = {key: size / statistics.median(value) for key, value in times.items()}
        report["mb_per_s"] = rates
        report["prepare_relative_to_encode_batch"] = rates["prepare"] / rates["encode_batch"]

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
                made, RowFilter(length), Cursor(0), masking_of(made, 0.3), lambda _, n=rows: n
            )
            batches = iter(loader)
            next(batches)
            runs = []
            for _ in range(5):
                start = time.perf_counter()
                tokens = sum(len(batch.ids) for batch in islice(batches, 40))
                runs.append(tokens / (time.perf_counter() - start))
            report["loader_tokens_per_s"][length] = statistics.median(runs)

    report["seconds"] = times
    finish(report, options.out)


if __name__ == "__main__":
    main()
