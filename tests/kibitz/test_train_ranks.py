"""`kibitz train` under torchrun: two processes, one of them killed, the run resumed, also by another number of them."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import nullcontext
from pathlib import Path

import pytest
import torch

from kibitz import train
from kibitz.cli import main
from saes.checkpoint import load_dictionary
from saes.files import read_json, read_tensors, write_json
from saes.ranks import Ranks
from tests.saes.corpora_for_tests import texts, word_tokenizer
from tests.saes.models_for_tests import tiny

ROOT = Path(__file__).parents[2]
SETTINGS = [
    *("--model", "lm", "--corpus", "t.jsonl", "--context", "16", "--sites", "resid_1", "mlp_0", "--device", "cpu"),
    *("--architecture", "batch_topk", "--ks", "2", "4", "--steps", "40", "--batch-size", "64", "--expansion", "2"),
    *("--refill-rows", "16", "--held-out-tokens", "200", "--save-every", "5", "--log-every", "10"),
]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a tiny language model, its tokenizer, and a text."""
    tiny("llama").save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(250)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def launch(folder: Path, out: str, *options: str, processes: int = 2, wait: str = "0") -> subprocess.Popen:
    """The command under torchrun; `wait`: seconds that every step takes longer, so that there is time to kill it."""
    lines = [
        "import sys, time",
        "from kibitz.cli import main",
        "from saes.trainer import Trainer",
        "step = Trainer.step",
        f"Trainer.step = lambda *a: (time.sleep({wait}), step(*a))[1]",
        "main(sys.argv[1:])",
    ]
    (folder / "slow.py").write_text("\n".join(lines))
    return subprocess.Popen(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(processes)),
            *("slow.py", "train", *SETTINGS, "--out", out, *options),
        ],
        cwd=folder,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(process: subprocess.Popen) -> tuple[int, str, str]:
    out, err = process.communicate(timeout=300)
    return process.returncode, out, err


def weights(out: Path) -> dict[str, torch.Tensor]:
    files = sorted(out.rglob("dictionary.safetensors"))
    return {f"{f.parent.relative_to(out)} {k}": t for f in files for k, t in read_tensors(f).items()}


def worker_of(process: subprocess.Popen, rank: int) -> int:
    """The process of a rank, which torchrun started."""
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parent = int(stat.read_text().rsplit(")", 1)[1].split()[1])
            environment = (stat.parent / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        if parent == process.pid and f"RANK={rank}".encode() in environment:
            return int(stat.parent.name)
    raise AssertionError(f"torchrun has no process of rank {rank}")


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds the processes in /proc")
def test_a_killed_process_ends_the_run_and_the_same_command_goes_on(folder):
    status, out, err = finished(launch(folder, "whole"))
    assert status == 0, err
    table = [line for line in out.splitlines() if line.startswith("batch_topk")]
    assert len(table) == 4 and (folder / "whole" / "table.txt").read_text().strip() in out
    assert {len(t) for n, t in weights(folder / "whole").items() if n.endswith("b_enc")} == {32}

    killed = launch(folder, "killed", wait="0.3")
    until = time.monotonic() + 120
    while not (folder / "killed" / "checkpoints" / "index.json").exists():
        assert time.monotonic() < until and killed.poll() is None, finished(killed)[2]
        time.sleep(0.05)
    os.kill(worker_of(killed, 1), signal.SIGKILL)
    status, out, err = finished(killed)
    assert status != 0 and not (folder / "killed" / "dictionaries").exists()
    assert "kibitz: " in err and "the same command goes on from the last checkpoint" in err, err
    status, _, err = finished(launch(folder, "killed"))
    assert status == 0, err
    lines = (folder / "killed" / "metrics.jsonl").read_text().splitlines()
    assert sum(json.loads(line)["step"] == 0 for line in lines) == 4  # it was not begun again
    whole, resumed = weights(folder / "whole"), weights(folder / "killed")
    assert whole.keys() == resumed.keys() and all(torch.equal(whole[k], resumed[k]) for k in whole)


@pytest.mark.slow
def test_features_are_split_and_a_run_changes_its_number_of_processes(folder, capsys):
    status, _, err = finished(launch(folder, "split", "--feature-ranks", "2"))
    assert status == 0, err
    found = load_dictionary(next((folder / "split" / "dictionaries").rglob("config.json")).parent)
    assert found.features == 32 and found.W_dec.norm(dim=1).allclose(torch.ones(32))
    index = folder / "split" / "checkpoints" / "index.json"
    first, _last = read_json(index).items()
    write_json(index, dict([first]))
    main(["train", *SETTINGS, "--out", "split"])  # from the checkpoint before the last, alone
    assert "Dictionaries:" in capsys.readouterr().out


def test_a_batch_that_cannot_be_shared(folder, monkeypatch, capsys):
    two = Ranks()
    two.size = 2
    monkeypatch.setattr(train, "joined", lambda *_: nullcontext(two))
    with pytest.raises(SystemExit) as leaving:
        main(["train", *SETTINGS, "--out", "a", "--batch-size", "63"])
    assert leaving.value.code == 1
    assert "kibitz: batch_size is 63: 2 processes cannot share it evenly" in capsys.readouterr().err
    assert not (folder / "a").exists()
