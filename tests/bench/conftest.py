"""A job on a toy model's numbers, and the pool of a test's own processes."""

import pytest


@pytest.fixture
def job(tmp_path):
    """What systems are given; no test of the machinery needs a model behind it."""
    from motherbird.bench.peers import Job

    return Job(tmp_path / "model", tmp_path, 1, 32, 2, 1024, 512, 1.0)


@pytest.fixture
def pool(job):
    """Systems in processes, which end with the test."""
    from motherbird.bench.pool import Pool

    pool = Pool(job, {"OMP_NUM_THREADS": "1"})
    yield pool
    pool.close()
