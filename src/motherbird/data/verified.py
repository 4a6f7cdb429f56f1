"""Verification of a prepared dataset, and a record of the large files that were verified.

The record is a file in the user's cache directory, one per directory of a dataset. A large file is
not hashed again while its size, its times and its inode are those of the record.
"""

import json
import logging
import os
import time
from hashlib import sha256
from pathlib import Path

from .. import files
from ..errors import InputError

log = logging.getLogger(__name__)

LARGE = 1 << 24  # bytes; smaller files are hashed whenever a dataset is opened
# Nanoseconds without a change, after which the times of a file show any later change. Some file
# systems count whole seconds.
SETTLED = 2_000_000_000

State = list[int]  # of a file: size, time of change of content and of inode, inode


def verify(directory: Path, kind: str, *, everything: bool = False) -> None:
    """Verify a directory as `files.check_directory` does, without unchanged large files.

    With ``everything``, they are hashed too. Raises the errors of `files.check_directory`.
    """
    names = files.check_names(directory, kind)
    manifest = files.sha256(directory / files.MANIFEST)
    # Read before the files are hashed, so that a change in the meantime is found the next time.
    states = {name: state for name in names if (state := _state(directory / name))[0] >= LARGE}
    record = _record(directory)
    known = _read(record, manifest)
    unchanged = {name for name, state in states.items() if known.get(name) == state}
    files.check_files(directory, [n for n in names if everything or n not in unchanged])
    settled = time.time_ns() - SETTLED
    verified = {name: state for name, state in states.items() if max(state[1:3]) < settled}
    if verified != known:
        about = {"directory": str(directory.resolve()), "manifest": manifest, "files": verified}
        try:
            files.write_text(record, json.dumps(about))
        except OSError as error:
            log.warning("cannot write %s (%s): the next start hashes again", record, error.strerror)


def _state(path: Path) -> State:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ctime_ns, found.st_ino]


def _record(directory: Path) -> Path:
    key = sha256(os.fsencode(directory.resolve())).hexdigest()[:32]
    return files.cache_directory() / "verified" / f"{key}.json"


def _read(record: Path, manifest: str) -> dict[str, State]:
    """Return the states of verified files; none if the dataset has another manifest."""
    if not record.is_file():
        return {}
    try:
        about = files.read_json_object(record)
    except InputError:  # it is written again
        return {}
    found = about.get("files")
    return found if about.get("manifest") == manifest and isinstance(found, dict) else {}
