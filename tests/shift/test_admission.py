"""Admission against a planted model: embeddings that say the last move and the ply, and dictionaries that are right."""

from dataclasses import replace

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.othello.rules import CENTRE, square_name
from boardgames.othello.transcript import CONTEXT, TOKEN_OF_SQUARE, VOCABULARY
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import find_site
from shift.admission import Admission, Admissions, NotDrawn, admit_all
from shift.admission_games import Read
from shift.specs import BoardTaskSpec
from shift.tasks.draws import CELLS, DrawError, everywhere

UPPER = [s for s in range(32) if s not in CENTRE]
SPEC = BoardTaskSpec(
    " or ".join(f"last move {square_name(s)}" for s in UPPER),
    "ply 30-39 or ply 40-49 or ply 50-59",
    site="embed",
    train=400,
    test=2,
)
LATE = 30
SMALL = {"cell": 100, "games": 250, "named_games": 20}


@pytest.fixture(scope="module")
def planted():
    """Two coordinates are true of the last move and of the ply; the ply's is larger, so a classifier prefers it."""
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=16, n_layer=1, n_head=1)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    words, places = 0.05 * torch.randn(VOCABULARY, 16), 0.05 * torch.randn(CONTEXT, 16)
    upper = torch.zeros(VOCABULARY, dtype=torch.bool)
    upper[torch.from_numpy(TOKEN_OF_SQUARE[UPPER])] = True
    words[:, :2], places[:, :2] = 0.0, 0.0
    words[:, 0], places[:, 1] = upper * 2.0 - 1, (torch.arange(CONTEXT) >= LATE) * 6.0 - 3
    model.transformer.wte.weight.copy_(words)
    model.transformer.wpe.weight.copy_(places)
    site = find_site(model, "embed")
    dictionary = ReLUDictionary(ReLUConfig(16, 32), [site])
    dictionary.W_dec.data = torch.cat([torch.eye(16), -torch.eye(16)])
    dictionary.W_enc.data = dictionary.W_dec.data.clone()
    return model, {site: dictionary.requires_grad_(False)}


def test_a_fit_task_is_admitted_with_its_features(planted):
    found = Admissions(*planted, **SMALL)(SPEC)
    assert found.passed, found.reasons
    assert found.probe_intended > 0.99 and found.probe_spurious > 0.99
    assert found.original_worst_group <= 0.6
    assert (found.intended_feature.feature, found.spurious_feature.feature) == (0, 1)
    assert found.intended_feature.f1 == found.spurious_feature.f1 == 1
    assert found.to_json()["passed"] and found.to_json()["spec"] == SPEC.to_json()


def test_each_failure_has_its_reason(planted):
    model, dictionaries = planted
    blind = {s: ReLUDictionary(ReLUConfig(16, 32), [s]) for s in dictionaries}
    for site, dictionary in blind.items():
        dictionary.load_state_dict(dictionaries[site].state_dict())
        dictionary.W_enc.data[[1, 17]] = 0  # nothing reads the ply
    found = Admissions(model, blind, **SMALL)(SPEC)
    assert len(found.reasons) == 1 and "best feature for B" in found.reasons[0]
    good = Admissions(model, dictionaries, **SMALL)(SPEC)
    failed = replace(good, probe_intended=0.94, probe_spurious=0.9, original_worst_group=0.61, spurious_feature=None)
    assert [reason.split(" ")[-1] for reason in failed.reasons] == ["0.95", "0.95", "0.6", "B"]


def test_tasks_share_their_games_and_nothing_else(planted, monkeypatch):
    """Measured after another task as alone; games of each use are drawn once."""
    drawn = []

    def counted(spec, use, games):
        drawn.append(use)
        return everywhere(spec, use, games)

    monkeypatch.setattr("shift.admission_games.everywhere", counted)
    other = replace(SPEC, filters=("occupied a1",))
    shared = Admissions(*planted, **SMALL)
    shared(other)
    found = shared(SPEC)
    assert sorted(drawn) == ["shift_admission", "shift_admission_balanced", "shift_names"]
    assert found == Admissions(*planted, **SMALL)(SPEC)
    shared(replace(SPEC, seed=1))
    assert len(drawn) == 9


def test_rows_are_of_their_cells_and_one_of_a_game(planted):
    model, dictionaries = planted
    read = Read.of(model, list(dictionaries), everywhere(SPEC, "shift_admission", 60))
    found = read.cells(SPEC, dict.fromkeys(CELLS, 25))
    assert len({len(rows) for rows in found.values()}) == 1
    for (intended, spurious), rows in found.items():
        assert len(set(read.rows.game[rows].tolist())) == len(rows) <= 25
        assert (read.rows.answer(SPEC.intended)[rows] == intended).all()
        assert (read.rows.answer(SPEC.spurious)[rows] == spurious).all()
        assert read.rows.usable(SPEC)[rows].all()
    x = next(iter(read.activations.values()))
    assert torch.equal(x[:, 1] > 0, torch.from_numpy(read.rows.positions.ply >= LATE))  # rows and activations agree
    with pytest.raises(DrawError, match="of 61 examples .* too rare"):
        read.cells(SPEC, dict.fromkeys(CELLS, 100), least=61)


def test_what_cannot_be_drawn_is_reported_beside_the_rest(planted):
    never = replace(SPEC, filters=("empty d4",))
    found = list(admit_all(Admissions(*planted, **SMALL), [never, SPEC]))
    assert isinstance(found[0], NotDrawn) and not found[0].passed and "too rare" in found[0].reasons[0]
    assert isinstance(found[1], Admission)
    assert found[0].to_json()["reasons"] == list(found[0].reasons)
