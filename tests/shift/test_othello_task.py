"""The Othello tasks hold what they say: labels, cells, disjoint games."""

import numpy as np
import pytest
import torch

from boardgames.game import unpack
from boardgames.othello.rules import replay, square_index
from boardgames.othello.transcript import from_tokens
from saes.sites import Site
from shift.judgements import JudgementLog
from shift.tasks.othello import FIRST_PLY, LAST_PLY, OwnerTaskConfig, owner_task

SITE = Site("resid_0", "transformer.h.0")


@pytest.fixture(scope="module")
def task():
    return owner_task(OwnerTaskConfig(train=300, test=100, cell=50), SITE)


def owners(tokens, position):
    """(mine on c3, mine on f5, both taken) at each prompt's position."""
    games = replay(from_tokens(tokens.numpy()))
    rows, ply = np.arange(len(tokens)), position.numpy()
    mine, taken = unpack(games.mine)[rows, ply], unpack(games.black | games.white)[rows, ply]
    c3, f5 = square_index("c3"), square_index("f5")
    return mine[:, c3], mine[:, f5], taken[:, c3] & taken[:, f5]


def test_ambiguous_games_agree_and_are_balanced_in_the_label(task):
    for data in (task.train, task.test):
        a, b, taken = owners(data.tokens, data.position)
        assert taken.all() and (a == b).all() and (a == data.label.numpy()).all()
        assert int(data.position.min()) >= FIRST_PLY and int(data.position.max()) <= LAST_PLY
    assert abs(float(task.train.label.float().mean()) - 0.5) < 0.1


def test_balanced_cells_are_equal_and_games_are_new(task, tmp_path):
    splits = task.balanced.open(JudgementLog(tmp_path / "j.jsonl", task.name).freeze(), "test")
    seen = {bytes(row) for data in (task.train, task.test) for row in data.tokens.numpy()}
    for data in (splits.train, splits.test):
        a, b, taken = owners(data.tokens, data.position)
        assert taken.all() and (a == data.intended.numpy()).all() and (b == data.spurious.numpy()).all()
        for cell in ((False, False), (False, True), (True, False), (True, True)):
            assert int(((data.intended == cell[0]) & (data.spurious == cell[1])).sum()) == 50
        rows = {bytes(row) for row in data.tokens.numpy()}
        assert not rows & seen
        seen |= rows


def test_the_seed_decides(task):
    again = owner_task(OwnerTaskConfig(train=300, test=100, cell=50), SITE)
    other = owner_task(OwnerTaskConfig(train=300, test=100, cell=50, seed=1), SITE)
    assert torch.equal(again.train.tokens, task.train.tokens)
    assert not torch.equal(other.train.tokens, task.train.tokens)


@pytest.mark.parametrize(("intended", "spurious"), [("c3", "c3"), ("c3", "c7"), ("c3", "f6"), ("c3", "j9")])
def test_squares_that_share_a_line_are_refused(intended, spurious):
    with pytest.raises(ValueError, match="line|both|square"):
        OwnerTaskConfig(intended=intended, spurious=spurious)
