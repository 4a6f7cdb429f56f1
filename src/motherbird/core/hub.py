"""Find the local directory of a model."""

import logging
import os
import re
from contextlib import suppress
from functools import cache
from pathlib import Path

from ..errors import InputError

log = logging.getLogger(__name__)

NANO = "motherbird-nano"  # included in the package
PLACES = "pass a model directory, or owner/name on the Hub"
PATTERNS = ["*.json", "*.safetensors", "artifact.metadata"]  # as in fnmatch, * matches / too
NANO_FOLDER = Path(__file__).parents[1] / "weights" / "nano"


def is_included(name_or_dir: str | Path) -> bool:
    """Return whether this is the name of the model in the package, not the path of a directory.

    The bare name is always that model; ./motherbird-nano or a `Path` is a directory. Logs a
    warning if the current directory has a directory or file of that name.
    """
    if name_or_dir != NANO:
        return False
    with suppress(OSError):  # the current directory was removed
        _warn_of(Path(NANO).absolute())
    return True


@cache
def _warn_of(path: Path) -> None:
    if path.exists():
        what = "%s is the model in the package; to use %s, pass ./%s"
        log.warning(what, NANO, path, NANO)


def find(name_or_dir: str | Path, revision: str | None = None) -> Path:
    """Return the local directory of a model: as given, in the package, or downloaded from the Hub.

    `NANO` is the model in the package, see `is_included`.

    Raises:
        InputError: there is no such directory, and no such model on the Hub.
    """
    from .arguments import check_path  # imports NumPy, which the help of commands does not need

    path = check_path(name_or_dir, "the model", PLACES)
    name = str(name_or_dir)
    try:
        path = NANO_FOLDER if is_included(name_or_dir) else path
        is_directory, exists = path.is_dir(), path.exists()
    except OSError as error:
        raise InputError(f"there is no such directory ({error.strerror})", name[:100]) from error
    if is_directory and revision is not None:
        raise InputError("only models on the Hub have revisions", name, "omit the revision")
    if is_directory:
        return path
    if exists:
        raise InputError("a model is a directory, but this is a file", name)
    if path.is_symlink():
        raise InputError("the link leads nowhere", name, PLACES)
    if not re.fullmatch(r"[A-Za-z0-9][\w.-]*/[\w.-]+", name):
        raise InputError("there is no such directory", name, PLACES)
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, revision=revision, allow_patterns=PATTERNS))
    except Exception as error:  # of the library, of its HTTP client, or of the system
        reason = str(error).strip().splitlines()[0] if str(error) else type(error).__name__
        raise InputError(
            f"the model cannot be downloaded from the Hub ({reason})",
            name if revision is None else f"{name} at revision {revision}",
            "check the name, or copy the model to this machine and pass its directory",
        ) from error


def what_it_is(directory: Path) -> str:
    """Return what a directory is in place of a model, and what to do; "" if that is not known."""
    path = Path(os.path.abspath(directory))
    run = path.parent.parent
    if (path / "run.json").is_file():
        return f"export the run first: motherbird export {directory} --out DIR"
    if (run / "run.json").is_file() and (step := re.fullmatch(r"step-(\d+)", path.name)):
        export = f"motherbird export {os.path.relpath(run)} --step {int(step[1])} --out DIR"
        return f"this is a checkpoint of a run: {export}"
    if (path / "snapshots").is_dir():
        revisions = [revision.name for revision in (path / "snapshots").iterdir()]
        revision = revisions[0] if len(revisions) == 1 else "REVISION"
        return f"this is a directory of the Hub's cache: use {directory}/snapshots/{revision}"
    if (path / "adapter_model.safetensors").is_file():
        return "this is an adapter, not a model: merge it into its model, and save that"
    if any(path.glob("*.gguf")):
        return "GGUF files are not supported: use the model.safetensors of the model"
    return ""
