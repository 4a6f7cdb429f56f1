"""RUN/run.json: what a run is, independent of how far it has come."""

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from .. import strict
from ..core.config import EncoderConfig
from ..errors import InputError, OutdatedError
from ..files import read_json, write_text
from .recipe import Recipe

FILE, LOCK = "run.json", "LOCK"
FORMAT = 2


@dataclass(frozen=True)
class RunInfo:
    """The content of run.json."""

    given: dict[str, Any]  # the recipe that the run began with; resuming needs the same
    recipe: dict[str, Any]  # the recipe that is used: the same, except for changes by `runs rewind`
    config: dict[str, Any]  # configuration of the model, as `EncoderConfig`
    data: str  # SHA-256 of the prepared dataset's manifest
    # ranges of rows left out after rollbacks: phase, first row, end (exclusive), and the reason
    skips: list[dict[str, Any]]
    changes: list[dict[str, Any]]  # calls of `runs rewind`: the step, and what was set
    made_with: dict[str, Any]  # machine, device and versions at the start
    data_path: str  # where the dataset was at the start
    format: int = FORMAT  # version of this record

    def parsed_recipe(self, run: Path) -> Recipe:
        """Return the recipe that is used; ``run`` is named in errors."""
        return strict.build(Recipe, self.recipe, str(run / FILE))

    def parsed_config(self, run: Path) -> EncoderConfig:
        """Return the model's configuration; ``run`` is named in errors."""
        return strict.build(EncoderConfig, self.config, str(run / FILE))


def write(run: Path, info: RunInfo) -> None:
    """Write run.json atomically."""
    write_text(run / FILE, json.dumps(asdict(info), indent=1, ensure_ascii=False) + "\n")


def read(run: Path) -> RunInfo:
    """Read run.json.

    Raises:
        InputError: the directory does not contain a run.
        OutdatedError: another version of motherbird, with another format, wrote it.
    """
    if not (run / FILE).is_file():
        how = "use the --out of motherbird pretrain; motherbird runs list shows the runs"
        raise InputError(f"this is not the directory of a run ({FILE} is missing)", str(run), how)
    raw = read_json(run / FILE)
    if not isinstance(raw, dict) or raw.get("format") != FORMAT:
        what = "the run was written by another version of motherbird"
        raise OutdatedError(what, str(run / FILE), "use the version that wrote it")
    if raw.keys() != RunInfo.__dataclass_fields__.keys():
        raise InputError(f"the file is not a valid {FILE}", str(run / FILE), "restore it")
    return RunInfo(**raw)
