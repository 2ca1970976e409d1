"""Coverage and board reconstruction of one dictionary at the paper's size: 4,096 features, 1,000 games of 60 positions.

    python benchmarks/board_metrics.py [--compare]

Activations are synthetic (L0 64, uniform), labels 832 columns of which 64 hold on each position, as the pieces of a
chess board do. --compare counts a part of the features again by products and checks that all counts are the same.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np
import torch
import tyro

from boardgames.confusion import count, count_by_levels, count_by_products
from boardgames.coverage import choose, count_games
from boardgames.firing import THRESHOLDS, SparseActivations, SparseLabels
from boardgames.game import Labels
from boardgames.reconstruction import by_threshold, from_enough_games, precise_labels
from boardgames.scoring import Referee, Truth


@dataclass(frozen=True)
class Size:
    features: int = 4096
    games: int = 1000
    positions: int = 60
    l0: int = 64
    squares: int = 64
    states: int = 13
    compare: bool = False


@contextmanager
def timed(what: str) -> Iterator[None]:
    begun = time.perf_counter()
    yield
    print(f"{what:100s}{time.perf_counter() - begun:8.2f} s", flush=True)


def activations(s: Size, seed: int) -> torch.Tensor:
    rows = s.games * s.positions
    generator = torch.Generator().manual_seed(seed)
    columns = torch.randint(s.features, (rows, s.l0), generator=generator)
    return torch.zeros(rows, s.features).scatter_(1, columns, torch.rand(rows, s.l0, generator=generator))


def labels(s: Size, seed: int) -> Labels:
    rows = s.games * s.positions
    state = np.random.default_rng(seed).integers(s.states, size=(rows, s.squares))
    matrix = np.zeros((rows, s.squares * s.states), bool)
    np.put_along_axis(matrix, state + np.arange(s.squares) * s.states, True, axis=1)
    names = tuple(f"state {i % s.states} on {i // s.states}" for i in range(matrix.shape[1]))
    game, ply = np.divmod(np.arange(rows), s.positions)
    return Labels(names, ("",) * len(names), matrix, game, ply)


def main(s: Size) -> None:
    dense, board = activations(s, 0), labels(s, 0)
    game, whole = board.game, np.array([0])
    print(f"{torch.get_num_threads()} threads; {s}")
    with timed("(compiling, or reading what was compiled)"):
        small = Size(64, 4, 10, 8)
        tiny = Truth(labels(small, 0), {"board": s.squares * s.states})
        few = SparseActivations.of([activations(small, 0)])
        Referee(tiny, tiny).score(few, few)
    with timed("one split: dense features to sparse ones"):
        sparse = SparseActivations.of(dense.split(8192))
    maxima = sparse.maxima()
    begun = time.perf_counter()
    with timed("one split: labels to sparse ones"):
        truth = SparseLabels.of(board.matrix)
    with timed("one split: levels, feature by feature"):
        firing = sparse.firing(maxima)
        firing.by_feature  # noqa: B018  # it is computed here
    with timed("one split: every (threshold, feature, property) counted"):
        counts = count(firing, truth)
    with timed("one split: best detectors, and their counts by game"):
        count_games(choose(counts), firing, board.matrix, game)
    with timed("one split: labels of at least 10 games"):
        given = from_enough_games(precise_labels(counts), firing, truth, game)
    with timed("one split: boards at 11 thresholds"):
        by_threshold(firing, given, board.matrix, game, whole)
    print(f"coverage and reconstruction, in sample: {time.perf_counter() - begun:.2f} s")
    one, other = Truth(board, {"board": len(board.columns)}), Truth(labels(s, 1), {"board": len(board.columns)})
    others = SparseActivations.of(activations(s, 1).split(8192))
    with timed("both splits, floors, 1,000 resamples of games"):
        Referee(one, other).score(sparse, others)
    if s.compare:
        few = SparseActivations.of([dense[:, :256]]).firing(maxima[:256])
        with timed("products for 256 features"):
            products = count_by_products(few, truth)
        same = np.array_equal(products.true_positives, counts.true_positives[:, :256])
        print(f"equal: {same and np.array_equal(products.fires, counts.fires[:, :256])}")
    rows = slice(0, 8192)
    busy = SparseActivations.of([torch.rand(8192, 1024)]).firing(torch.ones(1024))
    for what, columns in (("832 columns, 64 true", slice(None)), ("64 columns, 5 true", slice(0, 64))):
        some = SparseLabels.of(np.ascontiguousarray(board.matrix[rows, columns]))
        for way in (count_by_levels, count_by_products):
            with timed(f"8,192 positions, 1,024 features that all fire, {what}, {way.__name__}"):
                way(busy, some)
    nonzeros, held = int(firing.start[-1]), s.squares
    print(f"additions counted: {nonzeros * held:.2g}; products would take {len(THRESHOLDS) * s.features * len(dense) * len(board.columns):.2g} multiply-adds")  # noqa: E501  # fmt: skip


if __name__ == "__main__":
    main(tyro.cli(Size))
