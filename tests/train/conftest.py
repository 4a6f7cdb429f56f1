"""Fixtures: a run of a few seconds with all features, and child processes that may be killed."""

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
    """About 20 modules of the standard library, for rows of 64 and 256 tokens, 30% held out."""
    from motherbird.data.prepare import prepare

    folder = tmp_path_factory.mktemp("smoke")
    home = Path(json_module.__file__).parents[1]
    (folder / "library").mkdir()
    for path in sorted(home.glob("[a-d]*.py"))[:20]:
        (folder / "library" / path.name).write_bytes(path.read_bytes())
    small_tokenizer.save(folder / "tokenizer")
    prepare(folder / "library", folder / "tokenizer", folder / "set", [64, 256], held_out=0.3)
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
    """`tiny` with matrix products in bfloat16."""
    return replace(tiny, train=replace(tiny.train, dtype="bfloat16"))


@pytest.fixture(scope="session")
def train() -> Callable[..., Any]:
    """train(recipe, data, out, steps=None, threads=1, ...) calls `pretrain`."""
    from motherbird.train.pretrain import pretrain

    def run(recipe, data, out, steps=None, threads=1, **more):
        before = torch.get_num_threads()
        torch.set_num_threads(threads)
        try:
            return pretrain(recipe, Path(data), Path(out), max_steps=steps, **more)
        finally:
            torch.set_num_threads(before)

    return run


class Child:
    """A child process that calls function(talk); `result` returns its result or raises its error.

    `talk` and the parent's `ours` are two ends of a socket.
    """

    def __init__(self, function: Callable[[socket.socket], Any]) -> None:
        self.ours, theirs = socket.socketpair()
        with warnings.catch_warnings():  # the child does not use torch's threads
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
        """Return the exit status as `subprocess` does."""
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
        """Return the function's result, or raise its error."""
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
    """forked(function) starts a `Child`; those still running at the end of the test are killed."""
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
    """forked_ranks(size, function) starts ranks as children; each calls function(rank, talk).

    They start fast, no launcher ends them, and each can be patched separately.
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
    """upon(owner, name, number, act): in a child, call act() at a certain call of a function."""

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
    """watch(function) sets `disk.watch` until the end of the test; None removes it."""
    return lambda function: monkeypatch.setattr("motherbird.disk.watch", function)


@pytest.fixture
def reached():
    """reached(row, **counts) records the counts of a slow test in benchmarks/."""

    def write(row: str, **counts: Any) -> None:
        known = json_module.loads(RESULTS.read_text()) if RESULTS.is_file() else {}
        known[row] = counts
        RESULTS.write_text(json_module.dumps(known, indent=1, sort_keys=True) + "\n")

    return write


@pytest.fixture
def unchecked():
    """Disable the checks of shapes and types, which take four fifths of a toy model's step."""
    import jaxtyping

    jaxtyping.config.update("jaxtyping_disable", True)
    yield
    jaxtyping.config.update("jaxtyping_disable", False)


@pytest.fixture
def recipe(base):
    """Settings of a fine-tuning run that takes a second."""
    from motherbird.train.tuning import FineTuning

    return FineTuning(
        task="classify", model=str(base), epochs=3, batch_size=16, lr=4e-3, dtype="float32"
    )


@pytest.fixture
def good_or_bad():
    """Texts with their label as one of their words, without a test set."""
    from easy_labels import parts

    return replace(parts("single"), test=None)
