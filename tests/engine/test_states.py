"""States of many files in one call: as os.stat, one by one."""

import os

import numpy as np

from motherbird.engine.states import States


def test_states(tmp_path):
    paths = []
    for number, name in enumerate(("a", "with space", "ünïcode", os.fsdecode(b"odd\xff"))):
        path = tmp_path / name
        path.write_bytes(b"x" * number)
        os.utime(path, ns=(0, 1_700_000_000_123_456_789 + number))
        paths.append(str(path))
    (tmp_path / "link").symlink_to("a")
    paths += [str(tmp_path / "link"), str(tmp_path)]
    states = States(paths)
    found = [os.stat(path) for path in paths]
    expected = [(s.st_size, s.st_mtime_ns, s.st_ctime_ns) for s in found]
    assert states.read().tolist() == [list(row) for row in expected]
    (tmp_path / "a").unlink()
    again = states.read()
    assert (again[[0, 4]] == -1).all() and np.array_equal(again[1:4], expected[1:4])
    assert States(()).read().shape == (0, 3)
