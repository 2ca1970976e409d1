"""Disjoint parts of a set of games, by a hash of each game's own text: no list of games decides where one belongs.

A language model, its dictionaries, the choice of features and their scores must not share games.
"""

import hashlib
from typing import Literal

Part = Literal["language_model", "dictionary", "selection", "scoring"]
SHARES: dict[Part, float] = {"language_model": 0.76, "dictionary": 0.18, "selection": 0.03, "scoring": 0.03}


def part_of(game: str | bytes) -> Part:
    """The part that a game belongs to."""
    text = game.encode() if isinstance(game, str) else game
    place = int.from_bytes(hashlib.sha256(text).digest()[:8]) / 2**64
    for part, share in SHARES.items():
        if place < share:
            return part
        place -= share
    return "scoring"
