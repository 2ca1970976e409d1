"""Othello transcripts as token ids, in OthelloGPT's vocabulary (Li et al. 2023), and files of games.

Ids 1..60 are the squares in order without the four centre ones; id 0 is padding. A forced pass is no token.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int, UInt8

from boardgames.othello.rules import CENTRE, MAX_PLIES, NO_MOVE

VOCABULARY = 61
PAD = 0
CONTEXT = MAX_PLIES - 1  # the last move predicts nothing, so models read 59 tokens

SQUARE_OF_TOKEN = np.array([NO_MOVE] + [s for s in range(64) if s not in CENTRE], np.uint8)
TOKEN_OF_SQUARE = np.zeros(256, np.int64)
TOKEN_OF_SQUARE[SQUARE_OF_TOKEN[1:]] = np.arange(1, VOCABULARY)


class GamesError(ValueError):
    """A file of games that cannot be read, or holds something else."""


def to_tokens(moves: UInt8[np.ndarray, "games plies"]) -> Int[np.ndarray, "games plies"]:
    """Token ids of squares; NO_MOVE becomes PAD."""
    return TOKEN_OF_SQUARE[moves]


def from_tokens(tokens: Int[np.ndarray, "games plies"]) -> UInt8[np.ndarray, "games plies"]:
    """Squares of token ids; PAD becomes NO_MOVE."""
    return SQUARE_OF_TOKEN[tokens]


def read_games(path: Path | str) -> UInt8[np.ndarray, "games 60"]:
    """Games from an .npz file with `moves` (uint8 squares, 255 = none), in the order of the file.

    Only the form is checked here; `rules.replay` checks the moves. Raises GamesError.
    """
    try:
        with np.load(path, allow_pickle=False) as archive:
            if "moves" not in archive:
                raise GamesError(f"{path}: holds {sorted(archive)}; expected an array named 'moves'")
            moves = archive["moves"]
    except FileNotFoundError:
        raise GamesError(f"{path}: no such file") from None
    except GamesError:
        raise
    except Exception as error:  # numpy raises whatever its zip and header readers meet in a damaged file
        raise GamesError(f"{path}: not a readable .npz file of games ({error})") from None
    if moves.dtype != np.uint8 or moves.ndim != 2 or not 1 <= moves.shape[1] <= MAX_PLIES or not len(moves):
        raise GamesError(
            f"{path}: 'moves' is {moves.dtype}{list(moves.shape)}; expected uint8 [games, up to {MAX_PLIES} plies]"
        )
    padded = np.full((len(moves), MAX_PLIES), NO_MOVE, np.uint8)
    padded[:, : moves.shape[1]] = moves
    return padded


def unique_games(moves: UInt8[np.ndarray, "games plies"]) -> UInt8[np.ndarray, "kept plies"]:
    """The first occurrence of every game, in order."""
    _, first = np.unique(moves, axis=0, return_index=True)
    return moves[np.sort(first)]
