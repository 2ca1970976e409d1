"""Othello on one core: random games a second, and replay with legal moves and labels per position.

OMP_NUM_THREADS=1 python benchmarks/othello.py
"""

import time
from collections.abc import Callable

import numpy as np

from boardgames.game import label
from boardgames.othello.properties import BOARD
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
    labelled = seconds(lambda: label(played, played.played, BOARD))
    print(f"{games} games, {positions} positions")
    print(f"random play               {games / made:10.0f} games/s       (target: at least 15,000)")
    print(f"replay and legal moves    {replayed / positions * 1e6:10.3f} us/position   (target: under 1)")
    print(f"mine / yours labels       {labelled / positions * 1e6:10.3f} us/position")


if __name__ == "__main__":
    main()
