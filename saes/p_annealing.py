"""p-annealing (Karvonen et al. 2024, section 4): an Lp penalty whose p falls from 1 towards p_end.

It finds features as L1 does and then shrinks them less than L1 would. At every change of p the coefficient is
rescaled from recent features, so that the penalty itself does not jump.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.affine import Encoded
from saes.entries import beside
from saes.penalties import (
    Numbers,
    Schedule,
    as_members,
    as_numbers,
    check_not_negative,
    check_p,
    check_positive,
    lp_sum,
    rise,
    same,
)


@dataclass(frozen=True)
class PAnnealConfig:
    """An Lp penalty whose p falls linearly; with the default schedule p_end is reached exactly, at step `end`."""

    coefficient: float = 0.1
    """at p_start; rescaled at every change of p"""
    p_start: float = 1.0
    p_end: float = 0.2
    start: int = 1000
    """step after which the first change happens"""
    end: int = 4000
    """step after which the last change happens"""
    updates: int | Literal["continuous"] = 10
    """number of changes; `continuous` changes p a little after every step"""
    queue: int = 10
    """number of recent batches from which the coefficient is rescaled"""
    warmup: int = 500
    """steps over which the coefficient rises from 0"""
    bound: float = 0.01
    """see lp_sum; in the units in which the dictionary is trained (unit mean square norm by default)"""
    function: Literal["Lp^p", "Lp"] = "Lp^p"
    schedule: Schedule = "exact"
    """`dictionary_learning` replicates the original step for step: its first event changes nothing, an event at the
    last step never happens (so p_end is not reached), and the queue carries over from one p to the next"""

    def __post_init__(self) -> None:
        check_p(self.p_start, "p_start")
        check_p(self.p_end, "p_end")
        check_positive(coefficient=self.coefficient, queue=self.queue)
        check_not_negative(bound=self.bound, warmup=self.warmup)
        if self.updates != "continuous":
            check_positive(updates=self.updates)
        if self.p_end > self.p_start:
            raise ValueError(f"p_end {self.p_end} is above p_start {self.p_start}: p falls during annealing")
        if not 0 <= self.start <= self.end or self.end - self.start < self.changes - 1:
            raise ValueError(f"{self.changes} changes of p do not fit between steps {self.start} and {self.end}")

    @property
    def changes(self) -> int:
        return self.end - self.start + 1 if self.updates == "continuous" else self.updates


@runtime_checkable
class Timetable(Protocol):
    """When p changes, and to what; `done` counts the changes so far."""

    clears_queue: bool

    def due(self, done: int, step: int) -> bool: ...

    def soon(self, done: int, step: int, within: int) -> bool:
        """Whether a change comes within so many steps: only then is the queue worth filling."""
        ...

    def p(self, config: PAnnealConfig, done: int) -> float: ...

    def next_p(self, config: PAnnealConfig, done: int) -> float | None:
        """p after the next change; None if the next event changes nothing."""
        ...


class Exact:
    """`changes` equal drops, the first after step `start`, the last after step `end`."""

    clears_queue = True  # the ratio of another pair of p says nothing about the next one

    def __init__(self, config: PAnnealConfig) -> None:
        n = config.changes
        span = config.end - config.start
        self._steps = [config.end] if n == 1 else [config.start + round(span * i / (n - 1)) for i in range(n)]

    def due(self, done: int, step: int) -> bool:
        return done < len(self._steps) and step >= self._steps[done]

    def soon(self, done: int, step: int, within: int) -> bool:
        return done < len(self._steps) and step > self._steps[done] - within

    def p(self, config: PAnnealConfig, done: int) -> float:
        n = len(self._steps)
        return config.p_end if done == n else config.p_start + (config.p_end - config.p_start) * done / n

    def next_p(self, config: PAnnealConfig, done: int) -> float | None:
        return self.p(config, done + 1) if done < len(self._steps) else None


class DictionaryLearning:
    """The schedule of dictionary_learning's PAnnealTrainer, float32 values of p and all."""

    clears_queue = False

    def __init__(self, config: PAnnealConfig) -> None:
        self._steps = torch.linspace(config.start, config.end, config.changes, dtype=torch.int64).tolist()

    def due(self, done: int, step: int) -> bool:
        return done < len(self._steps) and step in self._steps and step >= self._steps[done]

    def soon(self, done: int, step: int, within: int) -> bool:
        return done > 0

    def p(self, config: PAnnealConfig, done: int) -> float:
        return self._values(config)[done - 1] if done else config.p_start

    def next_p(self, config: PAnnealConfig, done: int) -> float | None:
        if done == 0:
            return None
        return self._values(config)[done] if done < len(self._steps) else config.p_end

    def _values(self, config: PAnnealConfig) -> list[float]:
        return torch.linspace(config.p_start, config.p_end, config.changes).tolist()


TIMETABLES = {"exact": Exact, "dictionary_learning": DictionaryLearning}


class PAnneal:
    """The p-annealed penalty: p, coefficient and queue of recent penalties, all of it in state_dict.

    One config, or one of each member of a stack; members may differ in coefficient, p_start and p_end.
    """

    def __init__(self, config: PAnnealConfig | Sequence[PAnnealConfig]) -> None:
        self.configs = as_members(config)
        same(self.configs, "start", "end", "updates", "queue", "warmup", "bound", "function", "schedule")
        self.config = self.configs[0]
        self._times: Timetable = TIMETABLES[self.config.schedule](self.config)
        self.coefficient = torch.tensor([c.coefficient for c in self.configs], dtype=torch.float64)
        self.changes_done = 0
        self._queue: list[Float[Tensor, "2 member"]] = []  # the penalty at this p and at the next, of one batch each

    @property
    def p_of_members(self) -> list[float]:
        return [self._times.p(c, self.changes_done) for c in self.configs]

    @property
    def p(self) -> float:
        """p of the first member."""
        return self.p_of_members[0]

    def __call__(self, encoded: Encoded, step: int) -> Float[Tensor, " member"]:
        c = self.config
        sums = lp_sum(encoded.penalised, self.p_of_members, c.bound, c.function)
        return sums * beside(self.coefficient, sums) * rise(step, c)

    @torch.no_grad()
    def observe(self, encoded: Encoded, step: int) -> None:
        c, done = self.config, self.changes_done
        upcoming = [p for each in self.configs if (p := self._times.next_p(each, done)) is not None]
        if upcoming and self._times.soon(done, step, c.queue):
            pair = [lp_sum(encoded.penalised, p, c.bound, c.function) for p in (self.p_of_members, upcoming)]
            self._queue = [*self._queue, torch.stack(pair).double()][-c.queue :]
        if self._times.due(done, step):
            if upcoming:
                here, there = torch.stack(self._queue).mean(0)
                # where no feature fired at all there is nothing to keep level
                ratio = torch.where((here > 0) & (there > 0), here / there, 1.0)
                self.coefficient = beside(self.coefficient, ratio) * ratio
            self.changes_done += 1
            if self._times.clears_queue:
                self._queue = []

    def numbers(self) -> Numbers:
        return {"p": as_numbers(self.p_of_members), "coefficient": self.coefficient}

    def state_dict(self) -> dict[str, Any]:
        return {"coefficient": self.coefficient, "changes_done": self.changes_done, "queue": list(self._queue)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.coefficient, self.changes_done = state["coefficient"], state["changes_done"]
        self._queue = list(state["queue"])
