"""Makes an index in a process of its own, which goes on when the search has ended."""

import os
import subprocess
import sys
from pathlib import Path

from .. import disk
from ..core import hub
from ..errors import InputError
from .cache import home_of

LOG = "log.txt"  # in the directory of the index: what the last such process said


def start(root: Path, model: str) -> bool:
    """Start a process that indexes a directory, unless one does already.

    It has a low priority, and ends when the index is made.

    Args:
        root: the directory.
        model: static vectors, or an encoder initialized from them.

    Returns:
        Whether a process was started.
    """
    home = home_of(root)
    try:
        with disk.locked(home.database.with_suffix(".lock")):
            pass
    except InputError:
        return False
    is_name = hub.is_included(model) or not os.path.isdir(model)
    directory = model if is_name else os.path.abspath(model)
    command = [sys.executable, "-m", "motherbird", "index", os.fspath(root), "--model", directory]
    with (home.path / LOG).open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=home.path,
            start_new_session=True,
        )  # fmt: skip
    if os.name == "posix":
        try:
            os.setpriority(os.PRIO_PROCESS, process.pid, 19)
        except ProcessLookupError:  # it has ended
            pass
    process.returncode = 0  # it is not waited for, and Python must not warn about that
    return True
