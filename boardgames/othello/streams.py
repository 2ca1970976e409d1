"""Streams of random games, one for each use, so that what is trained on is never what is scored on.

numpy fills up short seeds with zeros: default_rng(0) and default_rng([0, 0, 0]) are the same stream, the language
model's first block of games. So nobody draws games from a bare seed.
"""

from typing import Literal

import numpy as np

Use = Literal[
    "language_model",
    "language_model_test",
    "dictionary",
    "selection",
    "scoring",
    "board",
    "demo",
    "corpus",
    "make",
    "sweep",
    "eval",
    "shift_ambiguous",
    "shift_balanced",
    "p_annealing",
    "circuit",
    "circuit_names",
    "circuit_truth",
    "shift_admission",
    "shift_admission_balanced",
    "shift_names",
    "shift_rates",
    "injected_training",
    "injected_ambiguous",
    "injected_scoring",
    "injected_names",
    "shift_screening",
]
# 0 and 1 are those of the shipped model
STREAMS: dict[Use, int] = {
    "language_model": 0,
    "language_model_test": 1,
    "dictionary": 2,
    "selection": 3,
    "scoring": 4,
    "board": 5,
    "demo": 6,
    "corpus": 7,
    "make": 8,
    "sweep": 9,
    "eval": 10,
    "shift_ambiguous": 11,
    "shift_balanced": 12,
    "p_annealing": 13,
    "circuit": 14,
    "circuit_names": 15,
    "circuit_truth": 16,
    "shift_admission": 17,
    "shift_admission_balanced": 18,
    "shift_names": 19,
    "shift_rates": 20,
    "injected_training": 21,
    "injected_ambiguous": 22,
    "injected_scoring": 23,
    "injected_names": 24,
    "shift_screening": 25,
}


def stream(use: Use, seed: int, *part: int) -> np.random.Generator:
    """The stream of one use; `part` numbers pieces of it that are drawn apart (part 0 begins as the whole does)."""
    return np.random.default_rng([seed, STREAMS[use], *part])
