"""Compare small encoders after equal training time: shapes, vocabularies, rows, optimizers, rates.

    python benchmarks/ablations.py --set 32k=DATASET --set 16k=DATASET --out FILE.json [NAME ...]

Every variant is a run of `motherbird pretrain` with a warm-up, a constant rate and a decay over the
last third, within a fixed number of minutes on this machine; its number of steps is determined from
the time of its first steps. The result is the loss on the same held-out documents in rows of 1,024,
15% masked, in nats per byte, so that vocabularies can be compared.

Variants that are in FILE.json are not run again; names select variants. A dataset needs rows of
1,024, and for the variants with short rows also of 256 and 512.
"""

import argparse
import json
import statistics
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from common import finish, machine

from motherbird.data.prepared import PreparedDataset
from motherbird.train import cost, run_log
from motherbird.train.init_weights import initial_config
from motherbird.train.phase import Phase
from motherbird.train.pretrain import pretrain
from motherbird.train.recipe import Evaluate, Geometry, Init, Recipe, Save, Train

SEQ_LEN, MASKING, SEED = 1024, 0.3, 17
EVALUATED = 200_000  # held-out tokens
TRIAL = 6  # steps that are timed; the first two are a warm-up


@dataclass(frozen=True)
class Variant:
    """The name of a dataset, a model shape, and how it is trained."""

    set: str = "32k"
    layers: int = 13
    width: int = 256
    optimizer: str = "stableadamw"
    lr: float = 2e-3
    tokens_a_step: int = 8192
    first_len: int = SEQ_LEN

    def recipe(self, steps: int) -> Recipe:
        """Return the recipe of a run; rows have `first_len` tokens for the first two thirds."""

        def phase(name: str, seq_len: int, steps: int, **more: int) -> Phase:
            return Phase(name, steps * self.tokens_a_step, seq_len, self.tokens_a_step // seq_len,
                         theta=10_000.0, **more)  # fmt: skip

        fall = max(1, steps // 3)
        rise = max(1, steps // 10) * self.tokens_a_step
        last = fall * self.tokens_a_step
        if self.first_len == SEQ_LEN:
            phases = (phase("only", SEQ_LEN, steps, warm_up=rise, decay=last),)
        else:
            phases = (
                phase("short", self.first_len, steps - fall, warm_up=rise),
                phase("full", SEQ_LEN, fall, decay=last),
            )
        return Recipe(
            phases,
            Train(self.lr, masking=MASKING, optimizer=self.optimizer, micro_tokens=4096),
            Geometry("nano", hidden_size=self.width, num_hidden_layers=self.layers,
                     intermediate_size=self.width * 3 // 2, num_attention_heads=self.width // 64,
                     initializer_range=self.width**-0.5, dropout=0.0),
            Init(), Save(every=0), Evaluate(every=0, tokens=EVALUATED), seed=SEED,
        )  # fmt: skip


VARIANTS = {
    "StableAdamW": Variant(),
    "Muon": Variant(optimizer="muon"),
    "Muon, 16k": Variant("16k", optimizer="muon"),
    "Muon, 16k, 7 x 384": Variant("16k", 7, 384, "muon"),
    "Muon, 16k, 22 x 256": Variant("16k", 22, 256, "muon"),
    "Muon, 10 x 320": Variant("32k", 10, 320, "muon"),
    "Muon, 7 x 320": Variant("32k", 7, 320, "muon"),
    "Muon, rows of 256 first": Variant(optimizer="muon", first_len=256),
    "StableAdamW, 7 x 320": Variant("32k", 7, 320),
    "StableAdamW, 7 x 320, 4e-3": Variant("32k", 7, 320, lr=4e-3),
    "Muon, 7 x 320, 1e-3": Variant("32k", 7, 320, "muon", 1e-3),
}


def bytes_per_token(prepared: PreparedDataset) -> float:
    """Return the mean number of bytes per token of the held-out text."""
    rows = prepared.rows(SEQ_LEN, held_out=True)
    ids, _, _ = rows.gather(range(len(rows)))
    special = set(prepared.tokenizer.special_ids)
    text = [i for i in ids.tolist() if i not in special]
    return len(prepared.tokenizer.decode(text).encode()) / len(text)


def measure(variant: Variant, data: Path, minutes: float, work: Path) -> dict[str, Any]:
    """Train a variant, and return its results."""
    trial = work / "trial"
    pretrain(variant.recipe(1000), data, trial, max_steps=TRIAL)
    seconds = statistics.median(line["seconds"] for line in run_log.read(trial)[2:])
    steps = round(minutes * 60 / seconds)
    run = work / "run"
    recipe = variant.recipe(steps)
    pretrain(recipe, data, run)
    log = run_log.read(run)
    evaluation = log[-1]["evaluation"]
    prepared = PreparedDataset(data, verify=False)
    size = bytes_per_token(prepared)
    return {
        "variant": vars(variant),
        "parameters": cost.parameters(initial_config(recipe, prepared)),
        "steps": steps,
        "tokens": sum(line["tokens"] for line in log),
        "minutes": sum(line["seconds"] for line in log) / 60,
        "bytes_per_token": size,
        "evaluation": evaluation,
        "nats_per_byte": evaluation["loss"] / size,
        "losses": [round(line["loss"], 4) for line in log],
    }


def main() -> None:
    """Run the variants that are missing; the file is written after each of them."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("names", nargs="*", help=f"from {', '.join(VARIANTS)}; all by default")
    parser.add_argument("--set", action="append", required=True, metavar="NAME=DIR", dest="sets")
    parser.add_argument("--minutes", type=float, default=10.0)
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args()
    sets = {name: Path(folder) for name, folder in (each.split("=", 1) for each in options.sets)}
    done = json.loads(options.out.read_text())["variants"] if options.out.exists() else {}
    command = f"python benchmarks/ablations.py --minutes {options.minutes:g} --set ... --out FILE"
    for name in options.names or VARIANTS:
        variant = VARIANTS[name]
        if name in done or variant.set not in sets:
            continue
        with tempfile.TemporaryDirectory() as work:
            done[name] = measure(variant, sets[variant.set], options.minutes, Path(work))
        finish({"command": command, "machine": machine(), "variants": done}, options.out)


if __name__ == "__main__":
    main()
