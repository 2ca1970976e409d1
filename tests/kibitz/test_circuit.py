"""`kibitz circuit` from the command line: what is written, what other commands read, what is said of wrong input."""

import json
import shutil
from itertools import islice
from pathlib import Path

import networkx
import numpy as np
import pytest
import torch

from boardgames.chess.play import random_games
from boardgames.chess.properties import CORRECTED
from boardgames.confusion import THRESHOLDS
from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.labelled import label_chess
from boardgames.lm import CHESS_GPT, OTHELLO_GPT
from circuits import load_circuit
from kibitz.circuit_problem import open_dictionaries
from kibitz.cli import main
from saes.architectures import TopKConfig, TopKDictionary
from saes.checkpoint import save_dictionary
from saes.families import find_site
from saes.models import load_model
from saes.sites import Site, capture

FIND = ["circuit", "find", "--square", "b4", "--line", "down"]
SMALL = [
    "--count",
    "8",
    "--nodes",
    "30",
    "--edges",
    "60",
    "--steps",
    "2",
    "--audit",
    "4",
    "--random",
    "1",
    "--names",
    "20",
]


@pytest.fixture(scope="module")
def found(tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("circuit") / "run"
    main([*FIND, *SMALL, "--out", str(out)])
    return out


def fails(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(list(arguments))
    assert leaving.value.code in (1, 2)
    return capsys.readouterr().err


def test_a_run_holds_a_circuit_its_numbers_and_its_page(found):
    circuit = load_circuit(found / "circuit")
    assert 0 < len(circuit.nodes) <= 30 and 0 < len(circuit.edges) <= 60
    assert set(circuit.provenance["dictionaries"]) == {site.name for site in circuit.sites}
    results = json.loads((found / "results.json").read_text())
    assert results["nodes"] == len(circuit.nodes) and results["finding"] + results["faithfulness"]["examples"] <= 8
    assert set(results["gaps"]) == {site.name for site in circuit.sites}
    assert len(results["audit"]["exact"]) == 4
    page = (found / "circuit.html").read_text()
    assert "b4 is legal through the line down alone" in page and "http://" not in page.replace("http://www.w3.org", "")
    assert (found / "circuit.svg").read_text().startswith("<svg")


def test_the_same_command_finds_the_same_circuit(found, tmp_path):
    main([*FIND, *SMALL, "--out", str(tmp_path / "again")])
    first, second = load_circuit(found / "circuit"), load_circuit(tmp_path / "again" / "circuit")
    assert dict(first.nodes) == dict(second.nodes) and dict(first.edges) == dict(second.edges)


def test_eval_measures_it_on_other_pairs(found, tmp_path, capsys):
    where = ["--folder", str(found / "circuit"), "--out", str(tmp_path / "e"), "--no-curves", "--random", "1"]
    main(["circuit", "eval", "--square", "b4", "--line", "down", "--count", "8", "--seed", "1", *where])
    assert "Faithfulness" in capsys.readouterr().out
    assert json.loads((tmp_path / "e" / "results.json").read_text())["faithfulness"]["examples"] >= 1
    said = fails(
        capsys, "circuit", "eval", "--square", "b4", "--line", "down", "--places", "each", "--count", "8", *where
    )
    assert "choose the same --places" in said


def test_show_diff_and_export(found, tmp_path, capsys):
    folder = str(found / "circuit")
    circuit = load_circuit(folder)
    main(["circuit", "show", folder, "--nodes", "3", "--edges", "2"])
    shown = capsys.readouterr().out
    strongest = max(circuit.nodes, key=lambda node: abs(circuit.nodes[node]))
    assert str(strongest) in shown.splitlines()[1] and len(shown.splitlines()) == 6
    main(["circuit", "diff", folder, folder])
    assert capsys.readouterr().out.count("Jaccard 1.000") == 2
    for name in ("c.graphml", "c.dot", "c.svg", "c.html"):
        main(["circuit", "export", folder, str(tmp_path / name)])
    graph = networkx.read_graphml(tmp_path / "c.graphml")
    assert set(graph) == {str(node) for node in circuit.nodes} and graph.number_of_edges() == len(circuit.edges)
    main(["circuit", "export", folder, str(tmp_path / "viewer"), "--format", "viewer"])
    assert any((tmp_path / "viewer").glob("*.json"))
    assert "no format is known by that name" in fails(capsys, "circuit", "export", folder, str(tmp_path / "c.pdf"))


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["find"], "say what to explain"),
        (["find", "--square", "b4"], "line is None"),
        (["find", "--square", "b9", "--line", "down"], "square 'b9'"),
        (["find", "--square", "b4", "--line", "down", "--nodes", "0"], "nodes is 0"),
        (["find", "--square", "b4", "--line", "down", "--to", "resample", "--count", "1"], "count is 1"),
        (["find", "--pairs", "none.json"], "none.json: no such file"),
        (["show", "nothing"], "no such file"),
        (["discover", "--shortest", "90"], "shortest is 90"),
    ],
)
def test_wrong_input_is_one_sentence(arguments, said, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert said in fails(capsys, "circuit", *arguments)
    assert not list(tmp_path.iterdir())


def test_behaviours_of_othello(tmp_path, capsys):
    small = ["--contexts", "60", "--clusters", "4", "--circuits", "1", "--examples", "4", "--steps", "2"]
    main(["circuit", "discover", "--how", "kmeans", *small, "--nodes", "20", "--out", str(tmp_path / "d")])
    said = capsys.readouterr().out
    assert "60 contexts in 4 clusters" in said and "mutual information with move square" in said
    found = json.loads((tmp_path / "d" / "clusters.json").read_text())
    assert np.bincount(found["labels"]).tolist() == [b["size"] for b in found["behaviours"]]
    assert (tmp_path / "d" / found["behaviours"][0]["page"]).is_file()
    assert found["behaviours"][1]["page"] is None
    assert "circuits/0/circuit.html" in (tmp_path / "d" / "index.html").read_text()


CHESS = [
    ("1.e4 e5 2.Nf3 ", "1.d4 d5 2.Nf3 ", "N", "e"),
    ("1.e4 e5 2.Nc3 ", "1.c4 e5 2.Nc3 ", "N", "d"),
    ("1.e4 g6 2.d4 ", "1.c4 g6 2.d4 ", "B", "e"),
    ("1.e4 e6 2.d4 ", "1.d4 e6 2.c4 ", "d", "N"),
]


def chess_pairs(path: Path, rows: list[tuple[str, str, str, str]]) -> Path:
    names = ("clean_prefix", "patch_prefix", "clean_answer", "patch_answer")
    path.write_text("".join(json.dumps(dict(zip(names, row, strict=True))) + "\n" for row in rows))
    return path


def test_nodes_of_chess_are_named_by_its_properties(tmp_path, capsys):
    """By the best F1 over properties and thresholds, here counted by hand on the same random games."""
    model = load_model(CHESS_GPT)
    site = find_site(model, "resid_5")
    dictionary = TopKDictionary(TopKConfig(128, 64, k=4), [site])
    save_dictionary(dictionary, tmp_path / "dictionaries" / "resid_5")
    pairs = chess_pairs(tmp_path / "pairs.jsonl", CHESS)
    given = ["--model", str(CHESS_GPT), "--pairs", str(pairs), "--names", "6", "--test", "0.25", "--nodes", "8"]
    quick = ["--steps", "2", "--audit", "0", "--random", "1", "--edges", "9", "--out", str(tmp_path / "run")]
    main(["circuit", "find", str(tmp_path / "dictionaries"), *given, *quick])
    said = capsys.readouterr().out
    circuit = load_circuit(tmp_path / "run" / "circuit")
    features = {node.feature for node in circuit.nodes if node.feature is not None}
    games = [each.transcript for each in islice(random_games(0), 6)]
    positions = label_chess(games, {name: [asked] for name, asked in CORRECTED.items()}, "moves")
    with torch.no_grad(), capture(model, [site]) as values:
        model(input_ids=positions.tokens, use_cache=False)
    acts = dictionary.encode(values[site][positions.mask]).detach().numpy()
    lines = [line.strip().split("  ") for line in said.splitlines() if ", F1 " in line]
    named, checked = {node: label for _, node, label in lines}, 0
    page = (tmp_path / "run" / "circuit.html").read_text()
    for feature in features:
        own = acts[:, feature]
        if not own.max() > 0:
            continue
        best = 0.0
        for threshold in THRESHOLDS.tolist():
            fires = own > threshold * own.max()
            hits = (fires[:, None] & positions.labels.matrix).sum(0)
            total = fires.sum() + positions.labels.matrix.sum(0)
            best = max(best, float((2 * hits / np.maximum(total, 1)).max()))
        name, f1 = named[f"resid_5/{feature}"].rsplit(", F1 ", 1)
        assert float(f1) == pytest.approx(best, abs=6e-3)
        assert name in positions.labels.columns and name in page
        checked += 1
    assert checked


def test_text_of_board_models_is_checked(tmp_path, capsys):
    save_dictionary(TopKDictionary(TopKConfig(128, 64, k=4), [Site("resid_5", "")]), tmp_path / "resid_5")
    pairs = chess_pairs(tmp_path / "pairs.jsonl", [("1.é4 ", "1.d4 ", "e", "d"), *CHESS])
    given = ["--model", str(CHESS_GPT), "--pairs", str(pairs), "--out", str(tmp_path / "run")]
    said = fails(capsys, "circuit", "find", str(tmp_path), *given)
    assert "a prompt holds text that the model has no token for" in said


def test_a_folder_of_kibitz_train_is_enough(tmp_path):
    """Its dictionaries lie two folders down, beside checkpoints that are none."""
    model = load_model(str(OTHELLO_GPT))
    for name in ("resid_1", "resid_3"):
        shutil.copytree(OTHELLO_DICTIONARIES / name, tmp_path / "dictionaries" / name / "k-8_seed-0")
    shutil.copytree(OTHELLO_DICTIONARIES / "mlp_2", tmp_path / "checkpoints" / "mlp_2")
    assert [site.name for site in open_dictionaries(model, (str(tmp_path),))] == ["resid_1", "resid_3"]
