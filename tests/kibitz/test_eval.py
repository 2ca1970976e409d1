"""`kibitz eval` end to end: shipped model and games, a real language model's kinds of corpora, many dictionaries."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.othello.rules import random_games
from kibitz.cli import main
from saes.architectures import ReLUConfig, ReLUDictionary, TopKConfig, TopKDictionary, transcoder
from saes.checkpoint import load_dictionary, save_dictionary
from saes.evaluation import evaluate
from saes.families import find_site
from saes.models import load_model
from saes.sites import Site
from tests.saes.corpora_for_tests import ids, texts, word_tokenizer
from tests.saes.models_for_tests import tiny

SHIPPED = str(OTHELLO_DICTIONARIES / "resid_1")


@pytest.fixture
def folder(tmp_path, monkeypatch) -> Path:
    """A working folder with a tiny language model, its tokenizer, texts, token ids, games, and dictionaries."""
    model = tiny("llama")
    model.save_pretrained(tmp_path / "lm")
    word_tokenizer().save_pretrained(tmp_path / "lm")
    (tmp_path / "t.jsonl").write_text("".join(json.dumps({"text": t}) + "\n" for t in texts(400)))
    (tmp_path / "empty.jsonl").write_text(json.dumps({"text": ""}) + "\n")
    np.save(tmp_path / "t.npy", np.array([token for text in texts(400) for token in ids(text)], np.uint16))
    np.savez(tmp_path / "games.npz", moves=random_games(30, np.random.default_rng(0)))
    a, b = find_site(model, "resid_0"), find_site(model, "mlp_1")
    relu = ReLUDictionary(ReLUConfig(16, 24), [a]).requires_grad_(False)
    relu.b_enc.copy_(torch.linspace(-9, 1, 24))
    save_dictionary(relu, tmp_path / "run" / "dictionaries" / "resid_0" / "seed-0")
    save_dictionary(
        TopKDictionary(TopKConfig(16, 20, k=4), [b]), tmp_path / "run" / "dictionaries" / "mlp_1" / "seed-0"
    )
    middle = find_site(model, "resid_mid_1")
    save_dictionary(transcoder(ReLUDictionary, middle, b, width_in=16, width=16, features=8), tmp_path / "transcoder")
    save_dictionary(ReLUDictionary(ReLUConfig(17, 24), [a]), tmp_path / "wide")
    save_dictionary(ReLUDictionary(ReLUConfig(16, 24), [Site("resid_9", "model.layers.9")]), tmp_path / "deep")
    monkeypatch.chdir(tmp_path)
    return tmp_path


LM = ["--model", "lm", "--corpus", "t.jsonl", "--context", "16", "--tokens", "600"]


def test_games_and_boards_at_the_shipped_model(folder, capsys, monkeypatch):
    monkeypatch.setattr("kibitz.evaluate._GAMES_PER_SPLIT", 60)
    main(["eval", SHIPPED, "--tokens", "2000", "--json"])
    found = json.loads(capsys.readouterr().out)
    (one,) = found["dictionaries"]
    assert found["tokens_asked"] == 2000 and 2000 <= found["tokens"] < 2059 and one["writes"] == ["resid_1"]
    assert 20 < one["sae"]["l0"] < 80 and one["sae"]["loss_recovered"] > 0.9 and one["sae"]["kl"] < 0.3
    assert one["sae"]["standard_errors"]["l0"] < 2
    assert 0.3 < one["board"]["coverage"] < 1 and one["board"]["coverage_floor"] < one["board"]["coverage"]


def test_another_tools_folder_scores_the_same(folder, capsys):
    main(["export", "run/dictionaries/resid_0/seed-0", "theirs", "--to", "saelens", "--model-name", "lm"])
    capsys.readouterr()
    main(["eval", "run/dictionaries/resid_0", "theirs", *LM, "--json"])
    ours, theirs = json.loads(capsys.readouterr().out)["dictionaries"]
    assert (ours["name"], theirs["name"]) == ("seed-0", "theirs") and theirs["writes"] == ["resid_0"]
    assert ours["sae"]["kl"] == pytest.approx(theirs["sae"]["kl"], rel=1e-4)


def test_many_dictionaries_in_one_table_and_a_whole_folder(folder, capsys):
    command = ["eval", "run", "transcoder", *LM, "--out", "out", "--contexts", "3", "--window", "2"]
    main([*command, "--drop-bos"])
    printed = capsys.readouterr()
    names = ["mlp_1/seed-0", "resid_0/seed-0", "transcoder"]
    assert "token/s" in printed.err and "±" in printed.out and "coverage" not in printed.out
    table = (folder / "out" / "table.txt").read_text()
    assert [line.split()[0] for line in table.splitlines()[1:4]] == names and table.strip() in printed.out
    assert "resid_mid_1>mlp_1" in table
    results = json.loads((folder / "out" / "results.json").read_text())
    model = load_model("lm")
    assert [each["name"] for each in results["dictionaries"]] == names
    for each, name in zip(results["dictionaries"], names, strict=True):
        histogram = each["log10_frequency"]
        assert sum(histogram["counts"]) + histogram["outside"] == each["features"]
        assert histogram["outside"] / each["features"] == pytest.approx(each["sae"]["dead"])
        assert sum(each["decoder_cosine"]["counts"]) == each["features"]
        stem = name.replace("/", "_")
        core = json.loads((folder / "out" / "eval_results" / "core" / f"kibitz_{stem}_eval_results.json").read_text())
        assert core["eval_result_metrics"]["sparsity"]["l0"] == each["sae"]["l0"]
        assert core["sae_lens_id"] == stem and len(core["eval_result_details"]) == each["features"]
        lines = [json.loads(line) for line in (folder / "out" / "contexts" / f"{stem}.jsonl").read_text().splitlines()]
        assert [line["feature"] for line in lines] == list(range(each["features"]))
        fires = sum(line["fires"] for line in lines)
        assert fires == pytest.approx(each["sae"]["l0"] * results["tokens"])
        context = next(line["top"][0] for line in lines if line["top"])
        spelt = [f"w{token - 2}" if token > 1 else "<bos>" for token in context["tokens"]]
        assert context["texts"] == spelt and context["tokens"][context["position"]] > 1
    for picture in ("density.png", "decoder_cosine.png"):
        assert (folder / "out" / picture).read_bytes()[:4] == b"\x89PNG"
    assert model.config.vocab_size == 97


def test_numbers_are_those_of_the_library_and_not_of_the_batch_size(folder, capsys):
    for rows in ("1", "64"):
        main(["eval", "run/dictionaries/resid_0/seed-0", *LM, "--rows", "document", "--batch-rows", rows, "--json"])
        found = json.loads(capsys.readouterr().out)["dictionaries"][0]["sae"]
        tokens = torch.zeros(400, 16, dtype=torch.long)
        mask = torch.zeros(400, 16, dtype=torch.bool)
        for i, text in enumerate([text for text in texts(400) if text]):
            row = [1, *ids(text)]
            tokens[i, : len(row)], mask[i, : len(row)] = torch.tensor(row), True
        count = int((mask.sum(1).cumsum(0) < 600).sum()) + 1
        dictionary = load_dictionary("run/dictionaries/resid_0/seed-0")
        expected = evaluate(load_model("lm"), dictionary, tokens[:count], mask[:count])
        assert found["tokens"] == expected.tokens
        for name in ("l0", "mse", "loss_recovered", "kl", "kl_mean", "alive"):
            assert found[name] == pytest.approx(getattr(expected, name), rel=1e-4)
        errors = expected.standard_errors
        assert found["standard_errors"]["kl"] == pytest.approx(errors["kl"], rel=1e-3)


def test_a_small_corpus_and_token_files(folder, capsys):
    command = ["eval", "transcoder", "--model", "lm", "--corpus", "t.npy", "--context", "16"]
    main(command)
    said = capsys.readouterr().out
    total = len(np.load("t.npy"))
    assert f"{total} tokens in {-(-total // 16)} rows, where the corpus ended: 100000 were asked for" in said
    main(["eval", SHIPPED, "--games", "games.npz", "--no-boards"])
    assert "where the corpus ended" in capsys.readouterr().out


def test_another_site_for_one_dictionary(folder, capsys):
    main(["eval", "run/dictionaries/resid_0/seed-0", *LM, "--site", "resid_1", "--json"])
    assert json.loads(capsys.readouterr().out)["dictionaries"][0]["writes"] == ["resid_1"]


def test_an_earlier_run_stays_when_a_later_one_fails(folder, capsys):
    main(["eval", "transcoder", *LM, "--out", "out"])
    before = (folder / "out" / "results.json").read_bytes()
    with pytest.raises(SystemExit):
        main(["eval", "transcoder", *LM, "--out", "out", "--contexts", "2", "--features", "8"])
    assert "feature 8: the dictionary has features 0 to 7" in capsys.readouterr().err
    assert (folder / "out" / "results.json").read_bytes() == before
    main(["eval", "transcoder", *LM, "--out", "out", "--contexts", "2", "--features", "7", "2"])
    lines = (folder / "out" / "contexts" / "transcoder.jsonl").read_text().splitlines()
    assert [json.loads(line)["feature"] for line in lines] == [2, 7]


WRONG = [
    (["nowhere"], "nowhere: no such folder"),
    (["lm"], "lm: holds none of dictionary.safetensors (Kibitz)"),
    (["wide"], "site resid_0: activations have width 16, the dictionary 17"),
    (["deep"], "site 'resid_9': this llama has no such site"),
    (["run", "--site", "resid_0"], "--site is for one dictionary, and there are 2"),
    (["transcoder", "--site", "resid_0"], "no single site"),
    (["transcoder", "--tokens", "0"], "tokens is 0"),
    (["transcoder", "--corpus", "empty.jsonl"], "the corpus holds no token"),
    (["transcoder", "--corpus", "missing.txt"], "missing.txt: no such file"),
    (["transcoder", "--contexts", "3"], "give --out"),
    (["transcoder", "--features", "3"], "give --contexts"),
    (["transcoder", "--out", "run"], "not a run"),
    (["transcoder", "--context", "1", "--bos", "none"], "no token is predicted"),
    ([], "no dictionary is given"),
]


@pytest.mark.parametrize(("arguments", "said"), WRONG, ids=[" ".join(a) or "nothing" for a, _ in WRONG])
def test_mistakes_end_in_one_sentence(folder, capsys, arguments, said):
    before = sorted(folder.rglob("*"))
    with pytest.raises(SystemExit) as leaving:
        main(["eval", *LM, *arguments])
    complaint = capsys.readouterr().err
    assert leaving.value.code in (1, 2) and said in complaint and "Traceback" not in complaint
    assert complaint.splitlines()[-1].startswith("kibitz: ")
    assert sorted(folder.rglob("*")) == before
