"""The MCP server beside the official client, and as a process that talks on its pipes."""

import asyncio
import json
import os
import subprocess
import sys
import time

import pytest

from motherbird import disk
from motherbird.search.cache import home_of

mcp = pytest.importorskip("mcp")

COMMAND = (sys.executable, "-m", "motherbird", "mcp")


def parameters(folder):
    return mcp.StdioServerParameters(
        command=COMMAND[0], args=[*COMMAND[1:], str(folder)],
        env={"MOTHERBIRD_CACHE": os.environ["MOTHERBIRD_CACHE"]},
    )  # fmt: skip


def test_the_official_client(folder):
    async def run():
        async with mcp.Client(parameters(folder)) as client:
            tools = (await client.list_tools()).tools
            assert [tool.name for tool in tools] == ["search", "similar", "read", "status"]
            assert all(tool.description for tool in tools)
            found = (await client.call_tool("search", {"query": "open session"})).structured_content
            first = found["hits"][0]
            assert (first["path"], first["symbol"]) == ("part1/file_10.py", "open_session")
            (folder / "new.py").write_text("def a_new_one():\n    return 'zebra'\n")
            found = (
                await client.call_tool("search", {"query": "zebra", "k": 1})
            ).structured_content
            assert [hit["path"] for hit in found["hits"]] == ["new.py"]
            answer = (
                await client.call_tool("read", {"path": "new.py", "end": 1})
            ).structured_content
            assert answer == {"path": "new.py", "start": 1, "end": 1, "lines": 3,
                              "text": "def a_new_one():"}  # fmt: skip
            like = {"path": "part1/file_10.py", "line": 3, "k": 2}
            found = (await client.call_tool("similar", like)).structured_content
            assert found["hits"][0]["symbol"] == "open_session" and len(found["hits"]) == 2
            status = (await client.call_tool("status", {})).structured_content
            assert (status["files"], status["pending"]) == (14, 0)

    asyncio.run(run())


def test_mistakes_are_answers(folder):
    async def run():
        async with mcp.Client(parameters(folder)) as client:
            for name, arguments, says in (
                ("read", {"path": "../secret"}, "the file is not searched"),
                ("similar", {"path": "README.md", "line": 99}, "line 99 is empty"),
                ("search", {}, "query"),
            ):
                result = await client.call_tool(name, arguments)
                assert result.is_error and says in result.content[0].text
            assert (await client.call_tool("status", {})).structured_content["files"] == 13

    asyncio.run(run())


def test_calls_at_the_same_time(folder):
    async def run():
        async with mcp.Client(parameters(folder)) as client:
            words = ("session", "parse", "token", "route") * 5
            found = await asyncio.gather(*(
                client.call_tool("search", {"query": word}) for word in words
            ))  # fmt: skip
            for word, result in zip(words, found, strict=True):
                assert word in result.structured_content["hits"][0]["text"].lower()

    asyncio.run(run())


class Pipes:
    """A server as a process, and messages on its pipes."""

    def __init__(self, folder):
        pipe = subprocess.PIPE
        self.process = subprocess.Popen(
            [*COMMAND, str(folder)], stdin=pipe, stdout=pipe, stderr=pipe, text=True
        )
        hello = {"protocolVersion": "2025-06-18", "capabilities": {},
                 "clientInfo": {"name": "test", "version": "1"}}  # fmt: skip
        self.send("initialize", hello, 1)
        assert self.answer()["result"]["serverInfo"]["name"] == "motherbird"
        self.send("notifications/initialized")

    def send(self, method, params=None, number=None):
        message = {"jsonrpc": "2.0", "method": method}
        message |= {} if params is None else {"params": params}
        message |= {} if number is None else {"id": number}
        self.process.stdin.write(json.dumps(message) + "\n")
        self.process.stdin.flush()

    def call(self, number, tool, **arguments):
        self.send("tools/call", {"name": tool, "arguments": arguments}, number)

    def answer(self):
        return json.loads(self.process.stdout.readline())


def test_it_says_nothing_else_and_ends_with_its_client(folder):
    server = Pipes(folder)
    server.call(2, "search", query="session")
    assert server.answer()["id"] == 2
    start = time.monotonic()
    out, _ = server.process.communicate(timeout=20)
    assert all(json.loads(line) for line in out.splitlines())
    assert server.process.returncode == 0 and time.monotonic() - start < 10


def test_a_call_that_is_cancelled(folder):
    """It waits for another process that indexes; its answer is not waited for, nor given."""
    lock = home_of(folder).database.with_suffix(".lock")
    server = Pipes(folder)
    with disk.locked(lock):
        server.call(2, "search", query="session")
        time.sleep(0.5)
        server.send("notifications/cancelled", {"requestId": 2, "reason": "too slow"})
        time.sleep(0.2)
    server.call(3, "search", query="session")
    answers = [server.answer()]
    while answers[-1]["id"] != 3:
        answers.append(server.answer())
    assert answers[-1]["result"]["structuredContent"]["hits"]
    assert all("error" in answer for answer in answers[:-1])
    server.process.communicate(timeout=20)
    assert server.process.returncode == 0
