"""Games seen before, by 64-bit hashes in eight bytes a game rather than by their text."""

import hashlib

import numpy as np
from jaxtyping import Bool, UInt64


def game_hash(game: str | bytes) -> int:
    """64 bits of a game's SHA-256, which also decide the part that it belongs to."""
    return int.from_bytes(hashlib.sha256(game.encode() if isinstance(game, str) else game).digest()[:8])


class Seen:
    """A growing set of hashes. Among n different games some pair is taken for one with odds of about n² / 2⁶⁵:
    3e-8 for a million, 3e-4 for a hundred million."""

    def __init__(self) -> None:
        self._runs: list[UInt64[np.ndarray, " hashes"]] = []  # sorted, each more than twice as long as the next

    def __len__(self) -> int:
        return sum(map(len, self._runs))

    def add(self, hashes: UInt64[np.ndarray, " games"]) -> Bool[np.ndarray, " games"]:
        """True for the hashes that are neither in the set nor earlier in this call; all are in it afterwards."""
        unique, first = np.unique(hashes, return_index=True)
        known = np.zeros(len(unique), bool)
        for run in self._runs:
            place = np.minimum(np.searchsorted(run, unique), len(run) - 1)
            known |= run[place] == unique
        new = np.zeros(len(hashes), bool)
        new[first[~known]] = True
        if not known.all():
            self._runs.append(unique[~known])
        while len(self._runs) > 1 and len(self._runs[-2]) <= 2 * len(self._runs[-1]):
            last = self._runs.pop()
            self._runs[-1] = np.sort(np.concatenate([self._runs[-1], last]))
        return new
