"""Othello tasks with ground truth: the owner of one square intended, the owner of another spurious.

One position per game, at a random ply at which both squares are taken; "mine" is the side that has just moved. The
classifier reads the last move's position. Neither owner can be read off the moves of its square alone, and the two
are logically independent.
"""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8

from boardgames.game import unpack
from boardgames.othello.rules import random_games, replay, square_index
from boardgames.othello.streams import Use, stream
from boardgames.othello.transcript import CONTEXT, to_tokens
from saes.sites import Site
from shift.task import Ambiguous, Balanced, BalancedSplits, Sealed, ShiftTask

FIRST_PLY, LAST_PLY = 9, 51


@dataclass(frozen=True)
class OwnerTaskConfig:
    intended: str = "c3"
    """square whose owner is the intended property"""
    spurious: str = "f5"
    """square whose owner agrees with it on the ambiguous set"""
    train: int = 4000
    """ambiguous games for the classifier"""
    test: int = 1000
    """ambiguous games kept aside"""
    cell: int = 1000
    """balanced games in each of the four cells, for test and again for train"""
    seed: int = 0

    def __post_init__(self) -> None:
        a, b = divmod(square_index(self.intended), 8), divmod(square_index(self.spurious), 8)
        if a == b:
            raise ValueError(f"intended and spurious square are both {self.intended}")
        if a[0] == b[0] or a[1] == b[1] or abs(a[0] - b[0]) == abs(a[1] - b[1]):
            raise ValueError(f"{self.intended} and {self.spurious} share a line: one can flip with the other")
        for name in ("train", "test", "cell"):
            if getattr(self, name) < 2:
                raise ValueError(f"{name} is {getattr(self, name)}: choose at least 2")


@dataclass(frozen=True)
class _Labelled:
    moves: UInt8[np.ndarray, "examples 60"]
    ply: Int[np.ndarray, " examples"]
    intended: Bool[np.ndarray, " examples"]
    spurious: Bool[np.ndarray, " examples"]


def _labelled(config: OwnerTaskConfig, use: Use, part: int, seen: set[bytes]) -> _Labelled:
    """Random games with one labelled position each, none of which is in `seen`."""
    rng = stream(use, config.seed, part)
    moves = random_games(8192, rng)
    moves = moves[[m.tobytes() not in seen for m in moves]]
    games = replay(moves)
    a, b = square_index(config.intended), square_index(config.spurious)
    mine, taken = unpack(games.mine), unpack(games.black | games.white)
    usable = taken[..., a] & taken[..., b] & games.played
    usable[:, :FIRST_PLY] = usable[:, LAST_PLY + 1 :] = False
    moves_left = usable.any(1)
    ply = (usable * rng.random(usable.shape)).argmax(1)
    rows = np.flatnonzero(moves_left)
    ply = ply[rows]
    return _Labelled(moves[rows], ply, mine[rows, ply, a], mine[rows, ply, b])


def _collect(config: OwnerTaskConfig, use: Use, cells: dict[tuple[bool, bool], int], seen: set[bytes]) -> _Labelled:
    """Exactly as many examples of each (intended, spurious) cell as asked for, shuffled."""
    parts: dict[tuple[bool, bool], list[_Labelled]] = {cell: [] for cell in cells}
    part = 0
    while any(sum(len(p.ply) for p in parts[c]) < n for c, n in cells.items()):
        drawn = _labelled(config, use, part, seen)
        part += 1
        for a, b in cells:
            at = (drawn.intended == a) & (drawn.spurious == b)
            parts[a, b].append(_Labelled(drawn.moves[at], drawn.ply[at], drawn.intended[at], drawn.spurious[at]))
    joined = [
        np.concatenate([np.concatenate([getattr(p, name) for p in parts[c]])[:n] for c, n in cells.items()])
        for name in ("moves", "ply", "intended", "spurious")
    ]
    order = stream(use, config.seed, part, 1).permutation(len(joined[0]))
    return _Labelled(*(x[order] for x in joined))


def _tokens(moves: UInt8[np.ndarray, "examples 60"]) -> torch.Tensor:
    return torch.from_numpy(to_tokens(moves[:, : min(CONTEXT, LAST_PLY + 1)]))


def owner_task(config: OwnerTaskConfig, site: Site) -> ShiftTask:
    """The task; its balanced sets are generated from other games when the seal is opened."""
    each = (config.train + config.test) // 2
    drawn = _collect(config, "shift_ambiguous", {(False, False): each, (True, True): each}, set())
    seen = {m.tobytes() for m in drawn.moves}
    tokens, position = _tokens(drawn.moves), torch.from_numpy(drawn.ply)
    label = torch.from_numpy(drawn.intended)

    def generate() -> BalancedSplits:
        cells = {(a, b): 2 * config.cell for a in (False, True) for b in (False, True)}
        data = _collect(config, "shift_balanced", cells, seen)
        whole = Balanced(
            _tokens(data.moves),
            torch.from_numpy(data.ply),
            torch.from_numpy(data.intended),
            torch.from_numpy(data.spurious),
        )
        first: list[int] = []
        second: list[int] = []
        for a, b in cells:
            at = ((whole.intended == a) & (whole.spurious == b)).nonzero().flatten().tolist()
            first += at[: config.cell]
            second += at[config.cell :]
        return BalancedSplits(*(_take(whole, torch.tensor(index)) for index in (first, second)))

    name = f"owner of {config.intended} against owner of {config.spurious}, seed {config.seed}"
    train = slice(0, config.train)
    test = slice(config.train, None)
    return ShiftTask(
        name,
        f"owner of {config.intended}",
        f"owner of {config.spurious}",
        site,
        Ambiguous(tokens[train], position[train], label[train]),
        Ambiguous(tokens[test], position[test], label[test]),
        Sealed(name, generate),
    )


def _take(data: Balanced, index: torch.Tensor) -> Balanced:
    return Balanced(data.tokens[index], data.position[index], data.intended[index], data.spurious[index])
