"""A model card from what a run recorded: README.md of the Hugging Face directory."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..core import hf_config
from ..data import prepared
from ..files import read_json
from ..nn.checkpoint import read_config
from . import run_log, state
from .recipe import Recipe, from_json

PHASE_HEAD = ("phase", "tokens", "steps", "tokens a row", "rows a step", "peak rate", "warm-up",
              "decay", "masked", "theta")  # fmt: skip
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

It is an encoder: it guesses hidden tokens and gives a vector for each token; it does not write.
Vectors of texts need fine-tuning first. It knows what stood in its data, with the errors and the
biases that were there, and texts longer than {length:,} tokens were never trained on. The figures
above are on documents of the same sources that were held out, and say nothing of other text.
"""


def write(directory: Path, run: Path, steps: Sequence[int], data: Path) -> None:
    """Write the card beside a model that was saved there.

    Args:
        directory: of the model.
        run: whose records it tells.
        steps: the checkpoint's step, or those whose mean it is.
        data: the prepared set.
    """
    about = state.read_run(run)
    recipe = from_json(about.recipe, str(run / state.RUN))
    config = hf_config.read(read_config(directory), str(directory))
    last = state.read(state.folder(run, steps[-1])).progress
    dtype = read_config(directory)["dtype"]
    name = run.resolve().name
    what = f"Step {steps[0]:,}" if len(steps) == 1 else f"The mean of steps {_list(steps)}"
    vocabulary = f"{config.vocab_size:,} entries of vocabulary"
    parts = [
        f"{HEAD}\n# {name}\n\n"
        f"A ModernBERT encoder with its masked-LM head: {config.num_hidden_layers} layers of "
        f"{config.hidden_size}, {vocabulary}, up to {config.max_position_embeddings:,} tokens. "
        f"{what} of a run of {recipe.steps():,} steps, pretrained by motherbird on "
        f"{last.tokens:,} tokens, of which {last.masked:,} were predicted. Weights are "
        f"stored in {dtype}.\n",
        USE.format(name=name),
        "## Training\n\n" + table(PHASE_HEAD, phase_rows(recipe)) + _story(run, recipe, steps[-1]),
        "## Evaluation\n\n" + _evaluated(run, recipe, steps),
        "## Data\n\n" + _sources(data, about.data),
        "## Machine\n\n" + table(("", ""), facts(about.made_with)),
        "## Commands\n\n```sh\n" + _commands(recipe, steps, dtype) + "```\n\nwith recipe.toml:\n\n"
        f"```toml\n{toml(about.recipe)}```\n",
        LIMITS.format(length=config.max_position_embeddings),
    ]
    (directory / "README.md").write_text("\n".join(parts), encoding="utf-8")


def evaluations(run: Path) -> list[dict[str, Any]]:
    """What a run logged on held-out rows: step, phase, loss, accuracy and masked tokens."""
    return [
        {"step": line["step"], "phase": line["phase"], **line["evaluation"]}
        for line in run_log.read(run)
        if "evaluation" in line and math.isfinite(line["evaluation"]["loss"])
    ]


def phase_rows(recipe: Recipe) -> list[list[str]]:
    """The phases in words; `PHASE_HEAD` names the columns."""
    train = recipe.train
    return [
        [
            phase.name,
            f"{phase.tokens:,}",
            f"{phase.steps():,}",
            f"{phase.seq_len:,}",
            f"{phase.rows:,}",
            f"{phase.rate(train.lr).peak:g}",
            f"{phase.warm_up:,}",
            f"{phase.decay:,}",
            f"{recipe.masking(phase):g}",
            "" if phase.theta is None else f"{phase.theta:,.0f}",
        ]
        for phase in recipe.phases
    ]


def facts(made_with: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Machine and versions at the start of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
    return [
        ("cpu", f"{made_with['cpu']}, {made_with['cores']} cores"),
        ("units", ", ".join(made_with["isa_extensions"]) or "none of those that we look for"),
        ("device", made_with["device"]),
        ("threads", str(made_with["threads"])),
        ("memory", f"{made_with['memory_gb']} GB"),
        ("system", f"{made_with['system']}, python {made_with['python']}"),
        ("versions", versions),
    ]


def perplexity(loss: float) -> str:
    """Of a loss, in words."""
    return f"{math.exp(min(loss, 99)):,.2f}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(_cell(cell) for cell in row)} |\n" for row in lines)


def toml(data: Mapping[str, Any], at: str = "") -> str:
    """A recipe, as a dictionary, as TOML that `recipe.load` reads."""
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


def _story(run: Path, recipe: Recipe, step: int) -> str:
    """Optimizer, time, commits, rewinds and stretches that were left out."""
    about, train = state.read_run(run), recipe.train
    events = run_log.read(run, run_log.EVENTS)
    starts = [e for e in events if e["event"] == "start" and e["step"] <= step]
    dtypes = dict.fromkeys(event["dtype"] for event in starts)
    commits = dict.fromkeys(event["commit"] for event in starts if event.get("commit"))
    hours = sum(line["seconds"] for line in run_log.read(run) if line["step"] <= step) / 3600
    text = (
        f"\nOptimizer {train.optimizer}, weight decay {train.weight_decay:g}, products in "
        f"{' and '.join(dtypes) or train.dtype}, weights in float32, seed {recipe.seed}. "
        f"{hours:.2f} hours of steps, in {len(starts)} "
        f"{'process' if len(starts) == 1 else 'processes'}"
    )
    text += f"; at commit {', '.join(commits)}.\n" if commits else ".\n"
    for skip in about.skips:
        if skip["to"] <= step:
            text += (
                f"\n- At step {skip['step']:,} the run went back to step {skip['to']:,} and left "
                f"out {skip['batches']:,} batches: {_cell(skip['why'])}."
            )
    for change in about.changes:
        if change["step"] <= step:
            what = ", ".join(f"`{_cell(each)}`" for each in change["set"]) or "nothing"
            text += (
                f"\n- From step {change['from']:,} it was rewound to step {change['step']:,}; "
                f"changed: {what}."
            )
    return text.rstrip("\n") + "\n"


def _evaluated(run: Path, recipe: Recipe, steps: Sequence[int]) -> str:
    """The last figures of each phase up to the last of the steps."""
    last = {found["phase"]: found for found in evaluations(run) if found["step"] <= steps[-1]}
    if not last:
        return "The run was not evaluated up to here.\n"
    rows = [
        [
            f"{found['step']:,}", name, f"{found['loss']:.4f}", perplexity(found["loss"]),
            f"{found['accuracy']:.2%}", f"{found['masked']:,}",
        ]
        for name, found in last.items()
    ]  # fmt: skip
    head = ("step", "phase", "loss", "perplexity", "accuracy", "masked tokens")
    share = f"{recipe.evaluate.masking:.0%}"
    of = "" if len(steps) == 1 else " These are the run's figures, not those of the mean."
    return table(head, rows) + f"\nOn held-out rows, {share} of the tokens masked, in nats.{of}\n"


def _sources(data: Path, fingerprint: str) -> str:
    sources = read_json(data / prepared.INFO)["sources"]
    rows = [
        [
            name,
            f"{s['documents']:,}",
            f"{s['tokens']:,}",
            f"{s['copies']:.2f}",
            f"{s['held_out']:,}",
            s.get("licence", ""),
        ]
        for name, s in sources.items()
    ]
    head = ("source", "documents", "tokens", "times an epoch", "held out", "licence")
    return table(head, rows) + f"\nFingerprint of the prepared set: `{fingerprint}`.\n"


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
        f"motherbird prepare TEXT --tokenizer DIR --seq-len {lengths} --out set\n"
        "motherbird pretrain recipe.toml --data set --out run\n"
        f"{last}\n"
    )
