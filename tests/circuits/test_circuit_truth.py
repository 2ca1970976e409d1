"""What measures circuits against Othello's rules: scores by hand, boards and flips, text held out."""

import numpy as np
import pytest
import torch

from boardgames.othello.counterfactuals import counterfactuals
from boardgames.othello.dependence import positions_asked
from boardgames.othello.properties import CORRECTED
from boardgames.othello.rules import random_games, replay
from saes.files import FileError, write_json


@pytest.fixture(autouse=True)
def scripts(monkeypatch, pytestconfig):
    monkeypatch.syspath_prepend(pytestconfig.rootpath / "scripts")


def table(effects, squares, kinds):
    """One pair; `squares` are those that each node names."""
    from circuit_truth.naming import NodeTable

    depends = np.zeros((1, len(squares), 64), bool)
    for node, named in enumerate(squares):
        depends[0, node, list(named)] = True
    return NodeTable(np.array([effects], float), depends, kinds)


def test_scores_by_hand():
    from circuit_truth.scores import Truth, agreement

    # causal 0, 1, 2; others 3, 4, 5; square 9 differs in nothing; node 4 is too weak for the circuit
    nodes = table([4, -3, 2, 1, 0.5], [{0}, {3}, {1, 9}, {}, {2}], ["square", "square", "composite", "error", "square"])
    truth = Truth(np.isin(np.arange(64), [0, 1, 2])[None], np.isin(np.arange(64), [3, 4, 5])[None])
    circuit = nodes.strongest(4)
    assert circuit.tolist() == [0, 1, 2, 3]
    found = agreement(nodes, circuit, truth)
    assert found["precision"] == pytest.approx(2 / 3)
    assert found["recall"] == pytest.approx(2 / 3)
    assert found["f1"] == pytest.approx(2 / 3)
    # pairs of causal and other: 0 (4) beats all three; 1 (2) loses to 3 (3); 2 (0) loses to 3 and ties with two
    assert found["auroc"] == pytest.approx((3 + 2 + 1) / 9)
    assert found["ceiling f1"] == 1
    assert found["chance f1"] == pytest.approx(2 * (3 * 0.5) / 6)
    assert found["all f1"] == pytest.approx(2 * 3 / (6 + 3))
    assert found["causal share"] == pytest.approx((4 + 2) / (4 + 3 + 2))
    assert found["error mass"] == pytest.approx(0.1)
    assert found["elsewhere mass"] == 0
    weaker = table([4, -3, 2, 1, 0], [{0}, {3}, {1, 9}, {}, {2}], ["square"] * 5)
    assert agreement(weaker, circuit, truth)["ceiling f1"] == pytest.approx(2 * 2 / 5)  # a node that does not move


def test_pairs_without_both_kinds_of_squares_do_not_count():
    from circuit_truth.scores import Truth, agreement

    nodes = table([1.0], [{0}], ["square"])
    nothing, some = np.zeros((1, 64), bool), np.arange(64)[None] < 3
    assert np.isnan(agreement(nodes, nodes.strongest(1), Truth(nothing, some))["f1"])
    assert np.isnan(agreement(nodes, nodes.strongest(1), Truth(some, nothing))["f1"])


def test_board_states_are_the_properties():
    from circuit_truth.probe_flips import STATES, board_states

    games = replay(random_games(200, np.random.default_rng([5, 91])))
    positions = games.at(games.played & (games.next_mover != 0))
    states = board_states(positions)
    assert (positions.next_mover == positions.mover).any(), "no forced pass: the test says little"
    for number, name in enumerate(STATES):
        assert ((states == number) == CORRECTED[name].labels(positions)).all()


def test_a_flip_turns_the_sign_by_the_shortest_step():
    from circuit_truth.probe_flips import mirrored

    x, d, b = torch.randn(50, 8), torch.randn(50, 8), torch.randn(50)
    gap = (x * d).sum(-1) + b
    moved = mirrored(x, d, b)
    assert torch.allclose((moved * d).sum(-1) + b, gap.abs(), atol=1e-4)
    assert torch.equal(moved[gap >= 0], x[gap >= 0])
    step = moved - x
    assert torch.allclose(step, (step * d).sum(-1, keepdim=True) * d / d.square().sum(-1, keepdim=True), atol=1e-5)


def test_names_count_as_asked():
    """A composite about the target names squares with `all` alone, other composites with `others` too."""
    from circuit_truth.behaviours import Behaviour
    from circuit_truth.naming import PROPERTIES, Names, node_table

    from boardgames.game import label
    from circuits.feature_acts import NodeScores
    from saes.sites import Site

    pairs = counterfactuals(2, 11, (1, 0), np.random.default_rng([5, 92]))  # b4, downwards
    behaviour = Behaviour(11, (1, 0), pairs, np.zeros((2, 64), bool), np.zeros((2, 64), bool), np.ones(2))
    columns = label(positions_asked(pairs)[0], PROPERTIES).columns
    wanted = ["mine c4", "legal b4", "legal f6", "mine d4", "mine e4"]
    site = Site("resid_0", "x")
    names = Names(
        {site: np.array([columns.index(name) for name in wanted])},
        {site: np.array([0.9, 0.9, 0.9, 0.4, 0.9])},
        columns,
    )
    acts = torch.ones(2, 1, 5)
    acts[..., 4] = 0  # it never moves: no node
    effects = {site: NodeScores(acts, torch.ones(2, 1))}
    named = {}
    for composites in ("none", "others", "all"):
        found = node_table(behaviour, effects, names, 0.5, composites)
        assert found.kind == ["square", "composite", "composite", "unnamed", "error"]
        named[composites] = found.depends.any((0, 2)).tolist()
    assert named["none"] == [True, False, False, False, False]
    assert named["others"][:2] == [True, False]
    assert named["all"][:2] == [True, True]
    assert named["all"][2] == named["others"][2]


def test_held_out_sentences_are_never_read(tmp_path, monkeypatch):
    from circuit_truth import sentences

    monkeypatch.setattr(sentences, "HELD_OUT", 3)
    words = ["one", "two", "three", "four", "five", "six", "seven", "eight"]
    text = " ".join(f"Sentence number {word} is here." for word in words)
    (tmp_path / "tinystories_1000.json").write_text(f'["{text}", "Too short."]', encoding="utf-8")
    sentences.write_sentences(tmp_path, 0, tmp_path / "all.txt", tmp_path / "held.txt")
    every, held = ((tmp_path / name).read_text().splitlines() for name in ("all.txt", "held.txt"))
    assert len(every) == 8 and every[-3:] == held and every != sorted(every)

    def read(count):
        (tmp_path / "acts").mkdir(exist_ok=True)
        write_json(tmp_path / "acts" / "index.json", {"shards": [{"end": {"source": {"document": count}}}]})
        sentences.check_unread(tmp_path / "acts", tmp_path / "all.txt")

    read(5)
    with pytest.raises(FileError, match="6 of 8 sentences were read"):
        read(6)
    with pytest.raises(FileError, match="none of wikitext2"):
        sentences.public_sentences(tmp_path / "acts")
