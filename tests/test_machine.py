"""The description of the machine, and its memory."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from motherbird import machine

linux = pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")


def test_the_description(monkeypatch):
    monkeypatch.setenv("ONEDNN_MAX_CPU_ISA", "AVX2")
    monkeypatch.setenv("HOME_OF_NOTHING", "x")
    found = machine.describe(3)
    json.dumps(found, allow_nan=False)
    assert found["threads"] == 3 and found["cpu"]
    assert found["environment"]["ONEDNN_MAX_CPU_ISA"] == "AVX2"
    assert "HOME_OF_NOTHING" not in found["environment"]
    assert {"torch", "numpy", "motherbird"} <= found["versions"].keys()
    assert found["torch_isa"]
    assert set(found["isa_extensions"]) <= set(machine.ISA_EXTENSIONS)


def test_cores_are_those_of_this_process():
    logical = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    assert 1 <= machine.physical_cores() <= logical


MEMORY = """
from motherbird import machine
now, peak = machine.own_memory_mb("VmRSS"), machine.own_memory_mb("VmHWM")
assert 5 < now <= peak
assert machine.available_mb() > 10
block = bytearray(60_000_000)
block[::4096] = b"x" * len(block[::4096])
assert machine.own_memory_mb("VmRSS") > now + 40
del block
machine.reset_peak_memory()
assert machine.own_memory_mb("VmHWM") < now + 40
"""


@linux
def test_memory():
    """In a process of its own: what other tests free would count as well."""
    subprocess.run([sys.executable, "-c", MEMORY], check=True)


@linux
def test_a_container_leaves_less(tmp_path, monkeypatch):
    free = machine.available_mb()
    (tmp_path / "memory.max").write_text("300000000\n")
    (tmp_path / "memory.current").write_text("250000000\n")
    (tmp_path / "memory.stat").write_text("anon 1\ninactive_file 50000000\n")
    monkeypatch.setattr(machine, "CGROUP", tmp_path)
    assert machine.available_mb() == pytest.approx(min(free, 100.0), rel=0.1)
    (tmp_path / "memory.max").write_text("max\n")
    assert machine.available_mb() == pytest.approx(free, rel=0.2)


def test_the_commit_is_the_checkouts(monkeypatch, tmp_path):
    package = tmp_path / "src" / "motherbird"
    package.mkdir(parents=True)
    monkeypatch.setattr(machine, "__file__", str(package / "machine.py"))
    assert machine.commit() is None  # installed: not in a repository

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b.c"]
        done = subprocess.run(
            ["git", "-C", str(tmp_path), *who, *arguments], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
        return done.stdout.strip()

    git("init", "--quiet")
    (package / "machine.py").write_text("1")
    git("add", ".")
    git("commit", "--quiet", "-m", "a")
    head = git("rev-parse", "HEAD")
    assert machine.commit() and head.startswith(machine.commit())
    (package / "machine.py").write_text("2")
    assert machine.commit().endswith("+") and head.startswith(machine.commit()[:-1])
