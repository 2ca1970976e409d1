"""Every architecture with an objective that suits it, as one member of a sweep or as several together."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Literal

import jaxtyping
import torch
from torch import Tensor

from saes.dead_features import AuxK, DeadPreActivation, Part, Resample
from saes.entries import Active, Padded
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig, Penalty
from saes.ranks import ALONE, Ranks
from saes.trainer import TrainConfig, Trainer
from tests.saes.dictionaries_for_tests import fresh
from tests.saes.planted_data import Planted

WIDTH, FEATURES, ROWS = 12, 40, 32
MEMBERS = (0, 1, 2)

Members = Sequence[int]


def l1(members: Members) -> Penalty:
    return Lp([LpConfig([0.05, 0.2, 0.1][n], p=[1.0, 0.5, 0.8][n], warmup=10) for n in members])


def p_anneal(members: Members, function: Literal["Lp^p", "Lp"] = "Lp^p") -> Penalty:
    return PAnneal(
        [
            PAnnealConfig(
                coefficient=[0.05, 0.2, 0.1][n],
                p_end=[0.2, 0.5, 1.0][n],
                start=10,
                end=45,
                updates=4,
                queue=3,
                warmup=8,
                function=function,
            )
            for n in members
        ]
    )


def l0(members: Members) -> Penalty:
    return L0([L0Config([0.02, 0.1, 0.05][n], warmup=10) for n in members])


def l0_target(members: Members) -> Penalty:
    return L0([L0Config([0.1, 0.3, 0.2][n], target=[3.0, 4.0, 6.0][n], warmup=10) for n in members])


@dataclass(frozen=True)
class Case:
    """One of dictionaries_for_tests.VARIANTS and what it is trained on."""

    variant: str
    penalty: Callable[[Members], Penalty] | None = None
    parts: tuple[Part, ...] = ()
    weigh_by_decoder: bool = False
    ks: tuple[int, ...] = ()
    """k of each member"""
    options: tuple[tuple[str, Any], ...] = ()

    def trainer(
        self,
        members: Members = (0,),
        step: Literal["auto", "dense", "active"] = "auto",
        dtype: torch.dtype = torch.float64,
        steps: int = 100,
        clip: float | None = 1.0,
        device: str = "cpu",
        ranks: Ranks = ALONE,
    ) -> Trainer[Any]:
        """The members in the order given, at their first step, b_dec and scale set."""
        dictionaries = [
            fresh(
                self.variant,
                width=WIDTH,
                features=FEATURES,
                seed=n,
                **dict(self.options),
                **({"k": self.ks[n]} if self.ks else {}),
            ).to(device, dtype)
            for n in members
        ]
        objective = SparseReconstruction(
            None if self.penalty is None else self.penalty(members),
            self.parts,
            weigh_by_decoder=self.weigh_by_decoder,
            step=step,
        )
        config = TrainConfig(steps=steps, learning_rate=5e-3, clip=clip)
        trainer = Trainer(dictionaries, objective, config, ranks)
        trainer.initialise(self.batch(10**6, dtype, device))
        return trainer

    def batch(self, number: int, dtype: torch.dtype = torch.float64, device: str = "cpu", rows: int = ROWS) -> Batch:
        """Batch `number` of the data, whose rows are sparse sums of planted atoms."""
        x = Planted(width=WIDTH, atoms=20, seed=1).rows(rows, seed=number).to(device, dtype)
        if " " not in self.variant:
            return Batch(x, x)
        return Batch(x[:, :9].contiguous(), x.roll(1, 1).relu())


AUXK = AuxK(alpha=0.1, dead_after=3 * ROWS)
KS = (2, 4, 3)
CASES = {
    "relu": Case("relu", l1, (Resample(every=20, dead_after=3 * ROWS, until=41),)),
    "relu, p-annealing": Case("relu", p_anneal),
    "relu, April update": Case(
        "relu", l1, (DeadPreActivation(1e-3, 3 * ROWS),), weigh_by_decoder=True, options=(("unit_norm", False),)
    ),
    "gated": Case("gated", lambda members: Lp([LpConfig([0.5, 0.8, 0.6][n], warmup=10) for n in members]), (AUXK,)),
    "topk": Case("topk", None, (AUXK,), ks=KS),
    "batch_topk": Case("batch_topk", l1, (AUXK,), ks=KS),
    "matryoshka": Case("matryoshka", None, (AUXK,), ks=KS),
    "jumprelu": Case("jumprelu", l0, (AUXK,)),
    "jumprelu, step on features": Case("jumprelu", l0_target, options=(("step_on", "feature"),)),
    "crosscoder": Case("crosscoder", l1, weigh_by_decoder=True),
    "transcoder": Case("relu transcoder", lambda members: p_anneal(members, "Lp")),
    "skip transcoder": Case("topk skip", None, (AuxK(0.1, 3 * ROWS, k=2, normalise=True),), ks=KS),
    "gated skip transcoder": Case("gated skip", p_anneal),
}


@contextmanager
def unchecked() -> Iterator[None]:
    """Annotations are not checked: in a loop of many small steps that would be two thirds of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def is_active(loss: Any) -> bool:
    """Whether a step went through the active features only."""
    return isinstance(loss.encoded.features.layout, Active | Padded)


def distance(a: Tensor, b: Tensor) -> float:
    """Relative L2; 0 where both are zero."""
    return float(((a - b).norm() / b.norm().clamp_min(1e-300)).detach())


def worst(ours: dict[str, Tensor], theirs: dict[str, Tensor]) -> tuple[float, str]:
    """The largest distance of two state dicts, and where it is."""
    assert ours.keys() == theirs.keys()
    return max((distance(ours[key], theirs[key]), key) for key in ours)
