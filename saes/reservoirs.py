"""Lists of the entries with the smallest keys: bounded samples of a stream, exact and the same however it is cut.

With keys that look random, such as a hash, a list is a uniform sample without replacement (bottom-k sampling); with
keys that fall as a number rises, the largest ones. The smallest keys of a union are among the smallest of its parts.
"""

from collections.abc import Mapping

import numpy as np
from jaxtyping import Float, Int

EMPTY = np.iinfo(np.uint64).max  # the key of an empty place
_GROUPS = 1 << 12  # lists that are merged at once


class Reservoirs:
    """Many lists of at most `count` entries, in order of their keys, equal keys in order of their ordinals.

    Every entry has a `key` (uint64), an `ordinal` (int64) and the columns of `payload`: shape and dtype of one entry.
    """

    def __init__(self, lists: int, count: int, payload: Mapping[str, tuple[tuple[int, ...], type]]) -> None:
        self._columns: dict[str, np.ndarray] = {
            "key": np.full((lists, count), EMPTY, np.uint64),
            "ordinal": np.zeros((lists, count), np.int64),
            **{name: np.zeros((lists, count, *shape), dtype) for name, (shape, dtype) in payload.items()},
        }
        self._count = count

    def entries(self, number: int) -> dict[str, np.ndarray]:
        """The columns of one list."""
        full = self._columns["key"][number] != EMPTY
        return {name: column[number][full] for name, column in self._columns.items()}

    def would_keep(self, lists: np.ndarray, keys: np.ndarray, ordinals: np.ndarray) -> np.ndarray:
        """Which of the entries are among the smallest of their list and each other; the others need no payload."""
        small = np.flatnonzero(keys < self._columns["key"][lists, -1])
        order = small[np.lexsort((ordinals[small], keys[small], lists[small]))]
        keep = np.zeros(len(lists), bool)
        keep[order[_rank(lists[order]) < self._count]] = True
        return keep

    def merge(self, lists: np.ndarray, entries: dict[str, np.ndarray]) -> None:
        """Put entries into lists, pushing out the largest keys."""
        touched = np.unique(lists)
        for start in range(0, len(touched), _GROUPS):
            group = touched[start : start + _GROUPS]
            chosen = np.flatnonzero((lists >= group[0]) & (lists <= group[-1]))
            self._merge(group, np.searchsorted(group, lists[chosen]), {k: v[chosen] for k, v in entries.items()})

    def _merge(self, group: np.ndarray, row: np.ndarray, entries: dict[str, np.ndarray]) -> None:
        n, count = len(group), self._count
        old = np.repeat(np.arange(n), count)
        whole = {
            name: np.concatenate([column[group].reshape(n * count, *column.shape[2:]), entries[name]])
            for name, column in self._columns.items()
        }
        row = np.concatenate([old, row])
        order = np.lexsort((whole["ordinal"], whole["key"], row))
        order = order[_rank(row[order]) < count]  # `count` of each: there were as many before
        for name, column in self._columns.items():
            column[group] = whole[name][order].reshape(n, count, *column.shape[2:])

    def take_out(self, lists: np.ndarray) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """Empty some lists: for each of their entries the place of its list in `lists`, and the entries."""
        full = self._columns["key"][lists] != EMPTY
        entries = {name: column[lists][full] for name, column in self._columns.items()}
        self._columns["key"][lists] = EMPTY
        return np.nonzero(full)[0], entries


def _rank(sorted_groups: np.ndarray) -> np.ndarray:
    """Place of each element among the equal ones beside it."""
    starts = np.flatnonzero(np.diff(sorted_groups, prepend=-1))
    return np.arange(len(sorted_groups)) - np.repeat(starts, np.diff(starts, append=len(sorted_groups)))


def strongest_first(activation: Float[np.ndarray, " n"]) -> np.ndarray:
    """Keys that fall as positive activations rise: the bits of positive floats are ordered as they are."""
    return np.uint64(1 << 32) - activation.view(np.uint32).astype(np.uint64)


def random_keys(seed: int, ordinal: Int[np.ndarray, " n"], feature: Int[np.ndarray, " n"]) -> np.ndarray:
    """64 bits that look random, a function of the three numbers alone; the largest key is left for empty places."""
    key = _mix(np.full(1, seed, np.uint64))
    for part in (ordinal, feature):
        key = _mix(key ^ part.astype(np.uint64))
    return np.minimum(key, EMPTY - np.uint64(1))


def _mix(x: np.ndarray) -> np.ndarray:
    """splitmix64 (Steele, Lea & Flood 2014)."""
    x = x + np.uint64(0x9E3779B97F4A7C15)
    x = (x ^ (x >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    x = (x ^ (x >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return x ^ (x >> np.uint64(31))
