"""Othello on one core: random games a second, and replay with legal moves and labels per position.

OMP_NUM_THREADS=1 python benchmarks/othello.py
"""

import time
from collections.abc import Callable

import numpy as np

from boardgames.game import label
from boardgames.othello.properties import BOARD, CORRECTED, EVERYTHING
from boardgames.othello.rules import random_games, replay


def seconds(work: Callable[[], object], repeats: int = 3) -> float:
    """Best of a few runs."""
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        work()
        times.append(time.perf_counter() - begun)
    return min(times)


def main(games: int = 20_000) -> None:
    moves = random_games(games, np.random.default_rng(0))
    played = replay(moves)
    positions = int(played.played.sum())
    made = seconds(lambda: random_games(games, np.random.default_rng(0)))
    replayed = seconds(lambda: replay(moves))
    chosen = played.at(played.played)
    some = chosen[:100_000]  # all columns of all positions would fill 9 GB
    share = len(some.ply) / positions

    def bitboards() -> None:
        for start in range(0, positions, 4096):
            chunk = chosen[start : start + 4096]
            for asked in CORRECTED.values():
                asked.answers(chunk)

    labelled = seconds(lambda: label(chosen, BOARD))
    described = seconds(lambda: label(chosen, EVERYTHING))
    packed = seconds(bitboards)
    unpacked = seconds(lambda: label(some, list(CORRECTED.values()))) / share
    width = sum(len(p.columns) for p in CORRECTED.values())
    print(f"{games} games, {positions} positions")
    print(f"random play               {games / made:10.0f} games/s       (target: at least 15,000)")
    print(f"replay and legal moves    {replayed / positions * 1e6:10.3f} us/position   (target: under 1)")
    for name, time_taken, target in (
        ("mine / yours labels", labelled, ""),
        ("what features are named after", described, ""),
        ("replay and all, as bitboards", replayed + packed, "   (target: under 2)"),
        (f"all {width} columns as booleans", unpacked, "   (8 kB a position)"),
    ):
        print(f"{name:30s}{time_taken / positions * 1e6:10.3f} us/position{target}")


if __name__ == "__main__":
    main()
