"""Schedules: a multiplier as a function of the optimiser step, always computed from the step alone (so it resumes)."""

from dataclasses import dataclass
from math import cos, pi
from typing import Literal, Protocol, runtime_checkable


@runtime_checkable
class Schedule(Protocol):
    """step -> multiplier; pure, so that asking twice, or after a resume, gives the same answer."""

    def __call__(self, step: int) -> float: ...


@dataclass(frozen=True)
class Trapezoid:
    """Warm-up over `warmup` steps, 1 in the middle, down to 0 over the last `decay` of `total` steps.

    The first step already moves: the multiplier at step 0 is 1 / warmup, not 0, unless `first` is 0.
    """

    total: int
    warmup: int = 0
    decay: int = 0
    shape: Literal["linear", "cosine"] = "linear"
    """of the decay"""
    first: int = 1

    def __post_init__(self) -> None:
        if self.total < 1 or self.warmup < 0 or self.decay < 0 or self.warmup + self.decay > self.total:
            raise ValueError(
                f"schedule of {self.total} steps cannot hold a warm-up of {self.warmup} and a decay of {self.decay}"
            )

    def __call__(self, step: int) -> float:
        rise = (step + self.first) / self.warmup if self.warmup else 1.0
        fall = min(1.0, (self.total - step) / self.decay) if self.decay else 1.0
        if self.shape == "cosine":
            fall = (1 - cos(pi * fall)) / 2
        return max(0.0, min(1.0, rise, fall))
