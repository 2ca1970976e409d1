"""Several processes train what one process trains: same rows, same weights, in every division of the work."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from saes.architectures.affine import split
from saes.measured import Measured
from saes.ranks import ALONE, Ranks, RanksError, join
from tests.saes.dictionaries_for_tests import fresh
from tests.saes.parallel_worker import DIVISIONS
from tests.saes.stacks_for_tests import CASES

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("processes", DIVISIONS)
def test_several_processes_are_one(processes, tmp_path):
    """float64, every architecture with its parts: weights, moments, p, queues, dead counters, thresholds."""
    out = tmp_path / "found.json"
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)]
    done = subprocess.run(
        [*launch, "-m", "tests.saes.parallel_worker", str(out)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    found = json.loads(out.read_text())
    assert len(found) == len(CASES) * (2 if processes == 2 else 1)
    for name, distances in found.items():
        assert max(distances.values()) < 1e-9, (name, distances)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_the_kth_largest_is_that_of_a_sort(dtype):
    values = torch.randn(4, 5000, generator=torch.Generator().manual_seed(0)).to(dtype)
    values[1] = values[1].round()  # many equal ones
    values[2, 20:] = -1.0
    values[3] *= 1e-30
    for k in (1, 7, 300, 2000):
        sorted_ = values.relu().sort(dim=1, descending=True).values
        assert torch.equal(ALONE.kth_largest(values, [k] * 4).to(dtype), sorted_[:, k - 1])
    fewer = int((values[2] > 0).sum())
    assert ALONE.kth_largest(values, [1, 1, fewer, 1])[2] > 0
    assert ALONE.kth_largest(values, [1, 1, fewer + 1, 1])[2] == 0


def test_divisions_that_cannot_be(monkeypatch):
    with pytest.raises(RanksError, match="feature_ranks is 2 and there is one process: start it with torchrun"):
        join(2)
    monkeypatch.setenv("WORLD_SIZE", "6")
    with pytest.raises(RanksError, match="6 processes cannot be divided into groups of 4"):
        join(4)
    three = Ranks()
    three.feature_size = 3
    with pytest.raises(ValueError, match="40 features cannot be shared out evenly among 3 ranks"):
        split(fresh("relu", width=12, features=40), three)


def test_room_measured_by_some_ranks_is_enough_for_fewer():
    state = {"density": 0.1, "capacity": 64, "pending": [0.1, 30.0, 0.0]}
    assert Measured.divided(state, 2, 2) == state
    assert Measured.divided(state, 8, 1) == {**state, "capacity": 512, "pending": [0.1, 240.0, 0.0]}
    assert Measured.divided(state, 2, 8)["capacity"] == 64  # one rank may have had all of it
    assert Measured.divided({**state, "capacity": None, "pending": None}, 8, 1)["capacity"] is None
