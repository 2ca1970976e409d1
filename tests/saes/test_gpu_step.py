"""The GPU's sparse step equals the dense one, never waits for the device, and never hides an entry it had no room for.

On a GPU where there is one; otherwise the same code runs on a CPU in Triton's interpreter, in a process of its own.
"""

import copy
import os
import subprocess
import sys
from collections.abc import Iterator
from typing import Any
from unittest import mock

import pytest
import torch

from saes import measured, objective, optim, sparse_step
from saes.dead_features import AuxK
from saes.entries import Dense, Padded
from saes.measured import CapacityError
from saes.objective import Loss
from saes.penalties import Lp, LpConfig
from saes.trainer import Trainer
from tests.saes.stacks_for_tests import CASES, FEATURES, Case, distance, unchecked, worst

INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
ROWS = 8  # of a batch: the interpreter takes a millisecond for each program of a row or a feature


def torchs_adam() -> Any:
    """The optimiser takes no kernel: the reference is torch's."""
    return mock.patch.object(optim, "available", return_value=False)


def both(dense: Trainer, active: Trainer, case: Case, number: int) -> tuple[Loss, Loss]:
    """One step of each on the same batch."""
    batch = case.batch(number, device=DEVICE, rows=ROWS)
    with torchs_adam():
        loss = dense.step(batch)
    return loss, active.step(batch)


@pytest.mark.slow
@pytest.mark.skipif(INTERPRETED or torch.cuda.is_available(), reason="TestPaddedStep runs in this process")
def test_in_tritons_interpreter() -> None:
    """The interpreter must be chosen before anything (even torch) loads Triton."""
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "TestPaddedStep"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    passed = f"{len(CASES) + 4} passed"
    assert done.returncode == 0 and passed in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


class TestPaddedStep:
    __test__ = INTERPRETED or torch.cuda.is_available()

    @pytest.fixture(autouse=True)
    def back_end(self, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
        """Sends the type of device in use to the GPU's kernels; annotations are not checked."""
        monkeypatch.setitem(sparse_step.BACK_ENDS, DEVICE, "gpu")
        with unchecked():
            yield

    @pytest.mark.parametrize("name", CASES)
    def test_it_is_the_dense_step(self, name: str) -> None:
        """From one state, the loss, every weight and both moments after two steps, in float64."""
        case = CASES[name]
        members = (0, 1) if name == "topk" else (0,)  # the interpreter is slow
        dense, active = (case.trainer(members, step, device=DEVICE) for step in ("dense", "active"))
        for number in range(2):
            losses = both(dense, active, case, number)
            assert isinstance(losses[1].encoded.features.layout, Padded)
            assert distance(losses[1].total, losses[0].total) < 1e-12
            assert torch.equal(losses[0].encoded.features.fired(), losses[1].encoded.features.fired())
        assert worst(active.stack.state_dict(), dense.stack.state_dict()) < (1e-10,)
        for ours, theirs in zip(active.optimizer.state.values(), dense.optimizer.state.values(), strict=True):
            assert max(distance(ours[key], theirs[key]) for key in ("exp_avg", "exp_avg_sq")) < 1e-9

    def test_auxk_is_the_dense_one_too(self) -> None:
        case = Case("topk", None, (AuxK(alpha=0.1, dead_after=3 * ROWS),), ks=(2,))
        dense, active = (case.trainer(step=step, device=DEVICE) for step in ("dense", "active"))
        for trainer in (dense, active):
            with torch.no_grad():
                trainer.stack.W_enc[:, ::2] *= 1e-2
        for number in range(4):
            losses = both(dense, active, case, number)
        assert float(losses[0].terms["auxk"][0]) > 0
        assert distance(losses[1].terms["auxk"], losses[0].terms["auxk"]) < 1e-10

    def test_a_sparse_run_takes_it_and_resumes_bit_for_bit(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(measured, "LEAST_ROOM", 32)
        monkeypatch.setattr(objective, "MEASURE_EVERY", 2)
        case = Case("relu", lambda members: Lp([LpConfig(1.0, warmup=1) for _ in members]))

        def run(trainer: Trainer, until: int) -> list[type]:
            ways = []
            while trainer.steps_done < until:
                loss = trainer.step(case.batch(trainer.steps_done, device=DEVICE, rows=ROWS))
                ways.append(type(loss.encoded.features.layout))
            return ways

        trainer = case.trainer(device=DEVICE)
        ways = run(trainer, 1)
        with torch.no_grad():
            trainer.stack.b_enc -= 0.5
        ways += run(trainer, 6)
        # step 2 was the first to be measured below the limit, which the host reads at step 4
        assert ways == [Dense] * 5 + [Padded]
        assert trainer.objective._measured.capacity == 32 < FEATURES
        resumed = case.trainer(device=DEVICE)
        resumed.load_state_dict(copy.deepcopy(trainer.state_dict()))
        assert run(resumed, 8) == run(trainer, 8) == [Padded] * 2
        for key, value in trainer.stack.state_dict().items():
            assert torch.equal(resumed.stack.state_dict()[key], value), key

    def test_entries_without_room_are_an_error_not_a_smaller_loss(self) -> None:
        case = Case("relu", lambda members: Lp([LpConfig(0.1) for _ in members]))
        trainer = case.trainer(step="active", device=DEVICE)
        trainer.objective._measured.capacity = 2
        before = trainer.step(case.batch(0, device=DEVICE, rows=ROWS)).encoded.features.layout
        assert before.overflow and before.columns.shape == (ROWS, 2)
        for ask in (trainer.objective.numbers, trainer.state_dict, trainer.finish):
            with pytest.raises(CapacityError, match="not exact"):
                ask()

    def test_entries_come_back_dense(self) -> None:
        case = CASES["relu"]
        trainer = case.trainer((0, 1), "active", device=DEVICE)
        loss = trainer.step(case.batch(0, device=DEVICE, rows=ROWS))
        features = loss.encoded.features
        whole = features.dense()
        torch.testing.assert_close(whole.sum((1, 2)) / whole.shape[1], features.mean_sums())
        torch.testing.assert_close(whole.sum(-1), features.row_sums())
        assert torch.equal((whole != 0).any(1), features.fired())


@pytest.mark.gpu
@pytest.mark.parametrize(
    "name", [name for name, case in CASES.items() if not any(p.name == "resample" for p in case.parts)]
)
def test_100_steps_never_wait_for_the_device(name: str) -> None:
    case = CASES[name]
    trainer = case.trainer((0, 1), dtype=torch.float32, device="cuda")
    batches = [case.batch(number, torch.float32, "cuda") for number in range(20)]
    with unchecked():
        for batch in batches:
            trainer.step(batch)  # compiles
        torch.cuda.synchronize()
        torch.cuda.set_sync_debug_mode("error")
        try:
            for number in range(80):
                trainer.step(batches[number % len(batches)])
        finally:
            torch.cuda.set_sync_debug_mode("default")
