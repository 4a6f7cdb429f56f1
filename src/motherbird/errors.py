"""Exceptions for errors that users can cause.

Each has three parts: what is wrong, where, and how to fix it. The command line prints them as
``error: <what>: <where>: <how>`` and exits with the ``exit_code`` of the class.
"""

from importlib import import_module
from types import ModuleType


class MotherbirdError(Exception):
    """Base class; not raised itself."""

    exit_code = 1
    code = "failed"

    def __init_subclass__(cls, code: str = "") -> None:
        cls.code = code or cls.code

    def __init__(self, what: str, where: str = "", how: str = "") -> None:
        where = repr(where) if "\n" in where or "\r" in where else where  # such as a path
        self.what, self.where, self.how = what, where, how
        message = ": ".join(part for part in (what, where, how) if part)
        super().__init__(" ".join(message.splitlines()))  # of a library, for example

    def __reduce__(self) -> tuple[type["MotherbirdError"], tuple[str, str, str]]:
        """Support pickling, so that errors of worker processes can be raised in the parent."""
        return type(self), (self.what, self.where, self.how)


class InputError(MotherbirdError, ValueError, code="input"):
    """An argument, a file or a configuration cannot be used; raised before any work is done."""

    exit_code = 2


class HeadError(InputError, code="input"):
    """A checkpoint has no head of the wanted model."""


class OutdatedError(InputError, code="outdated"):
    """A file was written by another version of motherbird, in another format."""


class OutputExistsError(InputError, code="output-exists"):
    """The output path exists and may not be replaced."""


class DamagedError(MotherbirdError, code="damaged"):
    """A file is truncated, was changed, or lacks tensors."""


class NotTextError(DamagedError, code="not-text"):
    """A file is not text: it is binary, in another encoding, unreadable or too large."""


class RowError(DamagedError, code="damaged"):
    """A row of a file (a line of JSON, a row of Parquet) has no text that can be used."""


class FieldError(DamagedError, code="damaged"):
    """A table has no text column of the wanted name; the fix names those that there are."""


class RowFieldError(FieldError, RowError, code="damaged"):
    """A line of JSON, or a row of a dataset, has no text field of the wanted name."""


class NoMemoryError(MotherbirdError, code="no-memory"):
    """A training step needs more memory than there is."""


class FetchError(MotherbirdError, code="fetch"):
    """A package or a dataset cannot be downloaded."""


class StoreError(MotherbirdError, code="store"):
    """Files at a URL cannot be read or written."""


class NoRoomError(MotherbirdError, code="no-room"):
    """The disk has too little free space."""


class BusyError(MotherbirdError, code="busy"):
    """Another process has been writing the same index for too long."""


class WorkerError(MotherbirdError, code="worker"):
    """A worker process, or another rank, died, hung or failed."""


class ParityError(MotherbirdError, code="parity"):
    """The outputs of an exported file differ from those of the model."""


class DivergedError(MotherbirdError, FloatingPointError, code="diverged"):
    """Training diverged.

    A loss or a weight is not finite, or the run was rolled back too often.
    """


class StoppedError(MotherbirdError, code="stopped"):
    """A signal stopped the work; its state is saved."""

    def __init__(self, what: str, where: str = "", how: str = "", signal: int = 15) -> None:
        super().__init__(what, where, how)
        self.exit_code = 128 + signal


class MissingExtraError(InputError, ImportError, code="missing-extra"):
    """An optional dependency is not installed; the message has the pip command."""


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise MissingExtraError with the extra that installs it."""
    try:
        return import_module(module)
    except ImportError as error:
        how = f"pip install -c constraints.txt '.[{extra}]'"
        raise MissingExtraError(f"the package {module!r} is not installed", how=how) from error


def counted(number: int, noun: str, plural: str = "") -> str:
    """Return a number with a noun: "1 row" or "1,024 rows"."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def with_article(noun: str) -> str:
    """Return a noun with "a" or "an"."""
    return f"{'an' if noun[:1].lower() in 'aeiou' else 'a'} {noun}"


def human(number: int | float, unit: str = "") -> str:
    """Format a number: 1234567 becomes "1.23M"."""
    for suffix in ("", "k", "M", "G"):
        if abs(number) < 999.5:  # 999.7 is rounded to 1e+03
            return f"{number:.3g}{suffix}{unit}"
        number /= 1000
    return f"{number:.3g}T{unit}"
