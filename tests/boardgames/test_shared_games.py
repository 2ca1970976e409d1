"""Real games and reference labels, where the shared folder lies beside the clone."""

import numpy as np
import pytest

from boardgames.game import label
from boardgames.othello.properties import BLACK_DISC, EMPTY, LEGAL, MINE, WHITE_DISC, YOURS
from boardgames.othello.rules import NO_MOVE, replay
from boardgames.othello.transcript import from_tokens, read_games, to_tokens


def test_every_real_game_is_legal_and_46_percent_pass_within_the_context_of_a_model(shared):
    """A pass shows in the context if somebody moves twice in a row among the first 59 plies (58 %: among all 60)."""
    path = shared / "data" / "othello" / "wthor_moves_u8.npz"
    moves = read_games(path)
    assert moves.shape == (120_000, 60)
    passes, late = np.zeros(len(moves), bool), np.zeros(len(moves), bool)
    for start in range(0, len(moves), 20_000):
        games = replay(moves[start : start + 20_000])
        twice = (games.mover[:, 1:] == games.mover[:, :-1]) & games.played[:, 1:]
        passes[start : start + 20_000] = twice[:, :58].any(1)
        late[start : start + 20_000] = twice.any(1)
    assert (round(100 * passes.mean()), round(100 * late.mean())) == (46, 58)
    assert np.array_equal(from_tokens(to_tokens(moves[:1000])), moves[:1000])


@pytest.fixture(scope="module")
def reference(shared):
    """Our labels of the reference's games and positions, and the reference's arrays."""
    folder = shared / "golden" / "boardgames" / "othello_labels"
    with np.load(folder / "games.npz") as games:
        moves = from_tokens(games["tokens"].astype(np.int64))
    replayed = replay(moves)
    ours = label(replayed.at(replayed.played[:, :59]), [MINE, YOURS, EMPTY, LEGAL, BLACK_DISC, WHITE_DISC])
    index = np.load(folder / "index.npy")
    assert np.array_equal(np.stack([ours.game, ours.ply], 1), index)
    return replayed, ours, dict(np.load(folder / "labels_corrected.npz")), dict(np.load(folder / "labels.npz"))


def columns(labels, group):
    return labels.matrix[:, [c.startswith(group + " ") for c in labels.columns]]


@pytest.mark.parametrize(("group", "plane"), [("yours", 0), ("empty", 1), ("mine", 2)])
def test_mine_and_yours_equal_the_corrected_reference(reference, group, plane):
    _, ours, corrected, original = reference
    name = "games_batch_to_state_stack_mine_yours_BLRRC"
    assert np.array_equal(columns(ours, group), corrected[name][..., plane].reshape(-1, 64).astype(bool))
    parity = original[name][..., plane].reshape(-1, 64).astype(bool)
    differs = (columns(ours, group) != parity).any(1).sum()
    assert differs == (0 if group == "empty" else 141), "the original takes the mover from the parity of the ply"


def test_colours_legal_moves_and_movers_equal_the_reference(reference):
    replayed, ours, corrected, original = reference
    assert np.array_equal(
        columns(ours, "legal"), original["games_batch_to_valid_moves_BLRRC"].reshape(-1, 64).astype(bool)
    )
    state = original["games_batch_to_state_stack_BLRRC"]
    for group, plane in (("white", 0), ("black", 2)):
        assert np.array_equal(columns(ours, group), state[..., plane].reshape(-1, 64).astype(bool))
    at = (ours.game, ours.ply)
    assert np.array_equal(replayed.mover[at], corrected["mover"])
    assert np.array_equal(replayed.next_mover[at], corrected["next_to_move"])
    assert (replayed.moves[at] != NO_MOVE).all()
