"""Sparsity penalties: L1 and Lp, and the L0 penalty of JumpReLU. p-annealing stands in saes.p_annealing.

A penalty acts on the batch as N stacked dictionaries encode it, and answers with one number per member. Members may
differ in coefficient and p.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, TypeVar, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.affine import Encoded
from saes.entries import Entries, beside
from saes.sparse_step import compacted

Schedule = Literal["exact", "dictionary_learning"]
Numbers = dict[str, float | Float[Tensor, " member"]]


@runtime_checkable
class Warming(Protocol):
    """A config with a warm-up of its coefficient."""

    @property
    def warmup(self) -> int: ...

    @property
    def schedule(self) -> Schedule: ...


@runtime_checkable
class Penalty(Protocol):
    """What an objective adds to the reconstruction error."""

    def __call__(self, encoded: Encoded, step: int) -> Float[Tensor, " member"]:
        """The weighted penalty; pure."""
        ...

    def observe(self, encoded: Encoded, step: int) -> None:
        """Once per optimiser step, after it: the only place where state moves."""
        ...

    def numbers(self) -> Numbers:
        """What a log shows of the state."""
        ...

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: Mapping[str, Any]) -> None: ...


def lp_sum(
    entries: Entries, p: Sequence[float], bound: float, function: Literal["Lp^p", "Lp"] = "Lp^p"
) -> Float[Tensor, " member"]:
    """Mean over the batch of sum_i f_i^p (Lp^p) or (sum_i f_i^p)^(1/p) (Lp), made linear below `bound`.

    f^p has slope p f^(p-1), without limit as f falls to 0. Below `bound` (b) the curve goes on along its tangent and
    the whole is shifted to pass through 0: f^p - (1-p) b^p above b, p b^(p-1) f below. Value and slope are
    continuous, the slope is at most p b^(p-1), and above b the gradient is that of f^p. With p = 1 this is L1;
    `bound` 0 is f^p itself. Only features that are on are looked at. `p` is one number, or one of each member.
    """
    if any(each != 1 for each in p) or function != "Lp^p":
        entries = compacted(entries)  # a power of every inactive feature would cost more than a product
    powers = entries.with_values(_power(entries, p, bound))
    if function == "Lp^p":
        return powers.mean_sums()
    rows = powers.row_sums()
    exponents = beside([1 / each for each in p], rows)[:, None]
    on = rows > 0  # the root has no slope at 0
    return entries.layout.ranks.mean_rows(torch.where(on, torch.where(on, rows, 1.0) ** exponents, 0.0).mean(1))


def _power(entries: Entries, p: Sequence[float], bound: float) -> Tensor:
    f = entries.values
    if len(set(p)) == 1:
        return f if p[0] == 1 else _BoundedPower.apply(f, p[0], bound)  # type: ignore[return-value]
    return _BoundedPower.apply(f, entries.per_member(beside(p, f)), bound)  # type: ignore[return-value]


class _BoundedPower(torch.autograd.Function):
    """The bounded curve with one pow per element for value and slope."""

    @staticmethod
    def forward(ctx: Any, f: Tensor, p: float | Tensor, bound: float) -> Tensor:
        capped = f.clamp_min(bound or torch.finfo(f.dtype).tiny)
        slope = capped.pow(p - 1).mul_(p)
        ctx.save_for_backward(f, slope)
        # above the bound p f^(p-1) f / p = f^p; below it, and at 0, the tangent
        shift = (1 - p) * bound**p if bound else 0.0
        return torch.where(f > bound, slope * capped / p - shift, slope * f)

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
    bound: float = 0.01
    """see lp_sum; in the units in which the dictionary is trained (unit mean square norm by default)"""
    schedule: Schedule = "exact"

    def __post_init__(self) -> None:
        check_p(self.p, "p")
        check_positive(coefficient=self.coefficient)
        check_not_negative(bound=self.bound, warmup=self.warmup)


class Lp:
    """coefficient * warm-up * mean_b sum_i f_i^p; one config, or one of each member of a stack."""

    def __init__(self, config: LpConfig | Sequence[LpConfig]) -> None:
        self.configs = as_members(config)
        same(self.configs, "warmup", "bound", "schedule")
        self.config = self.configs[0]

    def __call__(self, encoded: Encoded, step: int) -> Float[Tensor, " member"]:
        powers = lp_sum(encoded.penalised, [c.p for c in self.configs], self.config.bound)
        return powers * beside([c.coefficient for c in self.configs], powers) * rise(step, self.config)

    def observe(self, encoded: Encoded, step: int) -> None:
        """Nothing moves."""

    def numbers(self) -> Numbers:
        return {name: as_numbers(getattr(c, name) for c in self.configs) for name in ("p", "coefficient")}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        no_state(state)


@dataclass(frozen=True)
class L0Config:
    """JumpReLU's penalty on the number of features that are on (Rajamanoharan et al. 2024, equation 9)."""

    coefficient: float = 1.0
    target: float | None = None
    """with it the penalty is (L0 / target - 1)^2 instead of L0"""
    warmup: int = 1000
    schedule: Schedule = "exact"

    def __post_init__(self) -> None:
        check_positive(coefficient=self.coefficient, **({} if self.target is None else {"target": self.target}))
        check_not_negative(warmup=self.warmup)


class L0:
    """coefficient * warm-up * mean L0, or its relative squared distance from a target; needs straight-through steps."""

    def __init__(self, config: L0Config | Sequence[L0Config]) -> None:
        self.configs = as_members(config)
        same(self.configs, "warmup", "schedule")
        if len({c.target is None for c in self.configs}) == 2:
            raise ValueError("either all members of a stack have a target L0 or none")
        self.config = self.configs[0]

    def __call__(self, encoded: Encoded, step: int) -> Float[Tensor, " member"]:
        if encoded.firing is None:
            raise ValueError("an L0 penalty needs an architecture with thresholds that learn: use jumprelu")
        l0 = encoded.firing.mean_sums()
        if self.config.target is not None:
            l0 = (l0 / beside([c.target for c in self.configs if c.target is not None], l0) - 1).square()
        return l0 * beside([c.coefficient for c in self.configs], l0) * rise(step, self.config)

    def observe(self, encoded: Encoded, step: int) -> None:
        """Nothing moves."""

    def numbers(self) -> Numbers:
        return {"coefficient": as_numbers(c.coefficient for c in self.configs)}

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        no_state(state)


# ---- what all penalties share ----

T = TypeVar("T")


def as_numbers(values: Iterable[float]) -> Float[Tensor, " member"]:
    """What a log shows of each member; p_end is logged as it was given."""
    return torch.tensor(list(values), dtype=torch.float64)


def as_members(config: T | Sequence[T]) -> list[T]:
    """The configs of a stack's members; one config is a stack of one."""
    configs = list(config) if isinstance(config, Sequence) else [config]
    if not configs:
        raise ValueError("a stack of penalties needs at least one config")
    return configs


def same(configs: Sequence[Any], *names: str) -> None:
    """ValueError if the members of a stack differ in a field that they have to share."""
    for name in names:
        values = {getattr(c, name) for c in configs}
        if len(values) > 1:
            raise ValueError(f"members of a stack share {name}, but it is {sorted(map(str, values))}")


def rise(step: int, config: Warming) -> float:
    """Linear warm-up; the first step already counts, except in dictionary_learning's schedule."""
    first = 0 if config.schedule == "dictionary_learning" else 1
    return min(1.0, (step + first) / config.warmup) if config.warmup else 1.0


def no_state(state: Mapping[str, Any]) -> None:
    if state:
        raise ValueError(f"a fixed penalty has no state, but the checkpoint holds {sorted(state)}")


def check_p(p: float, name: str) -> None:
    if not 0 < p <= 2:
        raise ValueError(f"{name} is {p}: choose a value above 0 and at most 2")


def check_positive(**values: float | int) -> None:
    for name, value in values.items():
        if not value > 0:
            raise ValueError(f"{name} is {value}: choose a value above 0")


def check_not_negative(**values: float | int) -> None:
    for name, value in values.items():
        if not value >= 0:
            raise ValueError(f"{name} is {value}: choose 0 or more")
