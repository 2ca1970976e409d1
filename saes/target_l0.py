"""Annealing to a target L0: a slow controller of a penalty's coefficient, instead of a sweep of blind coefficients.

p-annealing's rescaling is feed-forward: it keeps the penalty level when p changes. What it leaves over, and the
first guess of the coefficient, is corrected by the logarithm of the coefficient following the logarithm of L0.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.affine import Encoded
from saes.entries import beside
from saes.penalties import Numbers, Penalty, check_positive


@dataclass(frozen=True)
class TargetL0Config:
    target: float | tuple[float, ...] = 32.0
    """mean number of active features of a row; one number, or one of each member"""
    freeze: int = 4500
    """step from which the coefficient stays as it is; the learning rate's decay should be over, or nearly"""
    start: int = 100
    """step at which the controller starts"""
    gain: float = 0.02
    """change of the log-coefficient per step and unit of log(L0 / target)"""
    average: float = 0.9
    """of the moving average of L0, per step"""

    def __post_init__(self) -> None:
        for target in self.targets:
            check_positive(target=target)
        check_positive(gain=self.gain)
        if not 0 <= self.start < self.freeze:
            raise ValueError(
                f"the controller starts at step {self.start} and freezes at {self.freeze}: nothing between"
            )
        if not 0 <= self.average < 1:
            raise ValueError(f"average is {self.average}: choose 0 or more, below 1")

    @property
    def targets(self) -> tuple[float, ...]:
        return self.target if isinstance(self.target, tuple) else (self.target,)


class TargetL0:
    """Any penalty, its coefficient multiplied by a factor that steers L0; factor and average are in state_dict."""

    def __init__(self, penalty: Penalty, config: TargetL0Config) -> None:
        self.penalty, self.config = penalty, config
        self.log_factor: Tensor = torch.zeros(len(config.targets), dtype=torch.float64)
        self.log_l0: Tensor = torch.full_like(self.log_factor, torch.nan)  # not yet measured

    def __call__(self, encoded: Encoded, step: int) -> Float[Tensor, " member"]:
        penalty = self.penalty(encoded, step)
        return penalty * beside(self.log_factor, penalty).exp()

    @torch.no_grad()
    def observe(self, encoded: Encoded, step: int) -> None:
        self.penalty.observe(encoded, step)
        c = self.config
        if not c.start <= step < c.freeze:
            return
        now = encoded.features.l0().double().clamp_min(0.5).log()
        before = beside(self.log_l0, now)
        self.log_l0 = torch.where(before.isnan(), now, c.average * before + (1 - c.average) * now)
        self.log_factor = beside(self.log_factor, now) + c.gain * (self.log_l0 - beside(c.targets, now).log())

    def numbers(self) -> Numbers:
        inner = self.penalty.numbers()
        return {**inner, "coefficient": torch.as_tensor(inner["coefficient"]).cpu() * self.log_factor.exp().cpu()}

    def state_dict(self) -> dict[str, Any]:
        return {"penalty": self.penalty.state_dict(), "log_factor": self.log_factor, "log_l0": self.log_l0}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self.penalty.load_state_dict(state["penalty"])
        self.log_factor, self.log_l0 = state["log_factor"], state["log_l0"]
