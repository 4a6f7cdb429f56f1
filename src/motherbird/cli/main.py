"""The entry point: imports a command when it is called, and prints errors as one line.

Exit codes: 0 success, 1 failure, 2 invalid arguments or configuration, 130 stopped by SIGINT, 143
by SIGTERM.
"""

import errno
import json
import logging
import os
import re
import signal
import sys
from importlib import import_module
from types import FrameType
from typing import Any, NoReturn, cast

import click

from .. import __version__
from ..errors import InputError, MotherbirdError

# Each is a module with a click command called `command`, which is imported when it is called.
COMMANDS = {
    "bench": "Compare speed and memory with other libraries on this machine.",
    "classify": "Predict the label of each text of a file.",
    "data": "Build a corpus; make training pairs; show a prepared dataset.",
    "demo": "Train a tiny encoder, fill masks and search (3 minutes).",
    "distill": "Make a small model from a larger one.",
    "embed": "Compute a vector for each text of a file.",
    "evaluate": "Evaluate a model: masked words, search, GLUE.",
    "export": "Export a model to Hugging Face, ONNX or OpenVINO.",
    "fill-mask": "Predict the masked words of a text.",
    "finetune": "Fine-tune a model on labelled texts, or for search.",
    "guard": "Check texts for a language model by the rules of a policy.",
    "index": "Make, list or delete indexes for search.",
    "info": "Describe a model, or this machine.",
    "mcp": "Serve search to editors and agents (MCP).",
    "prepare": "Clean, tokenize and pack text for training.",
    "pretrain": "Pretrain an encoder from a recipe.",
    "route": "Choose the cheapest LLM that is good enough for each text.",
    "runs": "List, show, report, average or rewind pretraining runs.",
    "score": "Score the pairs of texts of a file.",
    "search": "Search the files of a directory by words and meaning.",
    "tag": "Find labelled spans, such as names, in the texts of a file.",
    "tokenizer": "Train a tokenizer and compare it with others.",
}
# What to do about an OSError, by the name of its errno.
OS_ERRORS = {
    **dict.fromkeys(("ENOSPC", "EDQUOT"), "free some space, or use another disk"),
    **dict.fromkeys(("EACCES", "EPERM"), "check the permissions"),
    "EROFS": "the file system is read-only, use another one",
    **dict.fromkeys(("ENOENT", "ENOTDIR", "EISDIR", "ELOOP"), "check the path"),
    **dict.fromkeys(("EEXIST", "ENOTEMPTY"), "use another path, or remove what is there"),
    "ENAMETOOLONG": "use a shorter name",
    **dict.fromkeys(("EMFILE", "ENFILE"), "raise the limit of open files, such as ulimit -n 4096"),
    "EFBIG": "use a file system or a limit (ulimit -f) that allows files of this size",
    **dict.fromkeys(("EIO", "ESTALE"), "check the disk or its connection"),
    **dict.fromkeys(("EBUSY", "ETXTBSY"), "end the process that uses it"),
    **dict.fromkeys(("EAGAIN", "ENOMEM"), "end other processes, or raise their limits"),
}


class Lazy(click.Group):
    """A group whose help imports no command."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Import the command, of which the group has only the name and the line in --help."""
        name, _, rest = super().resolve_command(ctx, args)
        return name, load(name) if name else None, rest


def load(name: str) -> click.Command:
    """Import and return a command."""
    return import_module(f"motherbird.cli.{name.replace('-', '_')}").command


@click.group(
    cls=Lazy,
    commands=[click.Command(name, short_help=line) for name, line in COMMANDS.items()],
    epilog="Start with: motherbird demo",
    context_settings={"help_option_names": ["-h", "--help"]},
    invoke_without_command=True,
)
@click.version_option(__version__, prog_name="motherbird")
@click.option("--verbose", is_flag=True, help="Log the choice of kernels, dtypes and devices.")
@click.option("--debug", is_flag=True, help="Show the traceback of an error.")
@click.pass_context
def cli(ctx: click.Context, verbose: bool, debug: bool) -> None:
    """motherbird: a ModernBERT encoder without padding."""
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())
        return
    try:
        os.getcwd()
    except FileNotFoundError as error:  # every relative path would be an error, and so is torch
        what = "the current directory does not exist any more"
        raise InputError(what, how="cd to another one") from error
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(levelname)s: %(message)s"))
    logger = logging.getLogger("motherbird")
    logger.handlers = [handler]
    logger.setLevel(logging.INFO if verbose else logging.WARNING)


def _stop(number: int, stack: FrameType | None) -> NoReturn:
    raise SystemExit(128 + number)


def main() -> None:
    """Run the command line, and exit."""
    signal.signal(signal.SIGTERM, _stop)
    for stream in (sys.stdout, sys.stderr):  # so that output works in the C locale
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="backslashreplace")
    try:
        result = cli.main(prog_name="motherbird", standalone_mode=False)
        code = result if isinstance(result, int) else 0
        if sys.stdout is not None:  # None if the caller closed it
            sys.stdout.flush()
    except SystemExit as stop:
        code = int(stop.code or 0)
        code = code if code != 143 else _fail("stopped", "stopped by a signal", exit_code=code)
    except (KeyboardInterrupt, click.Abort):
        code = _fail("interrupted", "stopped by Ctrl-C", exit_code=130)
    except BrokenPipeError:
        code = _discard_output()
    except Exception as error:
        if "--debug" in sys.argv and not isinstance(error, click.ClickException):
            import traceback

            traceback.print_exc()
        try:
            code = _report(error)
        except BrokenPipeError:
            code = _discard_output()
    try:
        if sys.stdout is not None:
            sys.stdout.flush()  # what could not be written before
    except OSError:
        _discard_output()
    sys.exit(code)


def _discard_output() -> int:
    """Redirect standard output, so that the interpreter does not fail when it flushes it."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return 1


def _report(error: Exception) -> int:
    if isinstance(error, MotherbirdError):
        return _fail(error.code, error.what, error.where, error.how, error.exit_code)
    if isinstance(error, click.exceptions.NoArgsIsHelpError) and error.ctx is not None:
        group = cast(click.Group, error.ctx.command)
        how = f"use one of {', '.join(group.list_commands(error.ctx))}"
        what = f"a command is missing after {error.ctx.command_path}"
        return _fail("usage", what, "", f"{how}; see {error.ctx.command_path} --help", 2)
    if isinstance(error, click.ClickException):
        how = ""
        if isinstance(error, click.UsageError) and error.ctx is not None:
            how = f"see {error.ctx.command_path} --help"
            lists = [p.opts[0] for p in error.ctx.command.params if "," in (p.metavar or "")]
            if lists and "unexpected extra argument" in error.message:
                how = f"separate the values of {' and '.join(lists)} with commas; {how}"
        # "integer range" is the name of a type in click
        what = re.sub(r"a valid (integer|float) range\b", r"a valid \1", error.format_message())
        return _fail("usage", what.rstrip("."), "", how, 2)
    if isinstance(error, OSError):
        # A temporary file is reported with the name that it would have got.
        where = re.sub(r"\.([^/]+)\.[0-9a-f]+\.tmp(?=/|$)", r"\1", str(error.filename or ""))
        how = OS_ERRORS.get(errno.errorcode.get(error.errno or 0, ""), "")
        return _fail("io", error.strerror or str(error), where, how)
    if isinstance(error, ModuleNotFoundError) and error.name == "torch":
        how = "pip install -c constraints.txt '.[train]'"
        return _fail("missing-extra", "the package 'torch' is not installed", "", how, 2)
    name, text = type(error).__name__, str(error)
    if name in ("MemoryError", "OutOfMemoryError") or "allocate memory" in text:
        return _fail("memory", "not enough memory", "", "use a smaller model or shorter texts")
    what = f"{name}: {text}"
    return _fail(
        "internal",
        what,
        "",
        "this is a bug in motherbird; motherbird --debug ... shows the traceback",
    )


def _fail(code: str, what: str, where: str = "", how: str = "", exit_code: int = 1) -> int:
    """Print an error as one line, and with --json as JSON on standard output."""
    parts = [" ".join(part.split()) for part in (what, where, how) if part]
    if "--json" in sys.argv:
        error: dict[str, Any] = {"code": code, "what": what, "where": where, "how": how}
        try:
            print(json.dumps({"error": error}), flush=True)  # noqa: T201
        except BrokenPipeError:
            raise
        except OSError:  # such as a full disk; the line on standard error is enough
            _discard_output()
    click.echo(f"error: {': '.join(parts)}", err=True)
    return exit_code
