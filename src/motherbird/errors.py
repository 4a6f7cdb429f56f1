"""Exceptions for errors that users can cause.

Each has three parts: what is wrong, where, and how to fix it. The command line prints them as
``error: <what>: <where>: <how>`` and exits with the ``exit_code`` of the class.
"""

from types import ModuleType


class MotherbirdError(Exception):
    """Base class; not raised itself."""

    exit_code = 1
    code = "failed"

    def __init__(self, what: str, where: str = "", how: str = "") -> None:
        self.what, self.where, self.how = what, where, how
        super().__init__(": ".join(part for part in (what, where, how) if part))

    def __reduce__(self) -> tuple[type["MotherbirdError"], tuple[str, str, str]]:
        """Support pickling, so that errors of worker processes can be raised in the parent."""
        return type(self), (self.what, self.where, self.how)


class InputError(MotherbirdError, ValueError):
    """An argument, a file or a configuration cannot be used; raised before any work is done."""

    exit_code = 2
    code = "input"


class OutputExistsError(InputError):
    """The output path exists and was not written by motherbird."""

    code = "output-exists"


class DamagedError(MotherbirdError):
    """A file is truncated, was changed, or lacks tensors."""

    code = "damaged"


class NotTextError(DamagedError):
    """A file is not text: it is binary, in another encoding, unreadable or too large."""

    code = "not-text"


class FetchError(MotherbirdError):
    """A package or a dataset cannot be downloaded."""

    code = "fetch"


class WorkerError(MotherbirdError):
    """A worker process, or another rank, died, hung or failed."""

    code = "worker"


class ParityError(MotherbirdError):
    """The outputs of an exported file differ from those of the model."""

    code = "parity"


class DivergedError(MotherbirdError, FloatingPointError):
    """Training diverged: the loss is not finite."""

    code = "diverged"


class StoppedError(MotherbirdError):
    """A signal stopped the work; its state is saved."""

    code = "stopped"

    def __init__(self, what: str, where: str = "", how: str = "", signal: int = 15) -> None:
        super().__init__(what, where, how)
        self.exit_code = 128 + signal


class MissingExtraError(InputError, ImportError):
    """An optional dependency is not installed; the message has the pip command."""

    code = "missing-extra"


def require_extra(module: str, extra: str) -> ModuleType:
    """Import ``module``, or raise MissingExtraError with the extra that installs it."""
    from importlib import import_module

    try:
        return import_module(module)
    except ImportError as error:
        raise MissingExtraError(
            f"the package {module!r} is not installed", how=f"pip install 'motherbird[{extra}]'"
        ) from error
