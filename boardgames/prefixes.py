"""Positions that several games share: openings repeat, so games that differ may hold the same scored positions.

A model reads from left to right, so its activation at token i follows from the tokens 0..i alone, and two games with
the same prefix have the same activation and (the rules being what they are) the same board there. Selecting on one
and scoring on the other is scoring on what was selected.

Prefixes are told apart by numbering them: the number of a prefix is that of the pair (number of the prefix one token
shorter, last token). So nothing is hashed and nothing can collide, and a game whose prefix is its own is not looked
at again: only the openings cost time.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Int, Integer

Tokens = Integer[np.ndarray, "_games _length"]  # parts differ in both
Mask = Bool[np.ndarray, "_games _length"]


@dataclass(frozen=True)
class Prefixes:
    """For each game and token of one part: where else the tokens up to and including this one occur.

    False everywhere behind the end of a game, which `exists` tells.
    """

    exists: Mask
    first: Mask  # in no game of an earlier part, and in no earlier game of this one
    elsewhere: Mask  # in another game, of whatever part
    earlier: Mask  # in a game of an earlier part


def first_seen(parts: Sequence[Tokens]) -> list[Mask]:
    """True at [g, i] of a part where the tokens 0..i of its game g begin no game of an earlier part and no earlier
    game of the same part; see `prefixes`."""
    return [part.first for part in prefixes(parts)]


def prefixes(parts: Sequence[Tokens]) -> list[Prefixes]:
    """Compare all games of all parts, whose rows may differ in length; 100,000 chess games take about a second.

    A negative token is behind the end of a game. Where games are padded with a token that may also stand inside one
    (PAD of chess is a space), put -1 there first: `ended`.
    """
    width = max((part.shape[1] for part in parts), default=0)
    sizes = [len(part) for part in parts]
    tokens = np.concatenate([_widened(part, width) for part in parts]) if parts else np.zeros((0, 0), np.int64)
    part_of = np.repeat(np.arange(len(parts)), sizes)
    exists = np.logical_and.accumulate(tokens >= 0, axis=1)
    first, elsewhere, earlier = exists.copy(), np.zeros_like(exists), np.zeros_like(exists)
    rows, number = np.arange(len(tokens)), np.zeros(len(tokens), np.int64)  # games whose prefix is not yet their own
    for place in range(width):
        token = tokens[rows, place].astype(np.int64)
        rows, number, token = rows[token >= 0], number[token >= 0], token[token >= 0]
        if not len(rows):
            break
        _, which, number, count = np.unique(
            number * (int(token.max()) + 1) + token, return_index=True, return_inverse=True, return_counts=True
        )
        leader = rows[which][number]  # rows ascend, so it is the first in the order of parts and games
        first[rows, place] = rows == leader
        earlier[rows, place] = part_of[rows] > part_of[leader]
        shared = (count > 1)[number]
        rows, number = rows[shared], number[shared]
        elsewhere[rows, place] = True
    ends = np.cumsum([0, *sizes])
    return [
        Prefixes(*(mark[start:end, : part.shape[1]] for mark in (exists, first, elsewhere, earlier)))
        for part, start, end in zip(parts, ends, ends[1:], strict=False)
    ]


def _widened(part: Tokens, width: int) -> Tokens:
    """The same games in rows of `width` tokens, -1 behind their ends."""
    if part.shape[1] == width:
        return part
    behind = np.full((len(part), width - part.shape[1]), -1)
    return np.concatenate([part, behind], axis=1)


def ended(tokens: Tokens, lengths: Int[np.ndarray, " _games"]) -> Tokens:
    """The tokens with -1 behind the first `lengths` of every game, which their type must be able to hold."""
    return np.where(np.arange(tokens.shape[1]) < lengths[:, None], tokens, tokens.dtype.type(-1))
