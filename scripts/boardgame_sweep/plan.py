"""What is trained: the types of dictionaries, their sparsities and seeds, and how long, at the small and paper scale.

Every dictionary is steered to a mean number of active features: k for those that have one, JumpReLU's own penalty, and
a controller of the coefficient for the others. So types are compared at equal L0, without interpolating.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from saes.architectures import AffineDictionary, ReLUConfig, ReLUDictionary
from saes.dead_features import AuxK
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.recipes import Member, grid, trainer_for
from saes.replication import DL
from saes.sites import Site
from saes.target_l0 import TargetL0, TargetL0Config
from saes.trainer import TrainConfig, Trainer

Game = Literal["othello", "chess"]
ScaleName = Literal["small", "paper"]

TYPES = {
    "standard": "relu",
    "gated": "gated",
    "p_anneal_original": "",
    "p_anneal": "p_annealing",
    "gated_p_anneal": "gated_p_annealing",
    "topk": "topk",
    "batch_topk": "batch_topk",
    "jumprelu": "jumprelu",
    "matryoshka": "matryoshka",
}
"""names in tables, and the recipes of saes.recipes; the original's p-annealing is none of them"""
LABELS = {
    "standard": "Standard (L1)",
    "gated": "Gated",
    "p_anneal_original": "p-anneal, as the original trains it",
    "p_anneal": "p-anneal, ours",
    "gated_p_anneal": "Gated p-anneal",
    "topk": "TopK",
    "batch_topk": "BatchTopK",
    "jumprelu": "JumpReLU",
    "matryoshka": "Matryoshka",
}


@dataclass(frozen=True)
class Scale:
    """How much is trained of one game."""

    l0s: tuple[float, ...]
    """mean numbers of active features that dictionaries are steered to"""
    steps: int
    batch_size: int
    expansion: tuple[int, ...] = (8,)
    """F / D"""
    seeds: tuple[int, ...] = (0,)
    rates: tuple[float, ...] = (1e-3, 3e-3, 1e-2)
    """learning rates that are tried"""
    pilot_steps: int = 400
    """of the trial of a rate, at the middle L0 (the higher of two)"""
    p_start_share: float = 0.2
    """share of the steps before p falls; the original trains 10,000 of 36,621"""

    @property
    def tokens(self) -> int:
        return self.steps * self.batch_size


SCALES: Mapping[tuple[ScaleName, Game], Scale] = {
    ("small", "othello"): Scale((15, 35, 80), 2000, 1024),
    ("small", "chess"): Scale((15, 45), 1500, 1024),
    ("paper", "othello"): Scale(
        (10, 20, 35, 60, 100, 160, 250, 400), 36_621, 8192, (8, 16), (0, 1, 2), (1e-4, 3e-4, 1e-3), 3000, 0.27
    ),
    ("paper", "chess"): Scale(
        (10, 20, 35, 60, 100, 160, 250, 400), 36_621, 8192, (8, 16), (0, 1, 2), (1e-4, 3e-4, 1e-3), 3000, 0.27
    ),
}


@dataclass(frozen=True)
class Stack:
    """Dictionaries of one type and width, trained side by side."""

    type: str
    expansion: int
    members: tuple[Member, ...]

    @property
    def name(self) -> str:
        return f"{self.type}_x{self.expansion}"

    def folders(self) -> list[str]:
        """One for each member, below the run's folder of dictionaries."""
        return [f"{self.name}/l0-{m.target_l0:g}_seed-{m.seed}" for m in self.members]


def stacks(scale: Scale, types: Sequence[str] = tuple(TYPES)) -> list[Stack]:
    """Every type at every width, with all sparsities and seeds."""
    members = tuple(grid(scale.seeds, target_l0s=scale.l0s))
    return [Stack(name, expansion, members) for name in types for expansion in scale.expansion]


def build(
    stack: Stack, scale: Scale, site: Site, width: int, rate: float, steps: int, device: str = "cpu"
) -> Trainer[AffineDictionary]:
    """The trainer of a stack."""
    features = stack.expansion * width
    config = TrainConfig(steps, rate, warmup=0.05)
    if stack.type == "p_anneal_original":
        return _original(stack, scale, site, width, features, config, device)
    return trainer_for(
        TYPES[stack.type],
        stack.members,
        config,
        [site],
        width=width,
        features=features,
        auxk=AuxK(dead_after=scale.batch_size * max(1, steps // 10)),
        device=device,
    )


def _original(
    stack: Stack, scale: Scale, site: Site, width: int, features: int, config: TrainConfig, device: str
) -> Trainer[AffineDictionary]:
    """dictionary_learning's PAnnealTrainer: unbounded f^p, p that ends at 0.289 for 0.2, no decay of the rate, raw
    activations, no clipping, first bias 0. Only the coefficient is not its own: it is steered to the target L0."""
    steps = config.steps
    start, warmup = round(scale.p_start_share * steps), steps // 10
    penalty = PAnneal(
        [PAnnealConfig(0.03, start=start, end=steps, warmup=warmup, bound=0.0, schedule=DL) for _ in stack.members]
    )
    targets = tuple(float(m.target_l0 or 0) for m in stack.members)
    control = TargetL0Config(targets, start=warmup, freeze=steps)  # p falls to the end, and L0 with it
    replicated = replace(
        config, decay=0.0, normalise="none", schedule=DL, clip=None, first_bias="zero", warmup=1000 / 36_621
    )
    dictionaries: list[AffineDictionary] = [
        ReLUDictionary(ReLUConfig(width, features), [site], seed=m.seed) for m in stack.members
    ]
    return Trainer(dictionaries, SparseReconstruction(TargetL0(penalty, control)), replicated, device=device)
