"""Peers for tests: one that is right, and others that fail in every way that a peer can."""

import os
import time

import numpy as np

from motherbird.bench.peers import System, one_by_one
from motherbird.errors import InputError

NAMES = ("right", "nan", "off", "raises", "refuses", "dies", "hangs", "absent", "unprepared",
         "killed", "prints")  # fmt: skip
SYSTEMS = tuple(
    System(__name__, name, "float32", "sorted", ("absent",) if name == "absent" else ())
    for name in NAMES
)


def system(name):
    return SYSTEMS[NAMES.index(name)]


def vectors(documents):
    """Four numbers that depend on every token and its place."""
    return np.stack(
        [np.cos(np.outer(d, np.arange(1, 5))).mean(0) + [1, 2, 3, 4] for d in documents]
    ).astype(np.float32)


def prepare(system, job):
    if system.name == "unprepared":
        raise ValueError("no conversion")


def build(system, job):
    if system.name == "refuses":
        raise InputError("dtype 'int7' is unknown")

    def encode(documents):
        result = vectors(documents)
        if system.name == "nan" and len(documents) > 1:
            result[-1] = np.nan
        if system.name == "off":
            result[:, 0] *= -1
        if system.name == "raises":
            raise RuntimeError("two\nlines")
        if system.name == "dies":
            os.write(2, b"corrupted size vs. prev_size\n")
            os._exit(7)
        if system.name == "killed":
            os.kill(os.getpid(), 9)
        if system.name == "hangs" and len(documents[0]) > 1:
            time.sleep(60)
        if system.name == "prints":
            print("chatter on standard output")
            os.write(1, b"more chatter\n")
        return result

    return one_by_one(encode)
