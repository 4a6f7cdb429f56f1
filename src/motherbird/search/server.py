"""An MCP server (modelcontextprotocol.io): search over a directory for editors and agents.

Nothing heavy is imported before the client has been greeted: the index is opened by the first call.
Calls run one after another in a thread, so that the server answers others meanwhile.
"""

import threading
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from ..errors import MotherbirdError, require_extra

if TYPE_CHECKING:
    from mcp.server import MCPServer

    from .index import Index

T = TypeVar("T")

INSTRUCTIONS = """Search the files of {root} by meaning and by words. Prefer `search` to grep for
questions ("where are routes registered"), topics, and names of functions and classes. Results are
whole functions, classes and sections with their lines; paths are relative to {root}. The index
follows every change of the files."""
LINES = 400  # of a `read`, at most


class Server:
    """The tools, and the index that they share.

    Args:
        root: a directory; in a repository, the whole repository is searched.
        model: static vectors, or an encoder initialized from them.
    """

    def __init__(self, root: Path, model: str) -> None:
        self.root, self.model = root, model
        self._index: Index | None = None
        self._lock = threading.Lock()

    def with_index(self, work: "Callable[[Index], T]") -> T:
        """Call a function with the index, which is opened now if it was not."""
        from .index import Index

        with self._lock:
            if self._index is None:
                self._index = Index.open(self.root, self.model)
            return work(self._index)

    def watch(self) -> None:
        """Add changes of files when they happen; in a thread, with a connection of its own."""
        from .index import Index
        from .watch import watch

        index = Index.open(self.root, self.model)
        index.refresh()
        watch(index)

    def search(
        self, query: str, k: int = 10, path: str = "", language: str = "", kind: str = ""
    ) -> dict[str, Any]:
        """Return the parts of files that answer a query, the best first."""
        from . import background
        from .filters import Filters

        filters = Filters(
            paths=(path,) if path else (), languages=(language,) if language else (),
            kind=kind or None,  # type: ignore[arg-type]
        )  # fmt: skip
        found = self.with_index(lambda index: index.search(query, k, filters=filters))
        answer: dict[str, Any] = {"hits": [hit.as_json() for hit in found.hits]}
        if found.pending:
            background.start(self.root, self.model)
            answer["note"] = f"{found.pending} files are being indexed; searched by words first"
        return answer

    def similar(self, path: str, line: int, k: int = 10) -> dict[str, Any]:
        """Return the parts of files that are most like the one with a line of a file."""
        hits = self.with_index(lambda index: index.similar(path, line, k))
        return {"hits": [hit.as_json() for hit in hits]}

    def read(self, path: str, start: int = 1, end: int = 0) -> dict[str, Any]:
        """Return lines of a file that is searched."""
        lines = self.with_index(lambda index: index.read(path))
        first = max(1, start)
        last = min(end or len(lines), len(lines), first + LINES - 1)
        return {"path": path, "start": first, "end": last, "lines": len(lines),
                "text": "\n".join(lines[first - 1 : last])}  # fmt: skip

    def status(self) -> dict[str, Any]:
        """Return what is searched."""
        changes = self.with_index(lambda index: index.changes())
        files, chunks = self.with_index(lambda index: index.store.counts())
        return {"root": str(self.root), "files": files, "chunks": chunks,
                "pending": len(changes.new), "skipped": changes.skipped}  # fmt: skip


def make(root: Path, model: str, *, watched: bool = False) -> "MCPServer[Any]":
    """Return the MCP server of a directory.

    Args:
        root: see `Server`.
        model: see `Server`.
        watched: whether changes of files are added when they happen.
    """
    require_extra("mcp", "mcp")
    import anyio.to_thread
    from mcp.server import MCPServer
    from mcp.server.mcpserver.exceptions import ToolError

    server: MCPServer[Any] = MCPServer(
        "motherbird", instructions=INSTRUCTIONS.format(root=root), log_level="ERROR"
    )
    own = Server(root, model)
    if watched:
        threading.Thread(target=own.watch, daemon=True).start()

    async def run(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        try:
            return await anyio.to_thread.run_sync(work, abandon_on_cancel=True)
        except MotherbirdError as error:
            raise ToolError(str(error)) from error

    @server.tool(description="Find the functions, classes, sections and other parts of files that "
                 "answer a question, or define a name. path: a pattern such as src/*.py. language: "
                 "such as python. kind: code or prose.")  # fmt: skip
    async def search(
        query: str, k: int = 10, path: str = "", language: str = "", kind: str = ""
    ) -> dict[str, Any]:
        return await run(partial(own.search, query, k, path, language, kind))

    @server.tool(description="Find code or text like that at a line of a file.")
    async def similar(path: str, line: int, k: int = 10) -> dict[str, Any]:
        return await run(partial(own.similar, path, line, k))

    @server.tool(description="Read lines of a file, from 1; at most 400. end = 0: to its end.")
    async def read(path: str, start: int = 1, end: int = 0) -> dict[str, Any]:
        return await run(partial(own.read, path, start, end))

    @server.tool(description="Say which directory is searched, and how much of it is indexed.")
    async def status() -> dict[str, Any]:
        return await run(own.status)

    return server
