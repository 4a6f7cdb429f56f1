"""Checkpoints of a run: what is needed to go on as if it had never stopped.

    RUN/LOCK                        held by the one process that writes
    RUN/run.json                    `Run`: the recipe, the model's configuration, what was skipped
    RUN/checkpoints/step-00001000/
        motherbird.json             SHA-256 of the other two, and of itself
        progress.json               `Progress`: counters, the loader's cursor, health
        state.safetensors           weights and moments, float32, in the order of their names
    RUN/quarantine/                 what did not verify, or was left behind by a rewind
    RUN/log.jsonl, events.jsonl     `journal`

A checkpoint is a fresh directory that gets its name when all of it is on the disk (`files`,
`disk`), and is never changed. The newest is the highest step that verifies. The file's SHA-256 is
that of names, dtypes, shapes and bytes, and of nothing else: equal runs have equal ones.
"""

import json
import logging
import threading
from collections.abc import Iterator, Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors
import torch
from safetensors.torch import load_file
from torch import Tensor

from .. import disk, strict
from ..data.loader import Cursor
from ..errors import DamagedError, InputError, MotherbirdError
from ..files import check_directory, new_directory, read_json, read_manifest, write_text
from .health import Health

log = logging.getLogger(__name__)

KIND = "training state"
TENSORS, PROGRESS = "state.safetensors", "progress.json"
RUN, LOCK = "run.json", "LOCK"
VERSION = 1
DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16"
}  # fmt: skip


class OutdatedError(InputError):
    """A checkpoint that another version of motherbird wrote: whole, and not for this one."""

    code = "outdated"


@dataclass(frozen=True)
class Progress:
    """Where a run stands, all counts of all ranks together.

    Attributes:
        cursor: of the loader: phase, and rows of it.
        step: steps taken, those without an update included.
        updates: of the weights.
        tokens: trained on, special tokens included.
        masked: predicted.
        loss: of the last step, nats a masked token; None before the first, or if not finite.
        scale: of the loss, for float16.
        good: updates since the scale last changed.
        health: what is remembered of losses and norms.
        finished: whether the run is over.
        world: ranks that took the last step.
        phase_ends: steps with which phases ended.
        format: of this file.
    """

    cursor: Cursor
    step: int = 0
    updates: int = 0
    tokens: int = 0
    masked: int = 0
    loss: float | None = None
    scale: float = 1.0
    good: int = 0
    health: Health = field(default_factory=Health)
    finished: bool = False
    world: int = 1
    phase_ends: list[int] = field(default_factory=list)
    format: int = VERSION


@dataclass(frozen=True)
class Checkpoint:
    """A verified one.

    Attributes:
        directory: where it is.
        progress: what it says.
        sha256: of its tensors.
    """

    directory: Path
    progress: Progress
    sha256: str

    def tensors(self) -> dict[str, Tensor]:
        """Weights ("model.<name>") and moments ("optimizer.<moment>.<name>").

        Raises:
            DamagedError: they cannot be read, or are not finite.
        """
        path = self.directory / TENSORS
        try:
            tensors = load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise DamagedError(f"not a safetensors file ({error})", str(path)) from error
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise DamagedError(f"tensor {name} holds NaN or infinity", str(path))
        return tensors


def folder(run: Path, step: int) -> Path:
    """The directory of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:08}"


def steps(run: Path) -> list[int]:
    """Steps that have a checkpoint, verified or not, newest first."""
    names = (p.name for p in (run / "checkpoints").glob("step-*"))
    found = (int(n[5:]) for n in names if n[5:].isdecimal() and n == f"step-{int(n[5:]):08}")
    return sorted(found, reverse=True)


def save(run: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, complete or not at all; one that is there already is left alone.

    Args:
        run: the run's folder, whose lock is held.
        progress: whose step names it.
        tensors: on the CPU, not to change until this returns.

    Raises:
        OSError, NoRoomError: it could not be written; what was there before is untouched.
    """
    directory = folder(run, progress.step)
    if directory.exists():  # perhaps of a process that was killed before it could sync
        disk.sync(directory.parent)
        disk.sync(run)
        return
    chunks, size = _safetensors(tensors)
    text = json.dumps(asdict(progress), indent=1).encode()
    disk.check_room(run, size + len(text))
    if not directory.parent.exists():
        disk.mkdir(directory.parent)
    disk.sync(run)
    digests: dict[str, str] = {}
    with new_directory(directory, KIND, digests=digests) as fresh:
        digests[TENSORS] = disk.write(fresh / TENSORS, chunks, size)
        digests[PROGRESS] = disk.write(fresh / PROGRESS, [text], len(text))


def _safetensors(tensors: Mapping[str, Tensor]) -> tuple[Iterator[bytes | memoryview], int]:
    """The bytes of a safetensors file, in the order of names and without metadata."""
    header: dict[str, Any] = {}
    place = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = place + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": list(tensor.shape),
            "data_offsets": [place, end],
        }
        place = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in sorted(tensors):
            tensor = tensors[name].contiguous().reshape(-1)
            if tensor.numel():
                yield tensor.view(torch.uint8).numpy().data

    return chunks(), 8 + len(text) + place


def read(directory: Path) -> Checkpoint:
    """A checkpoint, after every byte of it was compared with its manifest.

    Raises:
        InputError, DamagedError: it is none, or not as it was written; what is wrong is named.
    """
    if directory.is_symlink():
        raise DamagedError("it is a link, not a folder", str(directory))
    check_directory(directory, KIND)
    digests = read_manifest(directory)["sha256"]
    if digests.keys() != {TENSORS, PROGRESS}:
        raise DamagedError("it holds other files than a state has", str(directory))
    path = directory / PROGRESS
    raw = read_json(path)
    if isinstance(raw, dict) and raw.get("format") != VERSION:
        raise OutdatedError(
            f"it has format {raw.get('format')}, this motherbird reads {VERSION}",
            str(path),
            "use the version that wrote it",
        )
    progress = strict.build(Progress, raw, str(path))
    if directory.name != f"step-{progress.step:08}":
        raise DamagedError(f"it is the state of step {progress.step}", str(directory))
    return Checkpoint(directory, progress, digests[TENSORS])


def newest(run: Path, *, before: int | None = None, quarantine: bool = False) -> Checkpoint | None:
    """The newest checkpoint that verifies; None where the run has none at all.

    Args:
        run: the run's folder.
        before: only steps up to this one.
        quarantine: move what does not verify out of the way; for who holds the lock.

    Raises:
        DamagedError: there are checkpoints, and none verifies; with the reason of each.
    """
    reasons = []
    for step in steps(run):
        if before is not None and step > before:
            continue
        directory = folder(run, step)
        try:
            found = read(directory)
            found.tensors()
            return found
        except OutdatedError:
            raise
        except (MotherbirdError, OSError) as error:
            log.warning("checkpoint %s cannot be used: %s", directory.name, error)
            if isinstance(error, OSError):
                what, where = error.strerror or str(error), str(error.filename or directory)
            else:
                what, where = error.what, error.where
            reasons.append(f"{directory.name}: {what} ({Path(where).name})")
            if quarantine:
                quarantine_checkpoint(run, directory, "damaged")
    if reasons:
        raise DamagedError(
            f"no checkpoint can be used: {'; '.join(reasons)}",
            str(run),
            "copy one back from elsewhere, or begin a new run in another folder",
        )
    return None


def quarantine_checkpoint(run: Path, directory: Path, why: str) -> None:
    """Move a checkpoint into quarantine, where nothing looks for one; kept, never deleted."""
    home = run / "quarantine"
    try:
        if not home.exists():
            disk.mkdir(home)
        number = 0
        while (target := home / f"{directory.name}.{why}.{number}").exists():
            number += 1
        disk.rename(directory, target)
    except OSError as error:
        log.warning("%s cannot be moved out of the way (%s)", directory, error.strerror)


def quarantine_after(run: Path, step: int, why: str) -> None:
    """Move all checkpoints behind a step into quarantine, the newest first.

    Raises:
        DamagedError: one cannot be moved.
    """
    for later in [number for number in steps(run) if number > step]:
        quarantine_checkpoint(run, folder(run, later), why)
        if folder(run, later).exists():
            raise DamagedError(
                "a checkpoint cannot be moved out of the way",
                str(folder(run, later)),
                "check the rights of the folder, and try again",
            )


def retain(run: Path, keep: int, keep_every: int, always: set[int]) -> None:
    """Delete old checkpoints: all but the newest, multiples, and some.

    Args:
        run: whose lock is held.
        keep: of the newest.
        keep_every: multiples of it stay; 0 none.
        always: these stay.
    """
    for step in steps(run)[keep:]:
        if step in always or (keep_every and step % keep_every == 0):
            continue
        directory = folder(run, step)
        doomed = directory.with_name(f".{directory.name}.del")
        disk.remove(doomed)
        disk.rename(directory, doomed)  # never half there under its name
        disk.sync(directory.parent)
        disk.remove(doomed)


def clean(run: Path) -> None:
    """Remove what writes that were killed have left; for who holds the lock."""
    for home in (run, run / "checkpoints"):
        for pattern in (".*.tmp", ".*.del"):
            for path in home.glob(pattern):
                disk.remove(path)


class Saver:
    """Saves in the background: the state is copied, and training goes on.

    A save that fails leaves the run as it was; the third in a row, or one that must not
    fail (the first and the last of a run), is an error.

    Args:
        run: the run's folder.
    """

    TRIES = 3

    def __init__(self, run: Path) -> None:
        self.run = run
        self.failures = 0
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._copies: dict[str, Tensor] = {}

    def begin(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state and save it, after the save before is done."""
        self.finish()
        for name, tensor in tensors.items():  # into memory that is used again
            copy = self._copies.get(name)
            if copy is None or copy.shape != tensor.shape or copy.dtype != tensor.dtype:
                self._copies[name] = tensor.detach().to("cpu", copy=True)
            else:
                copy.copy_(tensor.detach())
        for name in self._copies.keys() - tensors.keys():
            del self._copies[name]
        self._thread = threading.Thread(target=self._save, args=(deepcopy(progress),), daemon=True)
        self._thread.start()

    def _save(self, progress: Progress) -> None:
        try:
            save(self.run, progress, self._copies)
        except Exception as error:
            self._error = error

    def finish(self, *, must: bool = False) -> str:
        """Wait for the save that is under way; what failed, in words, or nothing.

        Args:
            must: raise whatever failed: the run cannot do without this save.

        Raises:
            Exception: what failed three times in a row, or must not fail.
        """
        if self._thread is None:
            return ""
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is None:
            self.failures = 0
            return ""
        self.failures += 1
        if must or self.failures >= self.TRIES:
            raise error
        log.warning("the state was not saved (%s); the next save tries again", error)
        return str(error)


@dataclass(frozen=True)
class Run:
    """What run.json says.

    Attributes:
        given: the recipe as the command gave it, which the same command has to give again.
        recipe: what is run: the same, but for changes by `runs rewind`.
        config: of the model, as `EncoderConfig`.
        data: SHA-256 of the prepared set's manifest.
        skips: stretches of a phase's order that are left out: phase, first row, row behind the
            last, and why.
        changes: what `runs rewind` did: the step, and what was set.
        made_with: machine, device and versions at the start.
        data_path: where the set was, for who looks.
    """

    given: dict[str, Any]
    recipe: dict[str, Any]
    config: dict[str, Any]
    data: str
    skips: list[dict[str, Any]]
    changes: list[dict[str, Any]]
    made_with: dict[str, Any]
    data_path: str


def write_run(run: Path, about: Run) -> None:
    """Write run.json in one step."""
    write_text(run / RUN, json.dumps(asdict(about), indent=1, ensure_ascii=False) + "\n")


def read_run(run: Path) -> Run:
    """Read run.json.

    Raises:
        InputError: it is not the folder of a run.
    """
    if not (run / RUN).is_file():
        raise InputError(
            "not the folder of a run (it would hold run.json)",
            str(run),
            "give the --out of motherbird pretrain; motherbird runs list shows some",
        )
    raw = read_json(run / RUN)
    if not isinstance(raw, dict) or raw.keys() != Run.__dataclass_fields__.keys():
        raise InputError("not a run.json of this version", str(run / RUN))
    raw["made_with"].setdefault("device", "cpu")  # earlier versions ran on CPUs alone
    return Run(**raw)
