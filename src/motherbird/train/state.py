"""Checkpoints of a run: everything needed to resume as if it had never stopped.

    RUN/LOCK                        held by the one process that writes
    RUN/run.json                    `run_info`: recipe, model configuration, skipped data
    RUN/checkpoints/step-00001000/
        motherbird.json             SHA-256 of the other two files, and of itself
        progress.json               `Progress`: counters, the loader's cursor, health
        state.safetensors           weights and optimizer state, float32, sorted by name
    RUN/quarantine/                 checkpoints that are damaged, or that a rewind or a rollback
                                    left behind
    RUN/log.jsonl, events.jsonl     `run_log`

A checkpoint is a new directory that gets its name when all of it is on the disk (`files`, `disk`),
and is never changed. The newest one is that of the highest step that verifies. The SHA-256 of
state.safetensors covers names, dtypes, shapes and bytes and nothing else, so equal runs have equal
digests.
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
from ..errors import DamagedError, InputError, MotherbirdError, OutdatedError
from ..files import check_directory, new_directory, read_json, read_manifest
from .health import Health

log = logging.getLogger(__name__)

KIND = "training state"
TENSORS, PROGRESS = "state.safetensors", "progress.json"
VERSION = 2
RESTORE = "restore one from a backup, or start a new run in another directory"
DTYPES = {
    torch.float32: "F32", torch.float64: "F64", torch.bfloat16: "BF16", torch.float16: "F16"
}  # fmt: skip


@dataclass(frozen=True)
class Best:
    """The best evaluation of a run that stops early."""

    step: int  # the step after which it was
    epoch: int  # the epoch, from 1
    value: float | None  # the metric; more is better; None if it was undefined


@dataclass(frozen=True)
class Progress:
    """The state of training, except weights and optimizer state; counts are of all ranks."""

    cursor: Cursor  # position in the data
    step: int = 0  # number of steps taken, including those without an update
    updates: int = 0  # number of updates of the weights
    tokens: int = 0  # tokens trained on, including special tokens
    masked: int = 0  # loss terms trained on: masked tokens
    # mean loss of the last step in nats; None before the first, or if it is not finite
    loss: float | None = None
    scale: float = 1.0  # scale of the loss, for float16
    scale_steps: int = 0  # steps since the scale last changed
    health: Health = field(default_factory=Health)  # recent losses, norms and skipped steps
    finished: bool = False  # whether the run is over
    world_size: int = 1  # number of ranks in the last step
    phase_ends: list[int] = field(default_factory=list)  # the last step of every finished phase
    best: Best | None = None  # of a run that keeps its best checkpoint
    # largest number of tokens of a micro-batch, of a run that halves it where memory runs out
    micro_tokens: int | None = None
    format: int = VERSION  # version of this record

    @property
    def phase(self) -> int:
        """Number of the phase of the last step; after its last one the cursor is at the next."""
        phase = self.cursor.phase
        return phase - 1 if phase and self.cursor.consumed == 0 else phase


@dataclass(frozen=True)
class Checkpoint:
    """A checkpoint that was verified."""

    directory: Path  # its directory
    progress: Progress  # the content of progress.json
    sha256: str  # SHA-256 of state.safetensors

    def tensors(self) -> dict[str, Tensor]:
        """Read the tensors, "model.<name>" and "optimizer.<moment>.<name>", all of them finite."""
        path = self.directory / TENSORS
        try:
            tensors = load_file(path)
        except (safetensors.SafetensorError, OSError, ValueError) as error:
            raise DamagedError(f"invalid safetensors file ({error})", str(path)) from error
        for name, tensor in tensors.items():
            if not torch.isfinite(tensor).all():
                raise DamagedError(f"tensor {name} contains NaN or infinity", str(path))
        return tensors

    def weights_and_optimizer_state(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Read the `tensors`, and return weights and optimizer state, without the prefixes."""
        tensors = self.tensors()
        weights, optimizer_state = (
            {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
            for prefix in ("model.", "optimizer.")
        )
        return weights, optimizer_state


def folder(run: Path, step: int) -> Path:
    """Return the directory of a step's checkpoint."""
    return run / "checkpoints" / f"step-{step:08}"


def steps(run: Path) -> list[int]:
    """Return the steps that have a checkpoint, verified or not, newest first."""
    names = (p.name for p in (run / "checkpoints").glob("step-*"))
    found = (int(n[5:]) for n in names if n[5:].isdecimal() and n == f"step-{int(n[5:]):08}")
    return sorted(found, reverse=True)


def save(run: Path, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
    """Write a checkpoint, completely or not at all; an existing one is left unchanged.

    The run's lock is held, and the tensors, on the CPU, do not change until this returns. After an
    OSError or NoRoomError, nothing that existed before is changed.
    """
    directory = folder(run, progress.step)
    if directory.exists():  # perhaps written by a process that was killed before it could sync
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
    """Return the bytes of a safetensors file, sorted by name, and their number."""
    header: dict[str, Any] = {}
    offset = 0
    for name in sorted(tensors):
        tensor = tensors[name]
        end = offset + tensor.numel() * tensor.element_size()
        header[name] = {
            "dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape),
            "data_offsets": [offset, end],
        }  # fmt: skip
        offset = end
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)

    def chunks() -> Iterator[bytes | memoryview]:
        yield len(text).to_bytes(8, "little") + text
        for name in sorted(tensors):
            tensor = tensors[name].contiguous().reshape(-1)
            if tensor.numel():
                yield tensor.view(torch.uint8).numpy().data

    return chunks(), 8 + len(text) + offset


def read(directory: Path) -> Checkpoint:
    """Read a checkpoint, after comparing every byte of it with its manifest."""
    if directory.is_symlink():
        raise DamagedError("the directory is a symbolic link", str(directory))
    check_directory(directory, KIND)
    digests = read_manifest(directory)["sha256"]
    if digests.keys() != {TENSORS, PROGRESS}:
        raise DamagedError("the checkpoint contains unknown files", str(directory))
    path = directory / PROGRESS
    raw = read_json(path)
    if isinstance(raw, dict) and raw.get("format") != VERSION:
        what = f"the checkpoint has format {raw.get('format')}; this version reads format {VERSION}"
        raise OutdatedError(what, str(path), "use the version that wrote it")
    progress = strict.build(Progress, raw, str(path))
    if directory.name != f"step-{progress.step:08}":
        raise DamagedError(f"the directory has the state of step {progress.step}", str(directory))
    return Checkpoint(directory, progress, digests[TENSORS])


def newest(run: Path, *, before: int | None = None, quarantine: bool = False) -> Checkpoint | None:
    """Return the newest checkpoint that verifies, up to a step; None if the run has none.

    If none verifies, DamagedError has the reason for each.
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
        raise DamagedError(f"no checkpoint can be used: {'; '.join(reasons)}", str(run), RESTORE)
    return None


def find(run: Path, step: int | None = None) -> Checkpoint:
    """Return the verified checkpoint of a step, or the newest one."""
    if step is not None:
        check_exists(run, step)
        return read(folder(run, step))
    found = newest(run)
    if found is None:
        raise InputError("the run has no checkpoint yet", str(run))
    return found


def check_exists(run: Path, step: int) -> None:
    """Raise InputError, listing the checkpoints, if a step has none."""
    existing = steps(run)
    if step not in existing:
        how = f"existing steps: {', '.join(map(str, sorted(existing)))}" if existing else ""
        raise InputError(f"there is no checkpoint for step {step}", str(run), how)


def quarantine_checkpoint(run: Path, directory: Path, why: str) -> None:
    """Move a checkpoint into RUN/quarantine, which is never read or deleted."""
    home = run / "quarantine"
    try:
        if not home.exists():
            disk.mkdir(home)
        number = 0
        while (target := home / f"{directory.name}.{why}.{number}").exists():
            number += 1
        disk.rename(directory, target)
    except OSError as error:
        log.warning("%s cannot be moved to quarantine (%s)", directory, error.strerror)


def quarantine_after(run: Path, step: int, why: str) -> None:
    """Move all checkpoints after a step into quarantine, newest first."""
    for later in [number for number in steps(run) if number > step]:
        quarantine_checkpoint(run, folder(run, later), why)
        if folder(run, later).exists():
            how = "check the permissions of the directory, and try again"
            what = "a checkpoint cannot be moved to quarantine"
            raise DamagedError(what, str(folder(run, later)), how)


def retain(run: Path, keep: int, keep_every: int, always: set[int]) -> None:
    """Delete checkpoints, except the newest, multiples of ``keep_every``, and ``always``."""
    for step in steps(run)[keep:]:
        if step in always or (keep_every and step % keep_every == 0):
            continue
        directory = folder(run, step)
        temporary = directory.with_name(f".{directory.name}.del")
        disk.remove(temporary)
        disk.rename(directory, temporary)  # so that no partly deleted checkpoint keeps its name
        disk.sync(directory.parent)
        disk.remove(temporary)


def clean(run: Path) -> None:
    """Remove temporary files of killed writes; the caller holds the lock."""
    for home in (run, run / "checkpoints"):
        for pattern in (".*.tmp", ".*.del"):
            for path in home.glob(pattern):
                disk.remove(path)


class Saver:
    """Writes checkpoints in a background thread, from a copy, while training continues.

    A checkpoint that cannot be written leaves the run unchanged. The third failure in a row, or a
    failure of a checkpoint that is required (the first and the last of a run), is an error.
    """

    TRIES = 3

    def __init__(self, run: Path) -> None:
        self.run = run
        self.failures = 0
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._copies: dict[str, Tensor] = {}

    def begin(self, progress: Progress, tensors: Mapping[str, Tensor]) -> None:
        """Copy the state and start to write it, after the previous checkpoint is written."""
        self.finish()
        for name, tensor in tensors.items():  # reusing the memory of the last copy
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

    def finish(self, *, required: bool = False) -> str:
        """Wait for the write in progress, and return its error message, or "".

        The error is raised if the checkpoint is required, or if it is the third failure in a row.
        """
        if self._thread is None:
            return ""
        self._thread.join()
        self._thread, error, self._error = None, self._error, None
        if error is None:
            self.failures = 0
            return ""
        self.failures += 1
        if required or self.failures >= self.TRIES:
            raise error
        log.warning("the checkpoint was not written (%s); the next one will be tried", error)
        return str(error)
