"""Disjoint parts of a set of games, by a hash of each game's own text: no list of games decides where one belongs.

A language model, its dictionaries, the choice of features and their scores must not share games. Positions that two
parts share all the same, since openings repeat, are found by `boardgames.prefixes`.
"""

from collections.abc import Sequence
from typing import Literal, overload

import numpy as np
from jaxtyping import UInt8

from boardgames.duplicates import game_hash

Part = Literal["language_model", "dictionary", "selection", "scoring"]
SHARES: dict[Part, float] = {"language_model": 0.76, "dictionary": 0.18, "selection": 0.03, "scoring": 0.03}

OthelloMoves = UInt8[np.ndarray, "_games 60"]


def part_of(game: str | bytes) -> Part:
    """The part that a game belongs to: a chess transcript without START, or the 60 bytes of an Othello game's moves."""
    place = game_hash(game) / 2**64
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "scoring"


@overload
def split(games: OthelloMoves) -> dict[Part, OthelloMoves]: ...
@overload
def split(games: Sequence[str]) -> dict[Part, list[str]]: ...
def split(games: OthelloMoves | Sequence[str]) -> dict[Part, OthelloMoves] | dict[Part, list[str]]:
    """Every part's games, in order; a part may be empty. Equal games come to the same part."""
    if isinstance(games, np.ndarray):
        of = np.array([part_of(game.tobytes()) for game in games], dtype=object)
        return {part: games[of == part] for part in SHARES}
    parts: dict[Part, list[str]] = {part: [] for part in SHARES}
    for game in games:
        parts[part_of(game.removeprefix(";"))].append(game)
    return parts
