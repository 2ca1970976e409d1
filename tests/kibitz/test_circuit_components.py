"""`kibitz circuit components`: what is written for nodes, edges and spans, and what is said of wrong input."""

import csv
import json

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from kibitz.cli import main
from tests.circuits.tokenizers_for_tests import word_tokenizer

OTHELLO = ["circuit", "components", "--square", "b4", "--line", "down", "--count", "6", "--random", "1"]


def run(tmp_path, *arguments):
    out = tmp_path / "run"
    main([*arguments, "--out", str(out)])
    rows = list(csv.DictReader((out / "components.csv").open()))
    assert (out / "components.dot").read_text().startswith("digraph")
    return json.loads((out / "results.json").read_text()), rows


@pytest.fixture(scope="module")
def behaviour(tmp_path_factory):
    """A tiny GPT-2 with words for tokens, and pairs of sentences."""
    folder = tmp_path_factory.mktemp("model")
    torch.manual_seed(0)
    GPT2LMHeadModel(
        GPT2Config(vocab_size=16, n_embd=16, n_layer=2, n_head=2, n_positions=16, initializer_range=0.4)
    ).save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    lines = [
        {"clean_prefix": f"The {one} near the {other}", "patch_prefix": f"The {one}s near the {other}",
         "clean_answer": "is", "patch_answer": "are"}
        for one in ("boy", "girl", "car") for other in ("boy", "boys", "girl", "girls", "car", "cars")
    ]  # fmt: skip
    pairs = folder / "pairs.jsonl"
    pairs.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return ["circuit", "components", "--model", str(folder), "--pairs", str(pairs), "--random", "1"]


def test_heads_of_othello_are_ranked_and_measured_on_other_games(tmp_path, capsys):
    results, rows = run(tmp_path, *OTHELLO, "--method", "eap", "--best", "5", "100000", "--shown", "3")
    said = capsys.readouterr().out
    assert results["finding"] + results["testing"] <= 6 and results["what"] == "heads"
    small, whole = results["circuits"]
    assert small["size"] == 5 and whole["size"] == results["total"] == len(rows)
    assert whole["faithfulness"]["value"] == pytest.approx(1, abs=1e-4)
    effects = [abs(float(row["effect"])) for row in rows]
    assert effects == sorted(effects, reverse=True) and effects[0] > 0
    assert f"{rows[0]['node']}@all" in said and "Faithfulness of the best 5 nodes" in said


def test_edges_between_words_with_means(behaviour, tmp_path):
    results, rows = run(tmp_path, *behaviour, "--edges", "--peap", "--places", "words", "--to", "mean", "--best", "40")
    assert results["to"] == "mean" and results["metric"] == "logit-difference" and results["what"] == "edges"
    assert any(row["place"] != row["reader_place"] for row in rows)
    assert all(row["reader"] for row in rows)


def test_exact_scores_and_edges_by_position(behaviour, tmp_path):
    results, rows = run(tmp_path, *behaviour, "--method", "exact", "--nodes", "neurons", "--best", "7")
    assert len(rows) == 7 and results["circuits"][0]["size"] == 7
    _, rows = run(tmp_path, *behaviour, "--edges", "--method", "eap", "--places", "each", "--best", "9")
    assert len(rows) == 9 and all(row["place"] == row["reader_place"] for row in rows)
    _, rows = run(tmp_path, *behaviour, "--nodes", "residual", "--places", "each", "--best", "4")
    assert {row["node"] for row in rows} <= {"embed", "resid_0", "resid_1"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--edges", "--nodes", "neurons"], "nodes is neurons: edges are between heads or layers"),
        (["--peap"], "peap scores edges of heads by attribution"),
        (["--to", "resample"], "components move to patch, mean or zero"),
        (["--best", "0"], r"best is [0]: choose sizes of 1 or more"),
        (["--steps", "0"], "steps is 0: choose 1 or more"),
        (["dictionaries"], "dictionaries"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as leaving:
        main([*OTHELLO, *arguments])
    assert leaving.value.code in (1, 2)
    assert said in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
