"""Checkpoints: the last few are kept, a damaged one is named and passed over, and no kill leaves a half-written run."""

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
import torch

from saes.files import FileError
from saes.run_checkpoints import Checkpoints, DamagedCheckpoint


def state(step: int) -> dict[str, object]:
    return {"step": step, "weights": torch.full((100,), float(step))}


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "run", keep=3)
    for step in (10, 20, 30, 40):
        checkpoints.save(step, state(step))
    return checkpoints


def names(checkpoints: Checkpoints) -> list[str]:
    return sorted(p.name for p in checkpoints.folder.iterdir())


def test_the_last_few_are_kept_and_the_last_is_loaded(saved):
    assert names(saved) == ["index.json", "step-000000020.pt", "step-000000030.pt", "step-000000040.pt"]
    loaded = saved.load()
    assert loaded["step"] == 40 and torch.equal(loaded["weights"], state(40)["weights"])


def test_there_is_nothing_to_load_before_the_first(tmp_path):
    assert Checkpoints(tmp_path / "run").load() is None
    with pytest.raises(ValueError, match="keep is 0"):
        Checkpoints(tmp_path, keep=0)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


@pytest.mark.parametrize(
    ("damage", "said"), [(flip, "is damaged"), (truncate, "is damaged"), (Path.unlink, "is missing")]
)
def test_a_damaged_checkpoint_is_named_and_the_one_before_is_used(saved, damage, said):
    damage(saved.folder / "step-000000040.pt")
    with pytest.warns(DamagedCheckpoint, match=f"step-000000040.pt {said}.*going on from .*step-000000030.pt"):
        assert saved.load()["step"] == 30
    # the run goes on from there and writes the same step again
    saved.save(40, state(40))
    assert saved.load()["step"] == 40


def test_when_all_are_damaged_nothing_is_started_silently(saved):
    for file in saved.folder.glob("step-*.pt"):
        flip(file)
    with pytest.raises(FileError, match="no checkpoint is left"):
        saved.load()


def test_a_state_that_was_not_entered_is_not_trusted(saved):
    (saved.folder / "step-000000050.pt").write_bytes(b"written, then killed before the index was")
    assert saved.load()["step"] == 40
    saved.save(60, state(60))
    assert names(saved) == ["index.json", "step-000000030.pt", "step-000000040.pt", "step-000000060.pt"]


@pytest.mark.parametrize("moment", ["fsync", "replace"])
@pytest.mark.parametrize("after", [1, 2, 3])
def test_a_kill_in_the_middle_of_a_checkpoint_leaves_the_last_one(tmp_path, moment, after):
    """The process kills itself at the n-th fsync or rename of its second checkpoint."""
    code = f"""
        import os, signal, torch
        from pathlib import Path
        from saes.run_checkpoints import Checkpoints
        checkpoints = Checkpoints(Path({str(tmp_path)!r}), keep=1)
        checkpoints.save(1, {{"step": 1, "weights": torch.ones(100)}})
        calls, real = 0, os.{moment}
        def counted(*arguments, **options):
            global calls
            calls += 1
            if calls == {after}:
                os.kill(os.getpid(), signal.SIGKILL)
            return real(*arguments, **options)
        os.{moment} = counted
        checkpoints.save(2, {{"step": 2, "weights": torch.ones(100)}})
    """
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(code)], cwd=os.getcwd())
    loaded = Checkpoints(tmp_path, keep=1).load()
    if done.returncode == 0:  # fewer than `after` renames
        assert (moment, after) == ("replace", 3) and loaded["step"] == 2
    else:
        assert done.returncode == -signal.SIGKILL
        assert loaded["step"] in (1, 2)
    Checkpoints(tmp_path, keep=1).save(3, state(3))
    assert Checkpoints(tmp_path, keep=1).load()["step"] == 3
