"""The model card (README.md) of an exported run, and what it shares with the report."""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from .. import markdown
from ..core import hf_config
from ..core.weights import read_config
from ..data import prepared
from ..errors import require_extra
from ..files import read_json
from . import run_info, run_log, state
from .recipe import Recipe

Table = tuple[Sequence[str], Sequence[Sequence[str]]]  # its head, which may be empty, and its rows


def render(template: str, **values: Any) -> str:
    """Render a file of ``templates``; in HTML, values are escaped."""
    jinja2 = require_extra("jinja2", "train")
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader(__package__), undefined=jinja2.StrictUndefined,
        autoescape=template.endswith(".html.jinja"), trim_blocks=True, keep_trailing_newline=True,
    )  # fmt: skip
    environment.filters |= {"number": "{:,}".format, "cell": markdown.cell}
    return environment.get_template(template).render(values, toml=toml)


def write(directory: Path, run: Path, steps: Sequence[int], data: Path) -> None:
    """Write the card of a model: a checkpoint, or the mean of those of several steps."""
    info, last = run_info.read(run), steps[-1]
    recipe = info.parsed_recipe(run)
    stored = read_config(directory)
    starts = [e for e in run_log.read(run, run_log.EVENTS) if e["event"] == "start"]
    evaluated = {e["phase"]: e for e in evaluations(run) if e["step"] <= last}
    text = render(
        "card.md.jinja", name=run.resolve().name, steps=steps, info=info, recipe=recipe,
        config=hf_config.read(stored, str(directory)), dtype=stored["dtype"],
        progress=state.read(state.folder(run, last)).progress,
        starts=[event for event in starts if event["step"] <= last], seconds=seconds(run, last),
        phases=phase_table(recipe), machine=machine_table(info.made_with),
        evaluated=evaluation_table(evaluated.values()) if evaluated else None,
        sources=_source_table(read_json(data / prepared.INFO)["sources"]),
        table=lambda content: markdown.table(*content),
    )  # fmt: skip
    (directory / "README.md").write_text(text, encoding="utf-8")


def seconds(run: Path, last: int) -> float:
    """Return the seconds that the steps of a run took, up to one of them."""
    return math.fsum(line["seconds"] for line in run_log.read(run) if line["step"] <= last)


def evaluations(run: Path) -> list[dict[str, Any]]:
    """Return the logged evaluations: step, phase, loss, accuracy and masked tokens."""
    return [
        {"step": line["step"], "phase": line["phase"], **line["evaluation"]}
        for line in run_log.read(run)
        if "evaluation" in line and math.isfinite(line["evaluation"]["loss"])
    ]


def phase_table(recipe: Recipe) -> Table:
    """Return a table of the phases."""
    head = ("phase", "tokens", "steps", "tokens per row", "rows per step", "peak rate", "warm-up",
            "decay", "masked", "theta")  # fmt: skip
    return head, [
        [
            phase.name, f"{phase.tokens:,}", f"{phase.steps():,}", f"{phase.seq_len:,}",
            f"{phase.rows:,}", f"{phase.lr_schedule(recipe.train.lr).peak:g}",
            f"{phase.warm_up:,}", f"{phase.decay:,}", f"{recipe.masking(phase):g}",
            "" if phase.theta is None else f"{phase.theta:,.0f}",
        ]
        for phase in recipe.phases
    ]  # fmt: skip


def evaluation_table(found: Iterable[Mapping[str, Any]]) -> Table:
    """Return a table of evaluations."""
    return ("step", "phase", "loss", "perplexity", "accuracy", "masked tokens"), [
        [
            f"{e['step']:,}", e["phase"], f"{e['loss']:.4f}",
            f"{math.exp(min(e['loss'], 99)):,.2f}", f"{e['accuracy']:.2%}", f"{e['masked']:,}",
        ]
        for e in found
    ]  # fmt: skip


def machine_table(made_with: Mapping[str, Any]) -> Table:
    """Return a table of the machine and versions at the start of a run."""
    versions = ", ".join(f"{name} {version}" for name, version in made_with["versions"].items())
    return (), [
        ("cpu", f"{made_with['cpu']}, {made_with['cores']} cores"),
        ("ISA extensions", ", ".join(made_with["isa_extensions"]) or "none of AVX-512 and AMX"),
        ("device", made_with["device"]),
        ("threads", str(made_with["threads"])),
        ("memory", f"{made_with['memory_gb']} GB"),
        ("system", f"{made_with['system']}, python {made_with['python']}"),
        ("versions", versions),
    ]


def _source_table(sources: Mapping[str, Any]) -> Table:
    return ("source", "documents", "tokens", "copies per epoch", "held out", "license"), [
        [name, f"{s['documents']:,}", f"{s['tokens']:,}", f"{s['copies']:.2f}",
         f"{s['held_out']:,}", s.get("licence", "")]
        for name, s in sources.items()
    ]  # fmt: skip


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
