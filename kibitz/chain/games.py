"""Step 1: games to train on, and two splits to select and to score on that share no game with them."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Int, UInt8
from torch import Tensor

from boardgames.othello.rules import random_games, replay
from boardgames.othello.transcript import CONTEXT, PAD, GamesError, read_games, to_tokens, unique_games
from boardgames.report import Positions


@dataclass(frozen=True)
class Games:
    """Disjoint splits. `training` feeds the dictionary, `held_out` its evaluation, the other two the board metrics."""

    source: str
    training: UInt8[np.ndarray, "games 60"]
    held_out: UInt8[np.ndarray, "held_out 60"]
    selection: Positions
    scoring: Positions
    count: int

    def tokens(self, moves: UInt8[np.ndarray, "games 60"]) -> Int[Tensor, "games 59"]:
        return torch.from_numpy(to_tokens(moves[:, :CONTEXT]))

    def report(self) -> dict[str, object]:
        return {"count": self.count, "source": self.source, "positions": int((self.tokens(self.training) != PAD).sum())}


def prepare_games(path: Path | None, count: int, split: int, held_out: int, rng: np.random.Generator) -> Games:
    """Random legal games, or those of a file after checking every move; duplicates go, then the games are split.

    `split` games each for selection and scoring; GamesError if the file has too few.
    """
    needed = 2 * split + held_out
    if path is None:
        source, moves = "uniformly random legal play", unique_games(random_games(count + needed, rng))
    else:
        source, moves = str(path), read_games(path)
        replay(moves)  # before duplicates go, so that an error names the game by its place in the file
        moves = unique_games(moves)
        if len(moves) < 4 * needed:
            raise GamesError(f"{path}: {len(moves)} different games; this run needs at least {4 * needed}")
    moves = moves[rng.permutation(len(moves))]
    first, second, third = split, 2 * split, needed
    return Games(
        source, moves[third:], moves[second:third], Positions(moves[:first]), Positions(moves[first:second]), len(moves)
    )
