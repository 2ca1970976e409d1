"""Families of board tasks: generators of specs with default sizes; dataclasses.replace sets site, sizes and seed.

* the pair family: the owner of one square against the owner of another, hundreds of pairs that random games do not tie;
* the depth dial: one intended square, and cues from word-like (a corner never flips) to tracked state (the centre);
* consequence against state: whether a square may be played on, against an owner or the age of the game;
* chess: facts about the pieces, against facts that agree with them.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from itertools import combinations

import numpy as np
from jaxtyping import Float

from boardgames.game import unpack
from boardgames.othello.properties import PLY_BUCKETS, SQUARES
from boardgames.othello.rules import CENTRE, random_games, replay, square_name
from boardgames.othello.streams import stream
from shift.specs import BoardTaskSpec
from shift.tasks.draws import CELLS, DrawError, draw
from shift.tasks.questions import depends, on_one_line

DIAL = ("a1", "a4", "b4", "c6")
"""cues for the owner of d4, from a corner, which is a word of the transcript, to a square that flips often"""

_ALWAYS_TAKEN = tuple(square_name(s) for s in CENTRE)


@dataclass(frozen=True)
class Rates:
    """How often the four cells of a spec occur where it reads."""

    cells: Float[np.ndarray, "2 2"]  # shares [A][B], which add up to 1
    positions: int  # that they were counted on

    @property
    def phi(self) -> float:
        """Correlation of A and B."""
        (n, b), (a, both) = self.cells
        scale = (n + b) * (a + both) * (n + a) * (b + both)
        return float((n * both - a * b) / np.sqrt(scale)) if scale > 0 else 0.0

    @property
    def smallest(self) -> float:
        """The share of the rarest cell."""
        return float(self.cells.min())


@dataclass(frozen=True)
class PairLimits:
    """Which pairs of squares make a task."""

    correlation: float = 0.15
    """largest |phi|"""
    cell: float = 0.15
    """the rarest cell is more common than this"""
    taken: float = 0.30
    """both squares are taken more often than this"""


@cache
def square_rates(games: int = 4096, plies: tuple[int, int] = (9, 51)) -> dict[tuple[str, str], tuple[float, Rates]]:
    """For all pairs of squares: how often both are taken at these plies of random games, and who owns them then."""
    replayed = replay(random_games(games, stream("shift_rates", 0)))
    asked = replayed.played & (np.arange(60) >= plies[0]) & (np.arange(60) <= plies[1])
    at = replayed.at(asked)
    black_moved = at.mover == 1
    mine = unpack(np.where(black_moved, at.black, at.white)).astype(np.float32)
    yours = unpack(np.where(black_moved, at.white, at.black)).astype(np.float32)
    counts = np.stack([[own.T @ other for other in (yours, mine)] for own in (yours, mine)])  # [A, B, square, square]
    rates = {}
    for a, b in combinations(range(64), 2):
        cells = counts[:, :, a, b].astype(float)
        both = int(cells.sum())
        rates[SQUARES[a], SQUARES[b]] = both / len(mine), Rates(cells / max(both, 1), both)
    return rates


def pair_family(limits: PairLimits | None = None, games: int = 4096, seed: int = 0) -> Iterator[BoardTaskSpec]:
    """Owner against owner for every pair that shares no line and is within the limits on random games.

    In an order drawn from the seed, and which square is intended too, so that the first n are a random sample.
    """
    limits = limits or PairLimits()
    pairs = [
        pair
        for pair, (taken, rates) in square_rates(games).items()
        if not on_one_line(*pair)
        and abs(rates.phi) < limits.correlation
        and rates.smallest > limits.cell
        and taken > limits.taken
    ]
    rng = stream("shift_rates", seed, 1)
    for i in rng.permutation(len(pairs)):
        first, second = pairs[i] if rng.random() < 0.5 else pairs[i][::-1]
        yield BoardTaskSpec(f"mine {first}", f"mine {second}", _taken(first, second))


def depth_dial(intended: str = "d4", cues: Sequence[str] = DIAL) -> Iterator[BoardTaskSpec]:
    """The owner of one square against the owner of each cue; shift.tasks.readability measures how deep a cue lies."""
    for cue in cues:
        yield BoardTaskSpec(f"mine {intended}", f"mine {cue}", _taken(intended, cue), shared_line=True)


def consequences(target: str = "b4", owners: Sequence[str] = ("f5",), late: int = 30) -> Iterator[BoardTaskSpec]:
    """Whether the next mover may play on an empty square, against owners that legality does not hang on, and the ply.

    `late` is the ply, in tens, from which B says yes.
    """
    legal, empty = f"legal {target}", f"empty {target}"
    for owner in owners:
        yield BoardTaskSpec(legal, f"mine {owner}", (empty, *_taken(owner)))
    buckets = " or ".join(f"ply {first}-{last}" for first, last in PLY_BUCKETS if first >= late)
    yield BoardTaskSpec(legal, buckets, (empty,))


def unrelated_owners(target: str) -> list[str]:
    """Squares whose owner legality on the target never hangs on: partners for `consequences`."""
    return [s for s in SQUARES if s not in depends("othello", f"legal {target}")]


def chess_family(games: str) -> Iterator[BoardTaskSpec]:
    """Facts about the mover's pieces against facts that agree with them, before moves of White.

    None of them is "check": chess transcripts write that down. Rates are those of the file: see `cell_rates`.
    """
    for intended in ("bishop pair", "pin"):
        for spurious in ("castling rights", "has queen"):
            yield BoardTaskSpec(intended, spurious, game="chess", plies=(10, 60), token="dots", games=games)


def cell_rates(spec: BoardTaskSpec) -> Rates:
    """The cells of one block of games, one position a game as the task draws them; DrawError if no game has one."""
    examples = draw(spec, "shift_admission", 0)
    if examples is None or not len(examples):
        raise DrawError(f"{spec.name}: no game has a position that the filters {list(spec.filters)} allow")
    return Rates(np.array([examples.in_cell(cell).mean() for cell in CELLS]).reshape(2, 2), len(examples))


def _taken(*squares: str) -> tuple[str, ...]:
    return tuple(f"occupied {s}" for s in squares if s not in _ALWAYS_TAKEN)
