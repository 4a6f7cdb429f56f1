"""The model card (README.md) of a model of vectors."""

from collections.abc import Mapping
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import Any

from ... import markdown
from ...models.embedder import Embedder
from ...models.late_embedder import LateEmbedder
from .. import card
from .plan import VectorsPlan

EXPLAINED = {
    "cosine": "cosine is the mean cosine with the vectors of the teacher.",
    "MRR@10": "MRR@10 is the mean of 1 / rank of the right document among all documents of dev.",
    "accuracy": "accuracy is how often the document that the teacher prefers is first.",
    "MRR@10 late": "MRR@10 late is the same by late interaction.",
    "spearman": "spearman is the rank correlation of scores of pairs with the teacher's cosines.",
    "masked accuracy": "masked accuracy is how many of the masked tokens are predicted.",
}

# What is trained on, by the class of the settings.
ROWS = {
    "Distillation": "texts", "VectorTuning": "queries with their documents",
    "Multitask": "rows of all tasks",
}  # fmt: skip
PATHS = ("model", "teacher")  # settings that are directories of the machine, and named above


def write(
    directory: Path,
    name: str,
    plan: VectorsPlan,
    info: Mapping[str, Any],
    model: Embedder | LateEmbedder,
) -> None:
    """Write the card of a model.

    Args:
        directory: of the model, which is being written.
        name: of the model.
        plan: what it was trained on and with.
        info: the content of finetune.json.
        model: the model.
    """
    recipe: Any = plan.recipe
    settings = {name: value for name, value in _changed(recipe).items() if name not in PATHS}
    teacher = getattr(recipe, "teacher", None)
    sources = dict(plan.sources)
    command = sources.pop("command", None)
    explained = " ".join(text for name, text in EXPLAINED.items() if name in info["dev"])
    prompts = [f"a {kind}" for kind, prompt in model.prompts.items() if prompt]
    text = card.render(
        "vectors_card.md.jinja", name=name, plan=plan, info=info, size=model.size,
        late=isinstance(model, LateEmbedder), prompts=prompts, limit=model.max_length,
        teacher=teacher and Path(teacher).name, base=Path(recipe.model).name,
        rows=ROWS[type(recipe).__name__], kind=type(recipe).__name__, settings=settings,
        explained=explained,
        metrics=(("metric", "dev"), [(k, f"{v:.4f}") for k, v in info["dev"].items()]),
        sources=(("part", "source"), [*sources.items()]), command=command,
        machine=card.machine_table(info["machine"]),
        table=lambda content: markdown.table(*content),
    )  # fmt: skip
    (directory / "README.md").write_text(text, encoding="utf-8", errors="replace")


def _changed(settings: Any) -> dict[str, Any]:
    """Return settings that differ from the default, with the last parts of paths only."""
    found: dict[str, Any] = {}
    for each in fields(settings):
        value = getattr(settings, each.name)
        if value in (each.default, None, ()):
            continue
        if isinstance(value, tuple) and is_dataclass(value[0]):
            value = [_changed(item) for item in value]
        elif each.name == "data":
            value = [Path(path).name for path in value]
        elif each.name in ("model", "teacher", "vectors"):
            value = Path(value).name
        found[each.name] = value
    return found
