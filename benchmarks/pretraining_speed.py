"""Pretraining on a CPU: `motherbird pretrain` beside two loops over transformers, taking turns.

    python benchmarks/pretraining_speed.py SET [--model nano|base] [--out FILE.json]

SET is prepared text with rows of 1,024 tokens. A turn is a step with so many of its rows, and the
next turn has the next rows: forward, backward and optimizer, bfloat16 by autocast over float32
weights, two threads, 30% masked, no dropout, the same initial weights. Every variant is a process
of its own that waits while the others work; the first turn is a warm-up; medians. Tokens are those
of the text, padding not counted.

- motherbird: `pretrain` itself with the micro-batch that is best for it, and the seconds that it
  wrote into log.jsonl; reading rows from the set, masking and logging are among them.
- transformers, padded: ModernBertForMaskedLM, the rows' documents each by itself, sorted by length
  and padded.
- transformers, joined: the rows end to end, cut into full rows of 1,024 tokens that know of no
  document: no padding, another loss.

Both loops use sdpa, sparse_prediction, and what a short search finds best for them: tokens of a
micro-batch, and the optimizer's implementation (torch-optimi's StableAdamW with foreach or without,
or torch's fused AdamW). Their batches are made before the clock starts. torch.compile is not used,
by anyone.

Shares of the ceiling are those of motherbird bench: `flops.flops`, three times for forward and
backward, over `roofline.roofline`, the best of two measured in this run. The head on the masked tokens
(dense, and the decoder over the vocabulary) is in the second share only.
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

from motherbird import EncoderConfig, MaskedLM
from motherbird import machine as this_machine
from motherbird.core import flops
from motherbird.data.loader import Batch, Cursor, Loader, RowFilter, masking_of
from motherbird.data.prepared import PreparedDataset
from motherbird.nn import roofline
from motherbird.train import run_log
from motherbird.train.optimizer import BETAS, EPS
from motherbird.train.phase import Phase
from motherbird.train.pretrain import pretrain
from motherbird.train.recipe import Evaluate, Geometry, Init, Recipe, Save, Train

SEQ_LEN, MASKING, SEED = 1024, 0.3, 0
LR, DECAY = 1e-4, 1e-5
ROWS = {"nano": 32, "base": 4}  # of a turn; three processes at base with 8 need over 24 GiB
SECONDS = 0.3  # for each product of the ceiling
OURS, PADDED, JOINED = "motherbird", "transformers, padded", "transformers, joined"
Micro = tuple[Tensor, Tensor | None, Tensor]  # ids, attention mask, labels


# --- what all have in common


def batches(data: Path, rows: int) -> Iterator[Batch]:
    """The rows of turn after turn, as `pretrain` with this seed takes them."""
    prepared = PreparedDataset(data, verify=False)
    masking = masking_of(prepared, MASKING)
    return iter(Loader(prepared, RowFilter(SEQ_LEN), Cursor(SEED), masking, lambda _: rows))


def turn(answer: dict[str, Any] | None = None) -> None:
    """In a worker: give an answer, and wait for the next turn."""
    if answer is not None:
        print(json.dumps(answer), flush=True)
    if not sys.stdin.readline():
        raise SystemExit


# --- motherbird


def ours(options: argparse.Namespace) -> None:
    """A worker: `pretrain`."""

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
        """Of the second step."""
        run = options.work / f"run-{micro_tokens}"

        def on_step(_: object) -> None:
            if len(run_log.read(run)) == 2:
                raise InterruptedError

        try:
            pretrain(recipe(micro_tokens), options.set, run, on_step=on_step)
        except InterruptedError:
            return run_log.read(run)[1]["seconds"]
        raise AssertionError("the run ended")

    this_machine.available_mb = lambda: None  # the peers' processes hold memory beside this one
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
    """Documents of like length together, at most so many tokens with their padding."""
    ids, labels = fed_and_wanted(batch)
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
    """Full rows of the text as it comes; what is left of the last is dropped."""
    rows = len(batch.ids) // SEQ_LEN
    ids, labels = (x[: rows * SEQ_LEN].view(rows, -1) for x in fed_and_wanted(batch))
    size = max(1, budget // SEQ_LEN)
    return [(i, None, w) for i, w in zip(ids.split(size), labels.split(size), strict=True)]


def fed_and_wanted(batch: Batch) -> tuple[Tensor, Tensor]:
    """Ids, and labels with -100 where nothing is asked."""
    ids = torch.from_numpy(batch.ids)
    labels = torch.full_like(ids, -100)
    labels[torch.from_numpy(batch.positions)] = torch.from_numpy(batch.targets)
    return ids, labels


def model_of(weights: Path) -> torch.nn.Module:
    """As transformers loads it, with the head on masked tokens only."""
    import transformers

    config = transformers.ModernBertConfig.from_pretrained(weights)
    config.sparse_prediction = True
    model = transformers.ModernBertForMaskedLM.from_pretrained(
        weights, config=config, attn_implementation="sdpa", dtype=torch.float32
    )
    return model.train()


def gradients(model: torch.nn.Module, micro: list[Micro], fast: bool = True) -> float:
    """Forward and backward of a step; its loss."""
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
    """By name; each for a learning rate."""
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
    """Seconds."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


def theirs(options: argparse.Namespace, cut: Callable[[Batch, int], list[Micro]]) -> None:
    """A worker: a plain loop."""
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
    ways = optimizers(model)
    steps = {}
    for name, make in ways.items():
        optimizer = make(0.0)  # which changes nothing
        optimizer.step()
        steps[name] = min(timed(optimizer.step) for _ in range(3))
    way = min(steps, key=steps.__getitem__)
    optimizer = ways[way](LR)
    optimizer.zero_grad()
    del first, micro
    turn(
        {
            "micro_tokens": best, "searched": searched, "optimizer": way,
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
    """The losses of two rows in float32, of both: the same number, or nothing is measured."""
    if options.worker != PADDED:
        return {}
    few = next(batches(options.set, 2))
    micro = next(few.micro_batches(2))
    mine = MaskedLM.load(options.work / "weights")
    with torch.no_grad():
        loss = float(mine.loss(micro.packed, micro.positions, micro.targets)) / len(micro.positions)
    other = gradients(model, padded(few, 4096), fast=False)
    model.zero_grad()
    if not abs(loss - other) <= 1e-4 * other:
        raise AssertionError(f"{loss} and {other} are two functions")
    return {"float32_losses": {OURS: loss, PADDED: other}}


# --- the run


class Worker:
    """A variant in a process of its own."""

    def __init__(self, name: str, work: Path) -> None:
        self.process = subprocess.Popen(
            [sys.executable, *sys.argv, "--worker", name, "--work", str(work)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def take(self) -> dict[str, Any]:
        """One turn."""
        assert self.process.stdin and self.process.stdout
        print(file=self.process.stdin, flush=True)
        return json.loads(self.process.stdout.readline() or '"a worker failed"')


def summary(
    config: EncoderConfig,
    turns: list[dict[str, Any]],
    lengths: list[list[int]],
    ceiling: float,
) -> dict[str, Any]:
    """What the turns of a variant behind the first came to."""
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
    """Measure, print, and write where asked for; or be one of the workers."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("set", type=Path, help="prepared text with rows of 1,024 tokens")
    parser.add_argument("--model", default="nano", choices=list(ROWS))
    parser.add_argument("--rows", type=int, help="of a turn; 32 for nano, 4 for base")
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
    """All turns of all variants."""
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
            ["python", *("SET" if each == str(options.set) else each for each in sys.argv)]
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
