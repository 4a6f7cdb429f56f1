"""Control experiment: a BERT of the same size, trained on the same rows as a run.

    python benchmarks/control_bert.py RUN DATASET --work WORK [--tokens 8e6] [--device cuda]
    python benchmarks/control_bert.py RUN DATASET --work WORK --out FILE.json --figure FILE.svg

The model is transformers' BertForMaskedLM: post-norm, learned positions, GELU feed-forward, biases,
15% masked, and no dropout, because no text is repeated. Depth, width and initial standard deviation
are those of the run; the feed-forward width is chosen so that the number of parameters is equal. It
is trained on the rows of RUN's first phase in the same order, with the same batch sizes and
warm-up, as padded documents, in bfloat16 with AdamW (weight decay 0.01). Every --every tokens both
are evaluated on the same held-out rows, 15% masked; RUN's evaluations are read from its log. The
first command resumes, after losing at most 50 steps (1,000 on a GPU); the second writes a report.
"""

import argparse
import json
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import finish, machine
from pretraining_speed import Micro, padded
from safetensors.torch import load_file, save_file
from torch import Tensor
from torch.nn.functional import cross_entropy

from motherbird.data.loader import BatchBuilder, BatchRequest, Cursor, Loader, RowFilter, masking_of
from motherbird.data.prepared import PreparedDataset
from motherbird.train import cost, run_info, run_log
from motherbird.train.distributed import Distributed
from motherbird.train.evaluation import SEED
from motherbird.train.gradients import step_gradients
from motherbird.train.init_weights import initial_config
from motherbird.train.recipe import Recipe
from motherbird.train.schedule import LearningRateSchedule
from motherbird.train.threads import executor_for

MASKING = 0.15
BUDGET = {"cpu": 1024, "cuda": 65_536}  # tokens of a micro-batch, padding counted
SAVE = {"cpu": 50, "cuda": 1000}  # steps


def model_like(recipe: Recipe, prepared: PreparedDataset) -> torch.nn.Module:
    """Create a BERT with as many parameters as the run's model, of the same depth and width."""
    import transformers

    ours = initial_config(recipe, prepared)
    wanted = cost.parameters(ours)

    def config(inner: int) -> transformers.BertConfig:
        return transformers.BertConfig(
            vocab_size=ours.vocab_size, hidden_size=ours.hidden_size,
            num_hidden_layers=ours.num_hidden_layers,
            num_attention_heads=ours.num_attention_heads, intermediate_size=inner,
            max_position_embeddings=1024, type_vocab_size=1,
            initializer_range=ours.initializer_range,
            pad_token_id=ours.pad_token_id, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0,
        )  # fmt: skip

    def parameters(inner: int) -> int:
        with torch.device("meta"):
            model = transformers.BertForMaskedLM(config(inner))
            return sum(p.numel() for p in model.parameters())

    a_channel = parameters(65) - parameters(64)
    inner = 64 + round((wanted - parameters(64)) / a_channel)
    torch.manual_seed(recipe.seed)
    return transformers.BertForMaskedLM(config(inner))


def loss_of(model: torch.nn.Module, micro: Micro) -> tuple[Tensor, Tensor]:
    """Return the summed loss of the masked tokens, and the number of correct predictions."""
    device = next(model.parameters()).device
    ids, mask, labels = (None if part is None else part.to(device) for part in micro)
    wanted = labels != -100
    with torch.autocast(device.type, torch.bfloat16):
        x = model.bert(input_ids=ids, attention_mask=mask).last_hidden_state[wanted]
        logits = model.cls(x)
    loss = cross_entropy(logits.float(), labels[wanted], reduction="sum")
    return loss, (logits.argmax(-1) == labels[wanted]).sum()


def share_of(model: torch.nn.Module, micro: Micro, masked: int) -> Tensor:
    """Return a micro-batch's part of the mean loss of a step."""
    return loss_of(model, micro)[0] / masked


@torch.no_grad()
def evaluate(model: torch.nn.Module, micro: list[Micro]) -> dict[str, float]:
    """Return loss and accuracy."""
    model.eval()
    loss = right = count = 0
    for each in micro:
        part, hits = loss_of(model, each)
        loss += part.item()
        right += int(hits)
        count += int((each[2] != -100).sum())
    model.train()
    return {"loss": loss / count, "accuracy": right / count, "masked": count}


def train(options: argparse.Namespace, recipe: Recipe, prepared: PreparedDataset) -> None:
    """Train or resume until --tokens, or until the time is over."""
    alone = Distributed(0, 1, torch.device(options.device))
    threads = executor_for(alone.device)
    work, budget = options.work, BUDGET[options.device]
    phase = recipe.phases[0]
    work.mkdir(parents=True, exist_ok=True)
    model = model_like(recipe, prepared).train().to(options.device)
    named = dict(model.named_parameters())
    groups = [
        {"params": [p for p in named.values() if p.ndim > 1], "weight_decay": 0.01},
        {"params": [p for p in named.values() if p.ndim <= 1], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, betas=(0.9, 0.98), eps=1e-6, fused=True)
    log: list[dict[str, Any]] = []
    saved = work / "state.json"
    if saved.exists():
        log = json.loads(saved.read_text())["log"]
        tensors = load_file(work / f"state-{len(log)}.safetensors")
        model.load_state_dict({n: tensors[f"model.{n}"] for n in model.state_dict()})
        for name, parameter in named.items():
            optimizer.state[parameter] = {
                key: tensors[f"{key}.{name}"].to(options.device)
                for key in ("step", "exp_avg", "exp_avg_sq")
            }
    rows = log[-1]["rows"] if log else 0
    tokens = log[-1]["tokens"] if log else 0
    rate = LearningRateSchedule(options.lr, phase.warm_up, 0, 0.0)
    loader = Loader(
        prepared, phase.row_filter, Cursor(recipe.seed, 0, rows), masking_of(prepared, MASKING),
        lambda at: phase.batch_size.at(at, phase.seq_len),
    )  # fmt: skip
    builder = BatchBuilder(
        prepared.directory, RowFilter(phase.seq_len, held_out=True), masking_of(prepared, MASKING)
    )
    count = min(len(builder.rows), max(1, recipe.evaluate.tokens // phase.seq_len))
    held_out = padded(builder(BatchRequest(0, count, Cursor(SEED))), budget)
    deadline = time.monotonic() + options.minutes * 60
    for batch in loader:
        if tokens >= options.tokens or time.monotonic() > deadline:
            break
        start = time.perf_counter()
        masked = len(batch.positions)
        lr = rate.at(rows * phase.seq_len, phase.tokens)
        parts = [partial(share_of, model, micro, masked) for micro in padded(batch, budget)]
        losses, gradients = step_gradients(list(named.values()), parts, threads, alone)
        for parameter, gradient in zip(named.values(), gradients, strict=True):
            parameter.grad = gradient
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.step()
        optimizer.zero_grad()
        rows, before, tokens = batch.cursor.rows, tokens, tokens + len(batch.ids)
        line = {"rows": rows, "tokens": tokens, "loss": sum(losses), "lr": lr,
                "seconds": time.perf_counter() - start}  # fmt: skip
        if tokens // options.every > before // options.every:
            line["evaluation"] = evaluate(model, held_out)
            print(json.dumps(line), flush=True)
        log.append(line)
        if len(log) % SAVE[options.device] == 0:
            save(work, model, optimizer, log)
    save(work, model, optimizer, log)


def save(
    work: Path, model: torch.nn.Module, optimizer: torch.optim.Optimizer, log: list[dict[str, Any]]
) -> None:
    """Write the tensors first, then the file that names them."""
    tensors = {f"model.{n}": t.clone() for n, t in model.state_dict().items()}
    for name, parameter in model.named_parameters():
        tensors |= {f"{key}.{name}": t for key, t in optimizer.state[parameter].items()}
    save_file(tensors, work / f"state-{len(log)}.safetensors")
    fresh = work / "state.json.tmp"
    device = next(model.parameters()).device
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else device.type
    fresh.write_text(json.dumps({"device": name, "log": log}))
    fresh.replace(work / "state.json")
    for old in work.glob("state-*.safetensors"):
        if old.name != f"state-{len(log)}.safetensors":
            old.unlink()


def draw(figure: Path, ours: list[tuple[float, float]], theirs: list[tuple[float, float]]) -> None:
    """Plot held-out loss over tokens."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    _, axes = pyplot.subplots(figsize=(7, 4))
    for points, label in ((ours, "motherbird"), (theirs, "BERT")):
        axes.plot(*zip(*[(t / 1e6, loss) for t, loss in points], strict=True), marker=".",
                  label=label)  # fmt: skip
    axes.set(xlabel="million tokens", ylabel="held-out loss, nats per token (15% masked)")
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    pyplot.tight_layout()
    pyplot.savefig(figure)


def main() -> None:
    """Train, or write the report."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--tokens", type=float, default=8e6)
    parser.add_argument("--every", type=float, default=5e5, help="tokens between evaluations")
    parser.add_argument("--lr", type=float, default=5e-4)
    parser.add_argument("--device", choices=list(BUDGET), default="cpu")
    parser.add_argument("--minutes", type=float, default=1e6, help="duration of this process")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--figure", type=Path)
    options = parser.parse_args()
    recipe = run_info.read(options.run).parsed_recipe(options.run)
    prepared = PreparedDataset(options.dataset)
    if options.out is None:
        train(options, recipe, prepared)
        return
    state_file = json.loads((options.work / "state.json").read_text())
    log = state_file["log"]
    tokens, ours = 0, []
    for line in run_log.read(options.run):
        tokens += line["tokens"]
        if "evaluation" in line and tokens <= log[-1]["tokens"] * 1.05:
            ours.append((tokens, line["evaluation"]["loss"]))
    theirs = [(x["tokens"], x["evaluation"]["loss"]) for x in log if "evaluation" in x]
    report = {
        "command": f"python benchmarks/control_bert.py RUN DATASET --work WORK --lr {options.lr:g} "
        f"--tokens {log[-1]['tokens']}",
        "machine": machine(),
        "trained on": state_file.get("device", "cpu"),
        "parameters": {
            "motherbird": cost.parameters(initial_config(recipe, prepared)),
            "BERT": sum(p.numel() for p in model_like(recipe, prepared).parameters()),
        },
        "motherbird": [{"tokens": t, "loss": loss} for t, loss in ours],
        "BERT": [x | {"accuracy": x["evaluation"]["accuracy"]} for x in log if "evaluation" in x],
    }
    finish(report, options.out)
    if options.figure:
        draw(options.figure, ours, theirs)


if __name__ == "__main__":
    main()
