"""``motherbird mcp``."""

from pathlib import Path

import click

from . import options


@click.command(name="mcp")
@click.argument("path", default=".", type=click.Path(), metavar="[PATH]")
@options.static_model
@click.option("--watch", is_flag=True,
              help="Add changes of the files when they happen, and not with the next call.",
              )  # fmt: skip
def command(path: str, model: str, watch: bool) -> None:
    """Serve search over PATH (default: the current directory) to editors and agents, by MCP.

    \b
    motherbird mcp
    claude mcp add motherbird -- motherbird mcp

    The tools are search, similar (code like this), read (lines of a file) and status. The server
    talks on standard input and output, and ends with its client. docs/search.md shows the setup of
    editors and agents. Any number of servers may run on one directory; they share its index.
    """  # noqa: D301
    from ..search.cache import root_of
    from ..search.server import make

    make(root_of(Path(path)), model, watched=watch).run("stdio")
