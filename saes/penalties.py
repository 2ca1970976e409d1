"""Sparsity penalties: L1, Lp, and p-annealing (Karvonen et al. 2024, section 4).

A p-annealed penalty starts as L1 and lowers p in steps towards p_end, which finds features as L1 does and then
shrinks them less than L1 would. At every change of p the coefficient is rescaled from recent features, so that the
penalty itself does not jump.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor


@runtime_checkable
class Penalty(Protocol):
    """What an objective adds to the reconstruction error."""

    def __call__(self, f: Float[Tensor, "batch f"], step: int) -> Float[Tensor, ""]:
        """The weighted penalty; pure."""
        ...

    def observe(self, f: Float[Tensor, "batch f"], step: int) -> None:
        """Once per optimiser step, after it: the only place where state moves."""
        ...

    def numbers(self) -> dict[str, float]:
        """What a log shows of the state."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def lp_power(f: Float[Tensor, "batch f"], p: float, bound: float) -> Float[Tensor, ""]:
    """Mean over the batch of sum_i f_i^p over the non-zero features, made linear below `bound`.

    f^p has slope p f^(p-1), without limit as f falls to 0. Below `bound` (b) the curve goes on along its tangent and
    the whole is shifted to pass through 0: f^p - (1-p) b^p above b, p b^(p-1) f below. Value and slope are
    continuous, the slope is at most p b^(p-1), and above b the gradient is that of f^p. With p = 1 this is L1.
    """
    return f.sum() / len(f) if p == 1 else _BoundedPower.apply(f, p, bound) / len(f)  # type: ignore[no-any-return]


class _BoundedPower(torch.autograd.Function):
    """Sum of the bounded curve with one pow per element for value and slope, and no search for the non-zero ones."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, p: float, bound: float) -> Tensor:
        capped = f.clamp_min(bound)
        slope = capped.pow(p - 1).mul_(p)
        ctx.save_for_backward(f, slope)
        # above the bound p f^(p-1) f / p = f^p; below it, and at 0, the tangent
        return torch.where(f > bound, slope * capped / p - (1 - p) * bound**p, slope * f).sum()

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        f, slope = ctx.saved_tensors
        return gradients[0] * slope.masked_fill(f <= 0, 0.0), None, None


@dataclass(frozen=True)
class LpConfig:
    """A fixed Lp^p penalty; p = 1 is L1."""

    coefficient: float = 0.1
    p: float = 1.0
    warmup: int = 1000
    """steps over which the coefficient rises from 0"""
    bound: float = 0.03
    """see lp_power; in the units in which the dictionary is trained (unit mean square norm by default)"""

    def __post_init__(self) -> None:
        _check_p(self.p, "p")
        _check_positive(coefficient=self.coefficient, bound=self.bound)


class Lp:
    """coefficient * warm-up * mean_b sum_i f_i^p."""

    def __init__(self, config: LpConfig) -> None:
        self.config = config

    def __call__(self, f: Float[Tensor, "batch f"], step: int) -> Float[Tensor, ""]:
        return self.config.coefficient * _rise(step, self.config.warmup) * lp_power(f, self.config.p, self.config.bound)

    def observe(self, f: Float[Tensor, "batch f"], step: int) -> None:
        """Nothing moves."""

    def numbers(self) -> dict[str, float]:
        return {"p": self.config.p, "coefficient": self.config.coefficient}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        if state:
            raise ValueError(f"a fixed penalty has no state, but the checkpoint holds {sorted(state)}")


@dataclass(frozen=True)
class PAnnealConfig:
    """An Lp^p penalty whose p falls linearly in `updates` equal drops; p_end is reached exactly, at step `end`."""

    coefficient: float = 0.1
    """at p_start; rescaled at every drop"""
    p_start: float = 1.0
    p_end: float = 0.2
    start: int = 1000
    """step after which the first drop happens"""
    end: int = 4000
    """step after which the last drop happens"""
    updates: int = 10
    queue: int = 10
    """number of recent batches from which the coefficient is rescaled"""
    warmup: int = 500
    """steps over which the coefficient rises from 0"""
    bound: float = 0.03
    """see lp_power; in the units in which the dictionary is trained (unit mean square norm by default)"""

    def __post_init__(self) -> None:
        _check_p(self.p_start, "p_start")
        _check_p(self.p_end, "p_end")
        _check_positive(coefficient=self.coefficient, bound=self.bound, updates=self.updates, queue=self.queue)
        if self.p_end > self.p_start:
            raise ValueError(f"p_end {self.p_end} is above p_start {self.p_start}: p falls during annealing")
        if not 0 <= self.start <= self.end or self.end - self.start < self.updates - 1:
            raise ValueError(f"{self.updates} drops do not fit between steps {self.start} and {self.end}")


class PAnneal:
    """The p-annealed penalty: p, coefficient and queue of recent features, all of it in state_dict."""

    def __init__(self, config: PAnnealConfig) -> None:
        self.config = config
        self.coefficient = torch.tensor(config.coefficient, dtype=torch.float64)
        self.drops = 0
        self._queue: list[Tensor] = []  # [2]: the penalty at this p and at the next one, of one batch each

    @property
    def p(self) -> float:
        return self.p_after(self.drops)

    def p_after(self, drops: int) -> float:
        """p once `drops` of the updates have happened; p_end exactly after the last."""
        c = self.config
        return c.p_end if drops == c.updates else c.p_start + (c.p_end - c.p_start) * drops / c.updates

    def drop_step(self, drop: int) -> int:
        """The step after which drop number `drop` (from 0) happens."""
        c = self.config
        return c.end if c.updates == 1 else c.start + round((c.end - c.start) * drop / (c.updates - 1))

    def __call__(self, f: Float[Tensor, "batch f"], step: int) -> Float[Tensor, ""]:
        weight = self.coefficient.to(f) * _rise(step, self.config.warmup)
        return weight * lp_power(f, self.p, self.config.bound)

    @torch.no_grad()
    def observe(self, f: Float[Tensor, "batch f"], step: int) -> None:
        c = self.config
        if self.drops == c.updates or step <= self.drop_step(self.drops) - c.queue:
            return
        here, there = (lp_power(f, p, c.bound) for p in (self.p, self.p_after(self.drops + 1)))
        self._queue.append(torch.stack([here, there]).double())  # at most `queue` of them before each drop
        if step >= self.drop_step(self.drops):
            here, there = torch.stack(self._queue).mean(0)
            # no feature fired at all: there is nothing to keep level
            self.coefficient = torch.where(
                there > 0, self.coefficient.to(there) * here / there, self.coefficient.to(there)
            )
            self.drops += 1
            self._queue = []  # the ratio of another pair of p says nothing about the next one

    def numbers(self) -> dict[str, float]:
        return {"p": self.p, "coefficient": float(self.coefficient)}

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient, "drops": self.drops, "queue": list(self._queue)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coefficient, self.drops, self._queue = state["coefficient"], state["drops"], list(state["queue"])


def _rise(step: int, warmup: int) -> float:
    return min(1.0, (step + 1) / warmup) if warmup else 1.0


def _check_p(p: float, name: str) -> None:
    if not 0 < p <= 1:
        raise ValueError(f"{name} is {p}: choose a value above 0 and at most 1")


def _check_positive(**values: float | int) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: choose a value above 0")
