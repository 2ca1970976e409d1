"""Othello transcripts as token ids, in OthelloGPT's vocabulary (Li et al. 2023), and files of games.

Ids 1..60 are the squares in order without the four centre ones; id 0 is padding. A forced pass is no token.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from jaxtyping import Bool, Int, Int64, UInt8

from boardgames.othello.rules import CENTRE, MAX_PLIES, NO_MOVE

VOCABULARY = 61
PAD = 0
CONTEXT = MAX_PLIES - 1  # the last move predicts nothing, so models read 59 tokens

SQUARE_OF_TOKEN = np.array([NO_MOVE] + [s for s in range(64) if s not in CENTRE], np.uint8)
TOKEN_OF_SQUARE = np.zeros(256, np.int64)
TOKEN_OF_SQUARE[SQUARE_OF_TOKEN[1:]] = np.arange(1, VOCABULARY)


class GamesError(ValueError):
    """A file of games that cannot be read, or holds something else."""


UNKNOWN = 255  # a number of discs


@dataclass(frozen=True)
class OthelloGames:
    """Games as they are kept in files: squares, NO_MOVE after the end, and what is known about them."""

    moves: UInt8[np.ndarray, "games 60"]
    black_discs: UInt8[np.ndarray, " games"]  # at the end, as its source has it; or UNKNOWN
    number: Int64[np.ndarray, " games"]  # the place of each in the file that it was read from

    @classmethod
    def of_moves(cls, moves: UInt8[np.ndarray, "games 60"]) -> "OthelloGames":
        """Games of which nothing else is known."""
        return cls(moves, np.full(len(moves), UNKNOWN, np.uint8), np.arange(len(moves)))

    def __len__(self) -> int:
        return len(self.moves)

    def __getitem__(self, chosen: slice | Int[np.ndarray, " chosen"] | Bool[np.ndarray, " games"]) -> "OthelloGames":
        return OthelloGames(self.moves[chosen], self.black_discs[chosen], self.number[chosen])


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
