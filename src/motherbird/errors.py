"""The few exceptions a user meets.

Every one has three parts: what was given, where, and how to go on. The command line prints them as
``error: <what>: <where>: <how>`` and exits with the class's ``exit_code``.
"""

from types import ModuleType


class MotherbirdError(Exception):
    """Base of all errors that a user can cause; never raised itself."""

    exit_code = 1
    code = "failed"

    def __init__(self, what: str, where: str = "", how: str = "") -> None:
        self.what, self.where, self.how = what, where, how
        super().__init__(": ".join(part for part in (what, where, how) if part))

    def __reduce__(self) -> tuple[type["MotherbirdError"], tuple[str, str, str]]:
        """Arrive whole from another process."""
        return type(self), (self.what, self.where, self.how)


class InputError(MotherbirdError, ValueError):
    """Refused before any work: an argument, a file or a configuration that cannot be used."""

    exit_code = 2
    code = "input"


class OutputExistsError(InputError):
    """The output path holds something that motherbird did not write."""

    code = "output-exists"


class DamagedError(MotherbirdError):
    """A file is not what it claims to be: truncated, altered, or tensors missing from it."""

    code = "damaged"


class NotTextError(DamagedError):
    """A file that is no text at all: binary, in another encoding, unreadable, too large."""

    code = "not-text"


class FetchError(MotherbirdError):
    """Something from elsewhere cannot be had: a package, a data set."""

    code = "fetch"


class WorkerError(MotherbirdError):
    """A process that worked for us, or with us, died or hung."""

    code = "worker"


class ParityError(MotherbirdError):
    """An exported file does not compute what the model does."""

    code = "parity"


class DivergedError(MotherbirdError, FloatingPointError):
    """Training went wrong: a loss that is not finite."""

    code = "diverged"


class StoppedError(MotherbirdError):
    """A signal ended the work in good order; what was done is saved."""

    code = "stopped"

    def __init__(self, what: str, where: str = "", how: str = "", signal: int = 15) -> None:
        super().__init__(what, where, how)
        self.exit_code = 128 + signal


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed; the message holds the pip line."""

    code = "missing-extra"


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise MissingExtraError naming the extra that brings it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"the package {module!r} is not installed", how=f"pip install 'motherbird[{extra}]'"
        ) from error
