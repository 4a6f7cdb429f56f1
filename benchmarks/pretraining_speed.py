"""Pretraining speed on a CPU: `motherbird pretrain` and two loops over transformers, in turns.

    python benchmarks/pretraining_speed.py DATASET [--model nano|base] [--out FILE.json]

DATASET is prepared for rows of 1,024 tokens. A turn is one step with --rows rows; the next turn has
the next rows. A step is forward, backward and optimizer in bfloat16 (autocast over float32
weights), with two threads, 30% masked, no dropout, and the same initial weights. Every variant is a
process that waits while the others compute; the first turn is a warm-up; results are medians.
Tokens are those of the text, without padding.

- motherbird: `pretrain` with its best micro-batch size, and the seconds in its log.jsonl, which
  include reading rows, masking and logging.
- transformers, padded: ModernBertForMaskedLM on the documents of the rows, sorted by length and
  padded.
- transformers, joined: the text of the rows, joined and split into full rows of 1,024 tokens
  without document boundaries, so there is no padding, but the loss is another one.

Both loops use sdpa, sparse_prediction, and the fastest settings found by a short search: tokens of
a micro-batch, and the optimizer's implementation (torch-optimi's StableAdamW with or without
foreach, or torch's fused AdamW). Their batches are created before the clock starts. torch.compile
is not used.

Shares of the roofline are those of motherbird bench: `flops.flops`, three times for forward and
backward, over `roofline.roofline`, the better of two measurements in this run. The head on the
masked tokens (dense, and the decoder over the vocabulary) is in the second share only.
"""

import argparse
import json
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import torch
from common import finish, machine
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from motherbird import EncoderConfig
from motherbird import machine as this_machine
from motherbird.core import flops
from motherbird.data.loader import Batch, Cursor, Loader, RowFilter, masking_of
from motherbird.data.prepared import PreparedDataset
from motherbird.nn import MaskedLM, roofline
from motherbird.train import run_log
from motherbird.train.optimizer import BETAS, EPS
from motherbird.train.phase import Phase
from motherbird.train.pretrain import pretrain
from motherbird.train.recipe import Evaluate, Geometry, Init, Recipe, Save, Train

SEQ_LEN, MASKING, SEED = 1024, 0.3, 0
LR, DECAY = 1e-4, 1e-5
ROWS = {"nano": 32, "base": 4}  # per turn; three processes at base with 8 need over 24 GiB
SECONDS = 0.3  # per measured matrix product
OURS, PADDED, JOINED = "motherbird", "transformers, padded", "transformers, joined"
Micro = tuple[Tensor, Tensor | None, Tensor]  # ids, attention mask, labels


# --- shared


def batches(data: Path, rows: int) -> Iterator[Batch]:
    """Yield the rows of every turn, in the order of `pretrain` with this seed."""
    prepared = PreparedDataset(data, verify=False)
    masking = masking_of(prepared, MASKING)
    return iter(Loader(prepared, RowFilter(SEQ_LEN), Cursor(SEED), masking, lambda _: rows))


def turn(answer: dict[str, Any] | None = None) -> None:
    """In a worker: print an answer, and wait for the next turn."""
    if answer is not None:
        print(json.dumps(answer), flush=True)
    if not sys.stdin.readline():
        raise SystemExit


# --- motherbird


def ours(options: argparse.Namespace) -> None:
    """Run as a worker with `pretrain`."""

    def recipe(micro_tokens: int) -> Recipe:
        return Recipe(
            (Phase("only", 10**12, SEQ_LEN, options.rows),),
            Train(
                LR, weight_decay=DECAY, masking=MASKING, micro_tokens=micro_tokens,
                dtype="bfloat16", workers=0,
            ),
            Geometry(options.model, dropout=0.0),
            Init(str(options.work / "weights")),
            Save(every=0),
            Evaluate(every=0),
            seed=SEED,
        )  # fmt: skip

    def seconds(micro_tokens: int) -> float:
        """Return the time of the second step."""
        run = options.work / f"run-{micro_tokens}"

        def on_step(_: object) -> None:
            if len(run_log.read(run)) == 2:
                raise InterruptedError

        try:
            pretrain(recipe(micro_tokens), options.set, run, on_step=on_step)
        except InterruptedError:
            return run_log.read(run)[1]["seconds"]
        raise AssertionError("the run ended")

    this_machine.available_mb = lambda: None  # the other processes use memory too
    turn()
    most = options.rows * SEQ_LEN // options.threads
    searched = {n: seconds(n) for n in (1024, 2048, 4096, 8192) if n <= most}
    best = min(searched, key=searched.__getitem__)
    turn({"micro_tokens": best, "searched": searched})
    run = options.work / "run"
    keys = ("seconds", "wait", "tokens", "masked", "loss")
    pretrain(
        recipe(best), options.set, run,
        on_step=lambda _: turn({key: run_log.read(run)[-1][key] for key in keys}),
    )  # fmt: skip


# --- transformers


def padded(batch: Batch, budget: int) -> list[Micro]:
    """Group documents of similar length, at most ``budget`` tokens with their padding."""
    ids, labels = ids_and_labels(batch)
    lengths = batch.lengths.tolist()
    pairs = zip(ids.split(lengths), labels.split(lengths), strict=True)
    groups: list[list[tuple[Tensor, Tensor]]] = []
    for pair in sorted(pairs, key=lambda each: len(each[0]), reverse=True):
        if not groups or (len(groups[-1]) + 1) * len(groups[-1][0][0]) > budget:
            groups.append([])
        groups[-1].append(pair)
    micro: list[Micro] = []
    for group in groups:
        fed, wanted = zip(*group, strict=True)
        mask = pad_sequence([torch.ones_like(each) for each in fed], batch_first=True)
        micro.append(
            (
                pad_sequence(fed, batch_first=True),
                None if bool(mask.all()) else mask,
                pad_sequence(wanted, batch_first=True, padding_value=-100),
            )
        )
    return micro


def joined(batch: Batch, budget: int) -> list[Micro]:
    """Split the text into full rows; an incomplete last row is dropped."""
    rows = len(batch.ids) // SEQ_LEN
    ids, labels = (x[: rows * SEQ_LEN].view(rows, -1) for x in ids_and_labels(batch))
    size = max(1, budget // SEQ_LEN)
    return [(i, None, w) for i, w in zip(ids.split(size), labels.split(size), strict=True)]


def ids_and_labels(batch: Batch) -> tuple[Tensor, Tensor]:
    """Return ids, and labels with -100 for tokens that are not masked."""
    ids = torch.from_numpy(batch.ids)
    labels = torch.full_like(ids, -100)
    labels[torch.from_numpy(batch.positions)] = torch.from_numpy(batch.targets)
    return ids, labels


def model_of(weights: Path) -> torch.nn.Module:
    """Load the model in transformers, with the head on masked tokens only."""
    import transformers

    config = transformers.ModernBertConfig.from_pretrained(weights)
    config.sparse_prediction = True
    model = transformers.ModernBertForMaskedLM.from_pretrained(
        weights, config=config, attn_implementation="sdpa", dtype=torch.float32
    )
    return model.train()


def gradients(model: torch.nn.Module, micro: list[Micro], fast: bool = True) -> float:
    """Compute forward and backward of a step, and return its loss."""
    masked = sum(int((labels != -100).sum()) for _, _, labels in micro)
    loss = 0.0
    for ids, mask, labels in micro:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
            part = model(
                input_ids=ids, attention_mask=mask, labels=labels, num_items_in_batch=masked
            ).loss
        part.backward()
        loss += part.item()
    return loss


def optimizers(model: torch.nn.Module) -> dict[str, Callable[[float], torch.optim.Optimizer]]:
    """Return constructors by name; each takes a learning rate."""
    import optimi

    def groups(decay: float) -> list[dict[str, Any]]:
        some = list(model.parameters())
        return [
            {"params": [p for p in some if p.ndim > 1], "weight_decay": decay},
            {"params": [p for p in some if p.ndim <= 1], "weight_decay": 0.0},
        ]

    def stable(lr: float, foreach: bool) -> torch.optim.Optimizer:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)  # of foreach
            return optimi.StableAdamW(
                groups(DECAY if lr else 0.0), lr=lr, betas=BETAS, eps=EPS, decouple_lr=True,
                max_lr=LR, foreach=foreach, triton=False,
            )  # fmt: skip

    def fused(lr: float) -> torch.optim.Optimizer:
        return torch.optim.AdamW(groups(DECAY / LR), lr=lr, betas=BETAS, eps=EPS, fused=True)

    return {
        "StableAdamW": lambda lr: stable(lr, False),
        "StableAdamW, foreach": lambda lr: stable(lr, True),
        "torch AdamW, fused": fused,
    }


def timed(work: Callable[[], object]) -> float:
    """Return the time in seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def theirs(options: argparse.Namespace, cut: Callable[[Batch, int], list[Micro]]) -> None:
    """Run as a worker with a plain loop over transformers."""
    turn()
    model = model_of(options.work / "weights")
    first = next(batches(options.set, options.rows))
    check = agreement(options, model, first)
    searched = {}
    gradients(model, cut(first, 4096)[:2])  # a warm-up
    for budget in (1024, 2048, 4096, 8192, 16384):
        micro = cut(first, budget)
        if not searched or budget <= options.rows * SEQ_LEN:
            searched[budget] = timed(lambda some=micro: gradients(model, some))
    best = min(searched, key=searched.__getitem__)
    available = optimizers(model)
    steps = {}
    for name, make in available.items():
        optimizer = make(0.0)  # a rate of 0 changes nothing
        optimizer.step()
        steps[name] = min(timed(optimizer.step) for _ in range(3))
    fastest = min(steps, key=steps.__getitem__)
    optimizer = available[fastest](LR)
    optimizer.zero_grad()
    del first, micro
    turn(
        {
            "micro_tokens": best, "searched": searched, "optimizer": fastest,
            "optimizers_searched": steps, **check,
        }
    )  # fmt: skip
    for batch in batches(options.set, options.rows):
        micro = cut(batch, best)
        start = time.perf_counter()
        loss = gradients(model, micro)
        optimizer.step()
        optimizer.zero_grad()
        seconds = time.perf_counter() - start
        tokens = sum(ids.numel() if mask is None else int(mask.sum()) for ids, mask, _ in micro)
        turn(
            {
                "seconds": seconds,
                "tokens": tokens,
                "places": sum(ids.numel() for ids, _, _ in micro),
                "masked": sum(int((labels != -100).sum()) for _, _, labels in micro),
                "loss": loss,
            }
        )


def agreement(options: argparse.Namespace, model: torch.nn.Module, batch: Batch) -> dict[str, Any]:
    """Check that both models have the same loss for two rows in float32."""
    if options.worker != PADDED:
        return {}
    few = next(batches(options.set, 2))
    micro = next(few.micro_batches(2))
    mine = MaskedLM.load(options.work / "weights", dtype="stored")
    with torch.no_grad():
        loss = float(mine.loss(micro.packed, micro.positions, micro.targets)) / len(micro.positions)
    other = gradients(model, padded(few, 4096), fast=False)
    model.zero_grad()
    if not abs(loss - other) <= 1e-4 * other:
        raise AssertionError(f"the losses differ: {loss} and {other}")
    return {"float32_losses": {OURS: loss, PADDED: other}}


# --- the run


class Worker:
    """A variant in its own process."""

    def __init__(self, name: str, work: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *sys.argv, "--worker", name, "--work", str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self) -> dict[str, Any]:
        """Run one turn."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline() or '"a worker failed"')


def summary(
    config: EncoderConfig,
    turns: list[dict[str, Any]],
    lengths: list[list[int]],
    ceiling: float,
) -> dict[str, Any]:
    """Summarize the turns of a variant, without the first."""
    rates, shares, with_head = [], [], []
    for each, of_text in zip(turns[1:], lengths[1:], strict=True):
        seconds = each["seconds"]
        encoder = 3 * flops.flops(config, of_text)
        whole = encoder + 3 * flops.head_flops(config, each["masked"])
        rates.append(each["tokens"] / seconds)
        shares.append(encoder / seconds / 1e12 / ceiling)
        with_head.append(whole / seconds / 1e12 / ceiling)
    return {
        "tokens_per_s": statistics.median(rates),
        "share_of_ceiling": statistics.median(shares),
        "share_of_ceiling_with_head": statistics.median(with_head),
        "turns": turns,
    }


def main() -> None:
    """Measure, print and write the report; or run as a worker."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path, help="a dataset with rows of 1,024 tokens")
    parser.add_argument("--model", default="nano", choices=list(ROWS))
    parser.add_argument("--rows", type=int, help="rows per turn; 32 for nano, 4 for base")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--out", type=Path)
    parser.add_argument("--worker", help=argparse.SUPPRESS)
    parser.add_argument("--work", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    options.rows = options.rows or ROWS[options.model]
    torch.set_num_threads(options.threads)
    if options.worker == OURS:
        ours(options)
    elif options.worker:
        theirs(options, {PADDED: padded, JOINED: joined}[options.worker])
    else:
        with tempfile.TemporaryDirectory() as work:
            finish(measure(options, Path(work)), options.out)


def measure(options: argparse.Namespace, work: Path) -> dict[str, Any]:
    """Run all turns of all variants."""
    prepared = PreparedDataset(options.set)
    config = Geometry(options.model, dropout=0.0).config(prepared.tokenizer)
    torch.manual_seed(SEED)
    MaskedLM(config).save(work / "weights", tokenizer=prepared.tokenizer)
    ceilings = [roofline.roofline(config, "bfloat16", SECONDS)]
    workers = {name: Worker(name, work) for name in (OURS, PADDED, JOINED)}
    settings = {name: worker.take() for name, worker in workers.items()}
    turns: dict[str, list[dict[str, Any]]] = {name: [] for name in workers}
    for _ in range(options.repeats + 1):
        for name, worker in workers.items():
            turns[name].append(worker.take())
    for worker in workers.values():
        worker.process.communicate()
    ceilings.append(roofline.roofline(config, "bfloat16", SECONDS))
    ceiling = max(each for each in ceilings if each is not None)
    text = [
        batch.lengths.tolist()
        for batch in islice(batches(options.set, options.rows), options.repeats + 1)
    ]
    rows = [[SEQ_LEN] * (each["tokens"] // SEQ_LEN) for each in turns[JOINED]]
    variants = {
        name: settings[name] | summary(config, of, rows if name == JOINED else text, ceiling)
        for name, of in turns.items()
    }
    rate = {name: each["tokens_per_s"] for name, each in variants.items()}
    return {
        "command": shlex.join(
            ["python", *("DATASET" if each == str(options.set) else each for each in sys.argv)]
        ),
        "machine": machine(),
        "model": options.model,
        "vocab_size": config.vocab_size,
        "rows_of_a_turn": options.rows,
        "lengths": {
            "documents": sum(map(len, text)),
            "mean": statistics.mean(sum(text, [])),
            "quartiles": statistics.quantiles(sum(text, []), n=4),
        },
        "ceiling_tflops": ceilings,
        "times_faster_than": {name: rate[OURS] / rate[name] for name in (PADDED, JOINED)},
        "variants": variants,
    }


if __name__ == "__main__":
    main()
