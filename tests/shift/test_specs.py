"""A spec says what is wrong with it in one sentence, survives a file, and knows what its properties hang on."""

import json
from dataclasses import replace

import pytest

from boardgames.game import label
from boardgames.othello import properties
from boardgames.othello.dependence import dependence
from boardgames.othello.rules import random_games, replay
from boardgames.othello.streams import stream
from saes.files import FileError
from shift.specs import BoardTaskSpec, SpecError, read_specs, write_specs
from shift.tasks.questions import answer, depends, on_one_line, with_owners_exchanged

PAIR = {"intended": "mine c3", "spurious": "mine f5", "filters": ["occupied c3", "occupied f5"]}
CHESS = {
    "game": "chess",
    "token": "dots",
    "games": "games.csv",
    "intended": "bishop pair",
    "spurious": "has queen",
    "filters": [],
}


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"intended": "mine j9"}, "no column 'mine j9'.*did you mean 'mine"),
        ({"spurious": "castling rights"}, "spurious: othello has no column"),
        ({"filters": ["ocupied c3"]}, r"filters\[0\].*'occupied c3'"),
        ({"spurious": "yours c3"}, "both depend on c3"),
        ({"intended": "legal b4", "spurious": "mine b6"}, "both depend on b6"),
        ({"intended": "ply 0-9", "spurious": "ply 10-19"}, "both depend on ply"),
        ({"spurious": "mine c7"}, "share a line"),
        ({"spurious": "mine f6"}, "share a line"),
        ({"game": "go"}, "game is 'go'"),
        ({"token": "dots"}, "token is 'dots'.*last move"),
        ({"games": "games.npz"}, "Othello tasks draw random games"),
        ({"plies": [9]}, "two whole numbers"),
        ({"plies": [30, 9]}, "first and the last"),
        ({"plies": [9, 59]}, "plies 0 to 58"),
        ({"cell": 1}, "cell is 1"),
        ({"train": 401}, "even sum"),
        ({"seed": -1}, "seed is -1"),
        ({"cells": 10}, "did you mean 'cell'"),
        ({"cell": 10.5}, "'cell' is 10.5: expected a whole number"),
        ({"shared_line": 1}, "expected true or false"),
        ({"filters": "occupied c3"}, "expected a list of texts"),
        (CHESS | {"games": ""}, "chess needs a file of games"),
        (CHESS | {"intended": "check"}, "stands in the transcript"),
        (CHESS | {"intended": "can capture queen"}, "both depend on has queen"),
        (CHESS | {"parts": ["training"]}, "parts is 'training': choose language_model"),
    ],
)
def test_a_bad_spec_says_why(changes, said):
    with pytest.raises(SpecError, match=said):
        BoardTaskSpec.from_json(PAIR | changes)


def test_a_missing_entry_is_named():
    with pytest.raises(SpecError, match="'spurious' is missing"):
        BoardTaskSpec.from_json({"intended": "mine c3"})


def test_specs_survive_a_file(tmp_path):
    specs = [BoardTaskSpec.from_json(PAIR), BoardTaskSpec.from_json(PAIR | {"plies": [9, 30], "seed": 3})]
    write_specs(tmp_path / "specs.json", specs)
    assert read_specs(tmp_path / "specs.json") == specs
    (tmp_path / "one.json").write_text(json.dumps(PAIR))
    assert read_specs(tmp_path / "one.json") == [specs[0]]
    (tmp_path / "bad.json").write_text(json.dumps([PAIR, PAIR | {"seed": "0"}]))
    with pytest.raises(SpecError, match=r"bad\.json: task 1: entry 'seed'"):
        read_specs(tmp_path / "bad.json")
    with pytest.raises(FileError, match="no such file"):
        read_specs(tmp_path / "none.json")


def test_different_specs_have_different_names():
    spec = BoardTaskSpec.from_json(PAIR)
    others = [replace(spec, cell=7), replace(spec, seed=1), replace(spec, filters=()), replace(spec, plies=(9, 50))]
    assert len({s.name for s in (spec, spec.swapped(), *others)}) == 6
    assert spec.swapped().swapped() == spec


def test_a_shared_line_can_be_allowed():
    assert BoardTaskSpec("mine d4", "mine a1", shared_line=True).shared_line


def test_answers_are_the_columns_of_the_labels():
    games = replay(random_games(40, stream("shift_rates", 9)))
    at = games.at(games.played)
    labels = label(at, list(properties.EVERYTHING))
    column = {name: labels.matrix[:, i] for i, name in enumerate(labels.columns)}
    for name in ("mine c3", "yours h8", "empty a1", "legal b4", "flipped d3", "ply 30-39"):
        assert (answer("othello", name, at) == column[name]).all()
        assert (answer("othello", f"not {name}", at) == ~column[name]).all()
    late = answer("othello", "ply 30-39 or ply 40-49 or ply 50-59", at)
    assert (late == (at.ply >= 30)).all()
    assert with_owners_exchanged("mine c3 or yours d4") == "yours c3 or mine d4"
    assert with_owners_exchanged("legal b4") == "legal b4"


def test_answers_hang_on_nothing_but_what_is_declared():
    games = replay(random_games(60, stream("shift_rates", 8)))
    at = games.at(games.played)[::7]
    asked = [properties.CORRECTED[name] for name in ("mine", "empty", "legal", "ply")]
    squares = dependence(at, asked).any(0)
    columns = [c for p in asked for c in p.columns]
    for index, name in enumerate(columns):
        allowed = depends("othello", name)
        assert {properties.SQUARES[s] for s in squares[index].nonzero()[0]} <= allowed
    assert len(depends("othello", "legal b4")) == 1 + 7 + 7 + 9  # its square, row, column and diagonals


def test_lines():
    assert on_one_line("d4", "a1") and on_one_line("d4", "d8") and on_one_line("d4", "a7")
    assert not on_one_line("d4", "d4") and not on_one_line("c3", "f5")
