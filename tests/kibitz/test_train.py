"""`kibitz train`: what a run folder holds, going on with it, and whom it turns away."""

import fcntl
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from boardgames.othello.rules import random_games
from kibitz import lasting_runs, material
from kibitz.runs import RunError, run_folder
from kibitz.train import RunConfig, run_train
from saes.checkpoint import load_dictionary
from saes.files import read_json, write_json
from saes.locks import LockError
from saes.recorder import read_records
from saes.run_checkpoints import Checkpoints

SCRIPT = Path(__file__).resolve().parents[2] / "scripts" / "check_resume.py"


SETTINGS = RunConfig(
    sites=("resid_0", "mlp_0"),
    coefficients=(0.02, 0.1),
    steps=20,
    batch_size=64,
    refill_rows=32,
    expansion=2,
    save_every=8,
    log_every=10,
)


@pytest.fixture(autouse=True, scope="module")
def few_games() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(material, "GAME_TOKENS", 15_000)
        yield


@pytest.fixture
def config(tmp_path: Path) -> RunConfig:
    return replace(SETTINGS, out=tmp_path / "run")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, few_games) -> tuple[Path, str]:
    """A run that has come to its end, and what it printed; not to be touched."""
    out = tmp_path_factory.mktemp("trained") / "run"
    return out, run_train(replace(SETTINGS, out=out))


@pytest.fixture
def finished(config, trained) -> RunConfig:
    """A copy of that run, at the place that `config` names."""
    shutil.copytree(trained[0], config.out)
    return config


def test_many_sites_and_members_from_one_pass(finished, trained):
    config, printed = finished, trained[1]
    rows = read_json(config.out / "results.json")["rows"]
    assert [(row["site"], row["coefficient"]) for row in rows] == [
        (site, c) for site in ("resid_0", "mlp_0") for c in (0.02, 0.1)
    ]
    for row in rows:
        dictionary = load_dictionary(config.out / row["folder"])
        assert dictionary.site.name == row["site"] and dictionary.features == 256
    assert printed.startswith((config.out / "table.txt").read_text().rstrip())
    assert {r["step"] for r in read_records(config.out / "metrics.jsonl")} == {0, 10, 19}
    assert len(list((config.out / "checkpoints").glob("step-*.pt"))) == 2


def weights(out: Path) -> dict[str, dict[str, torch.Tensor]]:
    return {
        str(p.parent.relative_to(out)): load_dictionary(p.parent).state_dict()
        for p in out.rglob("dictionary.safetensors")
    }


def test_a_run_goes_on_where_it_stopped(config, trained, monkeypatch):
    expected = weights(trained[0])
    other = replace(config, out=config.out.parent / "other")
    saved = Checkpoints.save

    def save_once(self, step, state):
        saved(self, step, state)
        raise KeyboardInterrupt

    monkeypatch.setattr(Checkpoints, "save", save_once)
    with pytest.raises(KeyboardInterrupt, match="the same command goes on with"):
        run_train(other)
    assert not (other.out / "dictionaries").exists()
    monkeypatch.setattr(Checkpoints, "save", saved)
    run_train(replace(other, save_every=5, log_every=3, keep=1))  # these change no result
    found = weights(other.out)
    assert found.keys() == expected.keys()
    for folder, tensors in expected.items():
        assert all(torch.equal(found[folder][name], tensor) for name, tensor in tensors.items())


def test_other_settings_are_refused_and_nothing_is_touched(finished):
    before = {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()}
    with pytest.raises(RunError, match=r"other settings \(learning_rate is 0.001 there and 0.01 here\)"):
        run_train(replace(finished, learning_rate=0.01))
    assert {p: p.read_bytes() for p in finished.out.rglob("*") if p.is_file()} == before


def test_a_run_from_before_a_setting_existed_goes_on_with_its_default(finished):
    manifest = read_json(finished.out / "manifest.json")
    del manifest["settings"]["board_every"], manifest["settings"]["max_norm"]
    write_json(finished.out / "manifest.json", manifest)
    run_train(finished)
    with pytest.raises(RunError, match=r"max_norm is None there and 5.0 here"):
        run_train(replace(finished, max_norm=5.0))


def test_other_games_at_the_same_place_are_refused(config, tmp_path):
    games = tmp_path / "games.npz"
    for seed, refused in ((1, False), (2, True)):
        np.savez(games, moves=random_games(200, np.random.default_rng(seed)))
        with pytest.raises(RunError, match="inputs.corpus.source.sha256 is") if refused else nullcontext():
            run_train(replace(config, games=games))


def test_a_second_process_is_turned_away(finished):
    with open(finished.out / "lock", "a+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.truncate(0)
        lock.write("4321")
        lock.flush()
        with pytest.raises(LockError, match="process 4321 is training in this folder"):
            run_train(finished)
    run_train(finished)


def test_another_folder_is_left_alone(config, tmp_path):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.txt").write_text("all of it")
    with pytest.raises(RunError, match="not a run of kibitz"):
        run_train(replace(config, out=tmp_path / "mine"))
    with run_folder(tmp_path / "demo", config, 0, {}):
        pass
    with pytest.raises(RunError, match="another kind of run"):
        run_train(replace(config, out=tmp_path / "demo"))


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"steps": 5}, "steps is 5"),
        ({"keep": 0}, "keep is 0"),
        ({"sites": ()}, "sites is empty"),
        ({"architecture": "crosscoder"}, "crosscoder reads several sites"),
        ({"coefficients": (0.1, 0.1)}, "a setting is given twice"),
        ({"architecture": "topk"}, "topk has no coefficient"),
        ({"architecture": "topk", "coefficients": ()}, "needs either k or target_l0"),
        ({"activations": Path("a"), "games": Path("b")}, "not both"),
    ],
)
def test_a_run_that_cannot_be_is_refused_before_it_starts(changed, said, config):
    with pytest.raises(ValueError, match=said):
        replace(config, **changed)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [["--kills", "1", "--steps", "40", "--save-every", "5"], ["--kills", "1", "--steps", "40", "--text"]],
    ids=["games", "text"],
)
def test_killed_runs_end_with_the_same_bits(options):
    command = [sys.executable, str(SCRIPT), *options]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0 and "0 differences" in done.stdout, done.stdout + done.stderr


def test_two_runs_begun_at_once_do_not_mix(tmp_path, monkeypatch):
    def late(out: Path) -> None:
        (out / "of another").mkdir(parents=True)  # which has come between the look and the move

    monkeypatch.setattr(lasting_runs, "check_replaceable", late)
    with (
        pytest.raises(RunError, match="another process has begun a run there"),
        lasting_runs.lasting_run(tmp_path / "run", {}),
    ):
        pass
    assert [path.name for path in tmp_path.iterdir()] == ["run"]
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["of another"]
