"""A run of seconds that has all that a long one has, and children that may be killed."""

import itertools
import json as json_module
import os
import pickle
import signal
import socket
import time
import traceback
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

RESULTS = Path(__file__).resolve().parents[2] / "benchmarks/reliability_state.json"


@pytest.fixture(scope="session")
def smoke_set(small_tokenizer, tmp_path_factory) -> Path:
    """Some 20 modules of the standard library for rows of 64 and 256 tokens, a tenth held out."""
    from motherbird.data.prepare import prepare

    folder = tmp_path_factory.mktemp("smoke")
    home = Path(json_module.__file__).parents[1]
    (folder / "library").mkdir()
    for path in sorted(home.glob("[a-d]*.py"))[:20]:
        (folder / "library" / path.name).write_bytes(path.read_bytes())
    small_tokenizer.save(folder / "tokenizer")
    prepare(folder / "library", folder / "tokenizer", folder / "set", [64, 256], held_out=0.1)
    return folder / "set"


@pytest.fixture(scope="session")
def tiny():
    """A recipe of 26 steps: a growing batch, longer rows, a decay; 1 to 4 micro-batches a step."""
    from motherbird.train.phase import Phase
    from motherbird.train.recipe import Evaluate, Geometry, Recipe, Save, Train

    return Recipe(
        phases=(
            Phase(
                "a", 64 * 36, 64, 4, first_rows=2, rows_warm_up=64 * 12, warm_up=64 * 8,
                theta=10_000.0,
            ),
            Phase("b", 512 * 6, 256, 2, theta=160_000.0),
            Phase("c", 512 * 8, 256, 2, decay=512 * 8, theta=160_000.0),
        ),
        train=Train(lr=4e-3, micro_tokens=128, dtype="float32", workers=0),
        model=Geometry(
            hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
            local_attention=16, initializer_range=0.18,
        ),
        save=Save(every=3),
        evaluate=Evaluate(every=4, tokens=256),
        seed=5,
    )  # fmt: skip


@pytest.fixture(scope="session")
def tiny_bfloat16(tiny):
    """`tiny` with products in bfloat16."""
    return replace(tiny, train=replace(tiny.train, dtype="bfloat16"))


@pytest.fixture(scope="session")
def train() -> Callable[..., Any]:
    """train(recipe, data, out, steps=None, threads=1, ...) is `pretrain` up to its end or steps."""
    from motherbird.train.pretrain import StopAfter, pretrain

    def run(recipe, data, out, steps=None, threads=1, **more):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return pretrain(
                recipe, Path(data), Path(out), stop_after=StopAfter(steps=steps), **more
            )
        finally:
            torch.set_num_threads(before)

    return run


class Child:
    """A process of its own that calls function(talk); what it returns or raises is the `result`.

    `talk` and the parent's `ours` are two ends of a socket.
    """

    def __init__(self, function: Callable[[socket.socket], Any]) -> None:
        self.ours, theirs = socket.socketpair()
        with warnings.catch_warnings():  # threads of torch are not used in the child
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid:
            theirs.close()
            self.code: int | None = None
            return
        try:
            self.ours.close()
            torch.set_num_threads(1)
            answer: tuple[str, Any]
            try:
                answer = ("returned", function(theirs))
            except BaseException as error:
                traceback.print_exc()
                answer = ("raised", error)
            theirs.sendall(b"R" + pickle.dumps(answer))
        finally:
            os._exit(0)

    def kill(self) -> None:
        os.kill(self.pid, signal.SIGKILL)

    def wait(self, seconds: float = 60.0) -> int:
        """The exit status as `subprocess` has it."""
        end = time.monotonic() + seconds
        while self.code is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.code = os.waitstatus_to_exitcode(status)
            elif time.monotonic() > end:
                self.kill()
                os.waitpid(self.pid, 0)
                self.code = -signal.SIGKILL
                raise TimeoutError(f"the child did not end in {seconds} s")
            else:
                time.sleep(0.002)
        return self.code

    def result(self, seconds: float = 60.0) -> Any:
        """What the function returned; what it raised is raised."""
        code = self.wait(seconds)
        assert code == 0, f"the child ended with {code}"
        data = b""
        while part := self.ours.recv(1 << 16):
            data += part
        how, what = pickle.loads(data[data.index(b"R") + 1 :])
        if how == "raised":
            raise what
        return what


@pytest.fixture
def forked():
    """forked(function) is a `Child` at work; whichever is left at the end of the test is killed."""
    if not hasattr(os, "fork"):
        pytest.skip("needs os.fork")
    children = []

    def start(function: Callable[[socket.socket], Any]) -> Child:
        children.append(Child(function))
        return children[-1]

    yield start
    for child in children:
        if child.code is None:
            child.kill()
            os.waitpid(child.pid, 0)
        child.ours.close()


@pytest.fixture
def forked_ranks(forked):
    """forked_ranks(size, function) are children that meet as ranks, each with function(rank, talk).

    They start in no time, nothing but they themselves ends them, and each may be changed alone.
    """

    def start(size: int, function: Callable[[int, socket.socket], Any]) -> list[Child]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]

        def of(rank: int) -> Callable[[socket.socket], Any]:
            def process(talk: socket.socket) -> Any:
                about = {"WORLD_SIZE": size, "RANK": rank, "LOCAL_RANK": rank, "MASTER_PORT": port}
                os.environ.update({key: str(value) for key, value in about.items()})
                os.environ["MASTER_ADDR"] = "127.0.0.1"
                return function(rank, talk)

            return process

        return [forked(of(rank)) for rank in range(size)]

    return start


@pytest.fixture
def upon():
    """upon(owner, name, number, act): in a child, act() where a function is called so often."""

    def arm(owner: Any, name: str, number: int, act: Callable[[], None]) -> None:
        real, calls = getattr(owner, name), itertools.count(1)

        def call(*arguments, **more):
            if next(calls) == number:
                act()
            return real(*arguments, **more)

        setattr(owner, name, call)

    return arm


@pytest.fixture
def watch(monkeypatch):
    """watch(function) sets `disk.watch` until the end of the test; None takes it away."""
    return lambda function: monkeypatch.setattr("motherbird.disk.watch", function)


@pytest.fixture
def reached():
    """reached(row, **counts) writes what a slow test has done to benchmarks/; others do not."""

    def write(row: str, **counts: Any) -> None:
        known = json_module.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        known[row] = counts
        RESULTS.write_text(json_module.dumps(known, indent=1, sort_keys=True) + "\n")

    return write


@pytest.fixture
def unchecked():
    """No shapes and types are checked while a test repeats what others have run with checks.

    The checks take four fifths of a toy's step.
    """
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)
