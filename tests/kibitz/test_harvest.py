"""`kibitz harvest` end to end: shipped model and games, a real language model and text, kills, refusals."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch

from boardgames.lm import load_othello_gpt
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import PAD
from kibitz.cli import main
from saes.families import find_site
from saes.files import sha256
from saes.harvest import harvest
from saes.shards import ActivationShards
from tests.saes.corpora_for_tests import texts, word_tokenizer
from tests.saes.models_for_tests import tiny

ROOT = Path(__file__).parents[2]


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a tiny language model, its tokenizer, and a text."""
    tiny("llama").save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(300)))
    np.savez(tmp_path / "games.npz", moves=random_games(30, np.random.default_rng(0)))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


LM = ["harvest", "--model", "lm", "--corpus", "t.jsonl", "--context", "16", "--sites", "resid_1", "mlp_0"]


def test_games_at_the_shipped_model(folder, capsys):
    command = [
        "harvest",
        "--sites",
        "resid_1",
        "mlp_hidden_2",
        "--games",
        "games.npz",
        "--tokens",
        "1000",
        "--out",
        "a",
    ]
    main([*command, "--dtype", "fp32"])
    said = capsys.readouterr()
    assert "1000 tokens at resid_1, mlp_hidden_2 in fp32: up to 2.5 MiB in a" in said.out
    assert "a: 1000 tokens in 1 shards" in said.out and "token/s" in said.err
    shards = ActivationShards("a")
    labels = shards.labels(range(1000))
    model = load_othello_gpt()
    rows = torch.full((int(labels.documents.max()) + 1, 59), PAD)
    rows[labels.documents, labels.positions] = labels.tokens
    for name in ("resid_1", "mlp_hidden_2"):
        site = find_site(model, name)
        fresh = torch.cat([v[site] for v in harvest(model, rows, [site])])[labels.documents, labels.positions]
        torch.testing.assert_close(shards.rows(name, range(1000)), fresh, rtol=1e-4, atol=1e-3)


def test_a_language_model_and_text(folder, capsys):
    main([*LM, "--tokens", "300", "--out", "a", "--dtype", "int8", "--drop-bos"])
    shards = ActivationShards("a")
    labels = shards.labels(range(len(shards)))
    truth = [2 + int(word[1:]) for text in texts(300) for word in text.split()]
    first_of_row = labels.positions == 0
    assert len(shards) == 300 and not bool(first_of_row.any()) and not bool((labels.tokens == 1).any())
    position = 0
    for token in labels.tokens.tolist():  # the text in order, without the first token of each row
        position = truth.index(token, position) + 1
    assert position < 400


def test_the_same_call_goes_on_and_another_is_refused(folder, capsys):
    main([*LM, "--tokens", "200", "--out", "a"])
    before = contents(folder / "a")
    main([*LM, "--tokens", "200", "--out", "a"])
    assert contents(folder / "a") == before
    assert "200 tokens are there" in capsys.readouterr().out
    for change, said in [
        (["--tokens", "300"], "another tokens"),
        (["--dtype", "int8"], "another dtype"),
        (["--model-dtype", "bfloat16"], "another model"),
        (["--sites", "resid_0"], "another sites"),
        (["--rows", "document"], "another corpus"),
    ]:
        with pytest.raises(SystemExit):
            main([*LM, "--tokens", "200", "--out", "a", *change])
        assert said in capsys.readouterr().err
    assert contents(folder / "a") == before


def test_a_dry_run_writes_nothing(folder, capsys):
    main([*LM, "--tokens", "1000000000", "--out", "a", "--dry-run"])
    assert "in fp16: up to 82.0 GiB in a" in capsys.readouterr().out
    assert not (folder / "a").exists()


WRONG = [
    (["--sites", "resid_9"], "no such site; nearest: resid_1"),
    (["--corpus", "missing.jsonl"], "missing.jsonl: no such file"),
    (["--corpus", "missing.npy"], "missing.npy: no such file"),
    (["--column", "story"], "no column 'story'; there are: text"),
    (["--context", "100000"], "the model reads at most"),
    (["--context", "0"], "context is 0"),
    (["--tokens", "0"], "tokens is 0"),
    (["--games", "games.npz"], "give a corpus or games, not both"),
    (["--model", "nowhere/at-all"], "nowhere/at-all"),
    (["--out", "lm"], "is not empty and holds no activations"),
    (["--tokens", "100000000000000"], "are to be written and the disk has"),
]


@pytest.mark.parametrize(("change", "said"), WRONG, ids=[" ".join(c) for c, _ in WRONG])
def test_mistakes_end_in_one_sentence(folder, capsys, change, said):
    with pytest.raises(SystemExit) as leaving:
        main([*LM, "--out", "a", *change])
    complaint = capsys.readouterr().err
    assert leaving.value.code in (1, 2) and complaint.startswith("kibitz: ") and said in complaint
    assert complaint.count("\n") == 1 and not (folder / "a").exists()


def test_text_needs_a_tokenizer_and_a_model_needs_a_corpus(folder, capsys):
    for command, said in [
        (["harvest", "--corpus", "t.jsonl", "--context", "59"], "no tokenizer can be read there"),
        (["harvest", "--model", "lm"], "needs --corpus or --games"),
    ]:
        with pytest.raises(SystemExit):
            main(command)
        assert said in capsys.readouterr().err


MANY = ["harvest", "--games", "games.npz", "--tokens", "1500", "--batch-rows", "1", "--shard-mib", "1"]
MANY += ["--dtype", "fp32", "--sites", "mlp_hidden_0", "mlp_hidden_1", "mlp_hidden_2", "mlp_hidden_3", "--out"]


def test_a_killed_harvest_goes_on_to_the_same_bytes(folder):
    """Many small shards at the shipped model; killed when the first few are there."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", "from kibitz.cli import main; main()", *MANY, "a"]
    process = subprocess.Popen(command, cwd=folder, env=environment, stderr=subprocess.DEVNULL)
    while not (folder / "a" / "shard-00001.safetensors").exists() and process.poll() is None:
        time.sleep(0.005)
    process.kill()
    assert process.wait(60) == -signal.SIGKILL
    index = json.loads((folder / "a" / "index.json").read_text())
    assert not index["complete"] and index["shards"]
    main([*MANY, "a"])
    main([*MANY, "b"])
    assert contents(folder / "a") == contents(folder / "b") and len(contents(folder / "b")) > 10


def test_ctrl_c_says_how_to_go_on(folder, monkeypatch, capsys):
    with monkeypatch.context() as patch:
        patch.setattr("saes.shard_writer.sha256", interrupted_at(3))
        with pytest.raises(SystemExit) as leaving:
            main([*MANY, "a"])
    assert leaving.value.code == 130
    assert capsys.readouterr().err.splitlines()[-1] == "kibitz: interrupted; the same command goes on with a"
    assert len(json.loads((folder / "a" / "index.json").read_text())["shards"]) == 2
    main([*MANY, "a"])
    assert len(ActivationShards("a")) == 1500


def interrupted_at(call: int):
    """A checksum during whose `call`-th calculation Ctrl-C is pressed."""
    calls = []

    def hashed(path: Path) -> str:
        calls.append(path)
        if len(calls) == call:
            raise KeyboardInterrupt
        return sha256(path)

    return hashed


def test_real_stories_at_a_real_model(shared, tmp_path):
    data = shared / "data"
    stories = str(data / "text" / "tinystories_1000.json")
    model = str(data / "stories260K")
    main(["harvest", "--model", model, "--corpus", stories, "--tokens", "5000", "--out", str(tmp_path / "a")])
    labels = ActivationShards(tmp_path / "a").labels(range(5000))
    assert bool((labels.tokens[labels.offsets < 0] == 1).all()) and int((labels.offsets < 0).sum()) > 10
    assert torch.equal(labels.positions, torch.arange(5000) % 128)
