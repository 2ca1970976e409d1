"""What the commands that train dictionaries have in common: an architecture, what members differ in, how long."""

from dataclasses import dataclass
from typing import Literal

from saes.dead_features import AuxK
from saes.recipes import Member, check_members, grid
from saes.trainer import TrainConfig


@dataclass(frozen=True)
class StackOptions:
    """Dictionaries of one architecture, every combination of the lists; they are trained together."""

    architecture: str = "p_annealing"
    """relu, april, p_annealing, gated, gated_p_annealing, topk, batch_topk, matryoshka or jumprelu"""
    coefficients: tuple[float, ...] = ()
    """of the penalty; several are trained as one sweep, as all other lists are"""
    p_ends: tuple[float, ...] = ()
    """what p is annealed to; 1 is plain L1"""
    ks: tuple[int, ...] = ()
    """features per row, for topk, batch_topk and matryoshka"""
    target_l0s: tuple[float, ...] = ()
    """mean numbers of active features to end at, in place of coefficients or ks"""
    seeds: tuple[int, ...] = (0,)
    """of the first weights"""
    steps: int = 5000
    batch_size: int = 1024
    expansion: int = 8
    """features per dimension of the site"""
    learning_rate: float = 1e-3
    compute: Literal["float32", "bfloat16"] = "float32"
    """of the matrix products in training; weights and optimiser stay in float32"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "expansion", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a value above 0")
        if self.steps < 20:
            raise ValueError(f"steps is {self.steps}: choose 20 or more")
        if not self.seeds:
            raise ValueError("seeds is empty: give at least one")
        if self.architecture == "crosscoder":
            raise ValueError("crosscoder reads several sites: dictionaries are trained at one site each here")
        members = self.members()
        check_members(self.architecture, members)
        if len(set(members)) < len(members):
            raise ValueError("a setting is given twice: the same dictionary would be trained again")

    def members(self) -> list[Member]:
        """Every combination."""
        return grid(self.seeds, self.coefficients, self.p_ends, self.ks, self.target_l0s)

    def train_config(self) -> TrainConfig:
        return TrainConfig(self.steps, self.learning_rate, warmup=0.05, compute=self.compute)

    def auxk(self) -> AuxK:
        """For those that need it; a feature counts as dead after a tenth of the run."""
        return AuxK(dead_after=self.batch_size * max(1, self.steps // 10))


def folder_name(member: Member) -> str:
    """A name that says what the member is: `coefficient-0.01_p_end-0.2_seed-0`."""
    settings = member.settings()
    return "_".join(f"{name}-{settings[name]:g}" for name in sorted(settings))
