"""The model card (README.md) of an exported run, and tables shared with the report."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import hf_config
from ..data import prepared
from ..files import read_json
from ..nn.checkpoint import read_config
from . import run_info, run_log, state
from .recipe import Recipe

PHASE_HEAD = ("phase", "tokens", "steps", "tokens per row", "rows per step", "peak rate",
              "warm-up", "decay", "masked", "theta")  # fmt: skip
EVALUATION_HEAD = ("step", "phase", "loss", "perplexity", "accuracy", "masked tokens")
HEAD = """---
library_name: transformers
pipeline_tag: fill-mask
tags: [modernbert, motherbird]
---
"""
USE = """## Use

```python
import motherbird

model = motherbird.MaskedLM.load("{name}")
encoder = motherbird.Encoder.load("{name}")
```

It loads in transformers (`AutoModelForMaskedLM`) and sentence-transformers as well.
"""
LIMITS = """## Limits

It is an encoder: it predicts masked tokens and returns a vector for each token; it does not
generate text. Text embeddings need fine-tuning first. It has the errors and biases of its data, and
was not trained on texts longer than {length:,} tokens. The figures above are for held-out documents
of the same sources, and do not apply to other text.
"""


def write(directory: Path, run: Path, steps: Sequence[int], data: Path) -> None:
    """Write the model card into the directory of a saved model.

    Args:
        directory: directory of the model.
        run: directory of the run.
        steps: the checkpoint's step, or the steps of the averaged checkpoints.
        data: directory of the dataset.
    """
    info = run_info.read(run)
    recipe = info.parsed_recipe(run)
    config = hf_config.read(read_config(directory), str(directory))
    last = state.read(state.folder(run, steps[-1])).progress
    dtype = read_config(directory)["dtype"]
    name = run.resolve().name
    what = f"Step {steps[0]:,}" if len(steps) == 1 else f"The mean of steps {_list(steps)}"
    parts = [
        f"{HEAD}\n# {name}\n\n"
        f"A ModernBERT encoder with its masked-LM head: {config.num_hidden_layers} layers, "
        f"width {config.hidden_size}, a vocabulary of {config.vocab_size:,}, up to "
        f"{config.max_position_embeddings:,} tokens. {what} of a run of {recipe.steps():,} steps, "
        f"pretrained with motherbird on {last.tokens:,} tokens, of which {last.masked:,} were "
        f"masked. Weights are stored in {dtype}.\n",
        USE.format(name=name),
        "## Training\n\n"
        + table(PHASE_HEAD, phase_rows(recipe))
        + _history(run, recipe, steps[-1]),
        "## Evaluation\n\n" + _evaluated(run, recipe, steps),
        "## Data\n\n" + _sources(data, info.data),
        "## Machine\n\n" + table(("", ""), machine_rows(info.made_with)),
        "## Commands\n\n```sh\n" + _commands(recipe, steps, dtype) + "```\n\nwith recipe.toml:\n\n"
        f"```toml\n{toml(info.recipe)}```\n",
        LIMITS.format(length=config.max_position_embeddings),
    ]
    (directory / "README.md").write_text("\n".join(parts), encoding="utf-8")


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the logged evaluations: step, phase, loss, accuracy and masked tokens."""
    return [
        {"step": line["step"], "phase": line["phase"], **line["evaluation"]}
        for line in run_log.read(run)
        if "evaluation" in line and math.isfinite(line["evaluation"]["loss"])
    ]


def phase_rows(recipe: Recipe) -> list[list[str]]:
    """Return a table of the phases with the columns `PHASE_HEAD`."""
    return [
        [
            phase.name, f"{phase.tokens:,}", f"{phase.steps():,}", f"{phase.seq_len:,}",
            f"{phase.rows:,}", f"{phase.lr_schedule(recipe.train.lr).peak:g}",
            f"{phase.warm_up:,}", f"{phase.decay:,}", f"{recipe.masking(phase):g}",
            "" if phase.theta is None else f"{phase.theta:,.0f}",
        ]
        for phase in recipe.phases
    ]  # fmt: skip


def evaluation_rows(found: Iterable[Mapping[str, Any]]) -> list[list[str]]:
    """Return a table of evaluations with the columns `EVALUATION_HEAD`."""
    return [
        [
            f"{e['step']:,}", e["phase"], f"{e['loss']:.4f}",
            f"{math.exp(min(e['loss'], 99)):,.2f}", f"{e['accuracy']:.2%}", f"{e['masked']:,}",
        ]
        for e in found
    ]  # fmt: skip


def machine_rows(made_with: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return a table of the machine and versions at the start of a run."""
    extensions = made_with["isa_extensions"]
    versions = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
    return [
        ("cpu", f"{made_with['cpu']}, {made_with['cores']} cores"),
        ("ISA extensions", ", ".join(extensions) or "none of AVX-512 and AMX"),
        ("device", made_with["device"]),
        ("threads", str(made_with["threads"])),
        ("memory", f"{made_with['memory_gb']} GB"),
        ("system", f"{made_with['system']}, python {made_with['python']}"),
        ("versions", versions),
    ]


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Format a table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in row)} |\n" for row in lines)


def toml(data: Mapping[str, Any], at: str = "") -> str:
    """Format a recipe, given as a dictionary, as TOML that `recipe.load` reads."""
    plain, tables = "", ""
    for key, value in data.items():
        name = f"{at}.{key}" if at else key
        if isinstance(value, Mapping):
            tables += f"\n[{name}]\n{toml(value, name)}" if value else ""
        elif isinstance(value, list) and value and isinstance(value[0], Mapping):
            tables += "".join(f"\n[[{name}]]\n{toml(item, name)}" for item in value)
        else:
            plain += f"{key} = {json.dumps(value, ensure_ascii=False)}\n"
    return plain + tables


def _cell(text: str) -> str:
    return " ".join(text.replace("|", "/").split())


def _list(steps: Sequence[int]) -> str:
    return ", ".join(f"{step:,}" for step in steps)


def _history(run: Path, recipe: Recipe, step: int) -> str:
    """Describe optimizer, time, commits, rewinds and skipped data."""
    info, train = run_info.read(run), recipe.train
    events = run_log.read(run, run_log.EVENTS)
    starts = [e for e in events if e["event"] == "start" and e["step"] <= step]
    dtypes = dict.fromkeys(event["dtype"] for event in starts)
    commits = dict.fromkeys(event["commit"] for event in starts if event.get("commit"))
    hours = sum(line["seconds"] for line in run_log.read(run) if line["step"] <= step) / 3600
    text = (
        f"\nOptimizer {train.optimizer}, weight decay {train.weight_decay:g}, matrix products in "
        f"{' and '.join(dtypes) or train.dtype}, weights in float32, seed {recipe.seed}. "
        f"{hours:.2f} hours of steps, in {len(starts)} "
        f"{'process' if len(starts) == 1 else 'processes'}"
    )
    text += f"; at commit {', '.join(commits)}.\n" if commits else ".\n"
    for skip in info.skips:
        if skip["to"] <= step:
            text += (
                f"\n- At step {skip['step']:,} the run was rolled back to step {skip['to']:,} and "
                f"skipped {skip['batches']:,} batches: {_cell(skip['why'])}."
            )
    for change in info.changes:
        if change["step"] <= step:
            what = ", ".join(f"`{_cell(each)}`" for each in change["set"]) or "nothing"
            text += (
                f"\n- From step {change['from']:,} it was rewound to step {change['step']:,}; "
                f"changed: {what}."
            )
    return text.rstrip("\n") + "\n"


def _evaluated(run: Path, recipe: Recipe, steps: Sequence[int]) -> str:
    last = {found["phase"]: found for found in evaluations(run) if found["step"] <= steps[-1]}
    if not last:
        return "The run was not evaluated up to here.\n"
    rate = f"{recipe.evaluate.masking:.0%}"
    of = "" if len(steps) == 1 else " These are the run's figures, not those of the mean."
    return table(EVALUATION_HEAD, evaluation_rows(last.values())) + (
        f"\nOn held-out rows, {rate} of the tokens masked, in nats.{of}\n"
    )


def _sources(data: Path, fingerprint: str) -> str:
    sources = read_json(data / prepared.INFO)["sources"]
    rows = [
        [name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['copies']:.2f}",
         f"{s['held_out']:,}", s.get("licence", "")]
        for name, s in sources.items()
    ]  # fmt: skip
    head = ("source", "documents", "tokens", "copies per epoch", "held out", "licence")
    return table(head, rows) + f"\nFingerprint of the prepared dataset: `{fingerprint}`.\n"


def _commands(recipe: Recipe, steps: Sequence[int], dtype: str) -> str:
    lengths = ",".join(str(n) for n in sorted({phase.seq_len for phase in recipe.phases}))
    named = " ".join(f"--step {step}" for step in steps)
    named += "" if dtype == "float32" else f" --dtype {dtype}"
    last = (
        f"motherbird export run {named} --out model"
        if len(steps) == 1
        else f"motherbird runs average run {named} --out model"
    )
    return (
        f"motherbird prepare TEXT --tokenizer DIR --seq-len {lengths} --out dataset\n"
        "motherbird pretrain recipe.toml --data dataset --out run\n"
        f"{last}\n"
    )
