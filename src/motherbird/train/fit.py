"""Fine-tuning on lists of texts and labels, for `Classifier.fit`, `Tagger.fit` and `Scorer.fit`."""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np

from .. import strict
from ..core.arguments import check_list
from ..core.measure import Kind
from ..data.labelled import Labelled, check_training, from_records, split_off
from ..data.readers.document import Record
from ..errors import InputError, counted
from . import tuning_card
from .finetune import DEV, finetune
from .tuning import FineTuning
from .tuning_plan import Parts


def fit(
    task: str,
    train: tuple[Iterable[Any], Iterable[Any]],
    dev: tuple[Iterable[Any], Iterable[Any]] | None,
    out: Path,
    device: str | None,
    settings: dict[str, Any],
) -> dict[str, Any]:
    """Fine-tune on lists of texts and labels, and return finetune.json."""
    recipe = strict.build(FineTuning, {**settings, "task": task}, "the settings")
    own = _labelled(recipe, train, "train", None)
    check_training(own)
    sources = {"train": "lists", "dev": "lists" if dev else f"{DEV:.0%} of train"}
    if dev is None:
        own, held_out = split_off(own, DEV, recipe.seed)
    else:
        held_out = _labelled(recipe, dev, "dev", own.kind)
    given = "".join(f", {name}={value!r}" for name, value in settings.items())
    call = f"motherbird.{tuning_card.CLASSES[recipe.task]}.fit(texts, labels, {str(out)!r}{given})"
    return finetune(recipe, Parts(own, held_out, None, sources, call), out, device=device)


def _labelled(recipe: FineTuning, given: Any, name: str, kind: Kind | None) -> Labelled:
    """Return lists of texts and labels as labelled data."""
    if not isinstance(given, tuple) or len(given) != 2:
        raise InputError(f"{name} is not a pair of texts and labels", how="pass (texts, labels)")
    texts = check_list(given[0], f"texts of {name}", "texts")
    labels = check_list(given[1], f"labels of {name}", "labels")
    if len(texts) != len(labels):
        what = f"there are {counted(len(texts), 'text')} and {counted(len(labels), 'label')}"
        raise InputError(what, name, "pass one label for each text")
    rows = []
    for number, (text, label) in enumerate(zip(texts, labels, strict=True)):
        where = f"{name}, text {number}"
        label = label.tolist() if isinstance(label, np.generic | np.ndarray) else label
        values: dict[str, Any] = {"text": text, "label": label}
        if recipe.task == "tag":
            values = {"tokens": check_list(text, where, "words"), "tags": [*label]}
        elif recipe.task == "score":
            if not isinstance(text, list | tuple) or len(text) != 2:
                raise InputError("this is not a pair of texts", where, "pass (text, text)")
            values = {"text_a": text[0], "text_b": text[1], "label": label}
        rows.append(Record(values, where))
    return from_records(iter(rows), recipe.task, None, kind)
