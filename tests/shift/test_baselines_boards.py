"""What board tasks hand to the baselines: tables of tokens with fixed columns, and directions of named concepts."""

import numpy as np
import pytest
import torch

from boardgames.lm import load_othello_gpt
from saes.families import find_site
from saes.sites import capture
from shift.probe import fit_head, predict
from shift.specs import BoardTaskSpec
from shift.tasks.board import board_task
from shift.tasks.concepts import board_concepts, concepts_of
from shift.tasks.draws import everywhere
from shift.tasks.questions import depends

PAIR = BoardTaskSpec("mine c4", "mine a1", ("occupied c4", "occupied a1"), train=400, test=200, cell=4)


@pytest.fixture(scope="module")
def model():
    return load_othello_gpt()


def test_tables_of_tokens_fit_other_prompts_and_tell_who_owns_a_corner(model):
    task = board_task(PAIR, find_site(model, PAIR.site))
    assert task.token_local is not None and task.deleted is None
    train, test = task.train, task.test
    fitted, asked = (task.token_local(data.tokens, data.position) for data in (train, test))
    assert [t.shape[1] for t in fitted] == [t.shape[1] for t in asked]
    cut = task.token_local(test.tokens[:, : int(test.position[:7].max()) + 1][:7], test.position[:7])
    assert all(torch.equal(part, whole[:7]) for part, whole in zip(cut, asked, strict=True))
    side = fit_head(fitted[1], train.label, weight_decay=0.1)  # who played a1 owns it
    assert float((predict(side, asked[1]) == test.label).float().mean()) > 0.95


def test_concepts_hang_on_nothing_else_than_the_intended_property():
    names = concepts_of(PAIR)
    assert {"mine c4", "yours c4", "empty c4", "last move c4"} <= set(names)
    assert all(depends("othello", name) == {"c4"} for name in names)
    legal = concepts_of(BoardTaskSpec("legal b4", "mine f5", ("empty b4", "occupied f5")))
    assert {"legal b4", "mine b4", "mine b8", "empty f4"} <= set(legal)
    assert not {"mine f5", "legal c3"} & set(legal)


def test_directions_are_differences_of_means_taken_game_by_game(model):
    names, directions = board_concepts(model, PAIR, games=20)
    assert "mine c4" in names and len(names) == len(directions) and directions.isfinite().all()
    rows, site = everywhere(PAIR, "shift_names", 20), find_site(model, PAIR.site)
    answers = np.stack([rows.answer(name) for name in names], axis=1)
    sums, counts, row = np.zeros((len(names), 2, 128)), np.zeros((len(names), 2)), 0
    for tokens, mask in zip(rows.tokens, rows.mask, strict=True):
        with capture(model, [site]) as values:
            model(input_ids=torch.from_numpy(tokens)[None])
        for x in values[site][0].double().numpy()[mask]:
            for column, holds in enumerate(answers[row]):
                sums[column, int(holds)] += x
                counts[column, int(holds)] += 1
            row += 1
    assert row == len(answers) and counts.min() >= 10
    means = sums / counts[..., None]
    slow = torch.from_numpy(means[:, 1] - means[:, 0])
    assert torch.allclose(directions.double(), slow, atol=1e-3 * float(slow.abs().max()))
