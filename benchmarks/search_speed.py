"""How long `motherbird search` takes over a directory, from the shell and from an MCP client.

    python benchmarks/search_speed.py FOLDER --out FILE [--model MODEL] [--rounds 5]

The folder is copied, and every time begins with the start of a process: an answer without an index
(by words alone, and with vectors), making the index, a search with it, one after a change of a
file, and `motherbird index` where nothing changed; medians of the rounds. Then the time of each
call of the official MCP client, and that from the start of the server to its answer to initialize,
beside the import of `mcp` alone.
"""

import argparse
import asyncio
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from common import finish, machine

QUERIES = (
    "how is a database migration applied", "graph shortest path", "tokenize a sentence",
    "retry a failed request", "QuerySet.filter", "integrate a rational function",
    "render a template", "group rows by a column", "parse a directive", "session cookie expiry",
    "read_csv", "where are routes registered", "matrix inverse", "abstract base class of widgets",
    "convert a timestamp to another time zone",
)  # fmt: skip
MOTHERBIRD = (sys.executable, "-m", "motherbird")


def run(*arguments: str) -> tuple[float, int, Any]:
    """Run motherbird, and return its seconds, its largest memory in bytes, and its JSON."""
    start = time.perf_counter()
    with tempfile.TemporaryFile() as out:
        process = subprocess.Popen([*MOTHERBIRD, *arguments, "--json"], stdout=out)
        _, status, usage = os.wait4(process.pid, 0)
        seconds = time.perf_counter() - start
        process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, arguments
        out.seek(0)
        return seconds, usage.ru_maxrss * 1024, json.loads(out.read())


def shell(folder: Path, model: list[str], rounds: int) -> dict[str, Any]:
    """Return the times of commands, with an index that is made in between."""
    cache = Path(os.environ["MOTHERBIRD_CACHE"])
    names = ("cold, words", "cold", "index", "search", "changed", "unchanged")
    found: dict[str, Any] = {name: [] for name in names}
    for query in QUERIES[:rounds]:
        for name, mode in (("cold, words", "bm25"), ("cold", "hybrid")):
            shutil.rmtree(cache, ignore_errors=True)
            call = ("search", query, str(folder), "--no-background", "--mode", mode, *model)
            found[name].append(run(*call)[0])
    for _ in range(max(1, rounds // 2)):
        shutil.rmtree(cache, ignore_errors=True)
        seconds, memory, made = run("index", str(folder), *model)
        found["index"].append(seconds)
        found["memory"] = memory
    found |= {name: made[0][name] for name in ("files", "chunks")}
    found["size"] = sum(path.stat().st_size for path in cache.rglob("*") if path.is_file())
    changing = folder / "motherbird_benchmark.py"
    for number, query in enumerate(QUERIES[:rounds]):
        found["search"].append(run("search", query, str(folder), *model)[0])
        changing.write_text(f"def changed_{number}():\n    return {number}\n")
        seconds, _, answer = run("search", f"changed_{number}", str(folder), *model)
        assert answer["hits"][0]["symbol"] == f"changed_{number}"
        found["changed"].append(seconds)
        found["unchanged"].append(run("index", str(folder), *model)[0])
    changing.unlink()
    return found


async def served(folder: Path, model: list[str], rounds: int) -> dict[str, Any]:
    """Return the times of calls of one server, and of its start."""
    import mcp

    parameters = mcp.StdioServerParameters(
        command=MOTHERBIRD[0], args=[*MOTHERBIRD[1:], "mcp", str(folder), *model],
        env={"MOTHERBIRD_CACHE": os.environ["MOTHERBIRD_CACHE"]},
    )  # fmt: skip
    calls: list[float] = []
    async with mcp.Client(parameters) as client:
        await client.call_tool("search", {"query": "first"})
        for query in QUERIES * rounds:
            start = time.perf_counter()
            result = await client.call_tool("search", {"query": query})
            calls.append(time.perf_counter() - start)
            assert not result.is_error
    hello = {"jsonrpc": "2.0", "id": 1, "method": "initialize", "params": {
        "protocolVersion": "2025-06-18", "capabilities": {},
        "clientInfo": {"name": "benchmark", "version": "1"}}}  # fmt: skip
    greetings, imports = [], []
    for _ in range(rounds):
        start = time.perf_counter()
        with subprocess.Popen(
            [*MOTHERBIRD, "mcp", str(folder), *model], stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        ) as process:  # fmt: skip
            assert process.stdin is not None
            assert process.stdout is not None
            process.stdin.write(json.dumps(hello).encode() + b"\n")
            process.stdin.flush()
            assert b'"result"' in process.stdout.readline()
            greetings.append(time.perf_counter() - start)
            process.stdin.close()
        start = time.perf_counter()
        subprocess.run([sys.executable, "-c", "from mcp.server import MCPServer"], check=True)
        imports.append(time.perf_counter() - start)
    return {"call": calls, "initialize": greetings, "import mcp": imports}


def summary(found: dict[str, Any]) -> dict[str, Any]:
    """Return medians, and the 95th percentile of calls, in seconds."""
    return {
        name: round(statistics.median(value), 4) if isinstance(value, list) else value
        for name, value in found.items()
    } | ({"call, 95%": round(statistics.quantiles(found["call"], n=20)[-1], 4)}
         if "call" in found else {})  # fmt: skip


def main() -> None:
    """Measure, and write a report."""
    form = argparse.RawTextHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=form)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--model", help="default: that of motherbird search")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--out", type=Path)
    args = parser.parse_args()
    report: dict[str, Any] = {"machine": machine()}
    with tempfile.TemporaryDirectory() as home:
        folder = Path(home) / "folder"
        shutil.copytree(args.folder, folder)
        (folder / ".git").mkdir(exist_ok=True)  # the root of an index
        report["bytes"] = sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())
        os.environ["MOTHERBIRD_CACHE"] = str(Path(home) / "cache")
        model = ["--model", args.model] if args.model else []
        times = shell(folder, model, args.rounds)
        report |= summary(times | asyncio.run(served(folder, model, args.rounds)))
    finish(report, args.out)


if __name__ == "__main__":
    main()
