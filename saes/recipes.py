"""Recipes: an architecture and how it is made sparse, by the name that tables and the command line use.

A recipe turns members (what the dictionaries of a stack have of their own) into one trainer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields
from itertools import product
from typing import Any, Literal

import torch

from saes.architectures import ARCHITECTURES, AffineDictionary
from saes.dead_features import AuxK
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig, Penalty
from saes.ranks import ALONE, Ranks
from saes.sites import Site
from saes.target_l0 import TargetL0, TargetL0Config
from saes.trainer import TrainConfig, Trainer


class RecipeError(ValueError):
    """Members that a recipe cannot train."""


@dataclass(frozen=True)
class Member:
    """What one dictionary of a sweep has of its own; None: not set."""

    seed: int = 0
    """of the first weights"""
    coefficient: float | None = None
    """of the penalty; with target_l0 the controller's first guess"""
    p_end: float | None = None
    """what p is annealed to; 1 is plain L1"""
    k: int | None = None
    """features that a row may use (topk, batch_topk, matryoshka)"""
    target_l0: float | None = None
    """mean number of active features to end at, in place of a coefficient or k"""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise RecipeError(f"seed is {self.seed}: choose 0 or more")
        for name, value in self.settings().items():
            if name != "seed" and not value > 0:
                raise RecipeError(f"{name} is {value}: choose a value above 0")

    def settings(self) -> dict[str, float]:
        """What is set."""
        return {f.name: value for f in fields(self) if (value := getattr(self, f.name)) is not None}

    def __str__(self) -> str:
        return ", ".join(f"{name} {value:g}" for name, value in self.settings().items())


def grid(
    seeds: Iterable[int] = (0,),
    coefficients: Iterable[float] = (),
    p_ends: Iterable[float] = (),
    ks: Iterable[int] = (),
    target_l0s: Iterable[float] = (),
) -> list[Member]:
    """Every combination; an empty list leaves its setting unset."""
    axes = [list(axis) or [None] for axis in (seeds, coefficients, p_ends, ks, target_l0s)]
    return [Member(seed or 0, *rest) for seed, *rest in product(*axes)]  # type: ignore[arg-type]


@dataclass(frozen=True)
class Recipe:
    architecture: str
    sparse_by: Literal["penalty", "k", "l0"]
    """a penalty on magnitudes, a number of features, or JumpReLU's penalty on L0"""
    p_end: float = 1.0
    """of members that do not say"""
    coefficient: float = 0.1
    """of members that do not say, for activations of unit mean square norm"""
    weigh_by_decoder: bool = False
    options: Mapping[str, Any] = field(default_factory=dict)
    """of the architecture's config"""


RECIPES: dict[str, Recipe] = {
    "relu": Recipe("relu", "penalty"),
    "april": Recipe("relu", "penalty", weigh_by_decoder=True, options={"unit_norm": False}),
    "p_annealing": Recipe("relu", "penalty", p_end=0.2),
    "gated": Recipe("gated", "penalty"),
    "gated_p_annealing": Recipe("gated", "penalty", p_end=0.2),
    "topk": Recipe("topk", "k"),
    "batch_topk": Recipe("batch_topk", "k"),
    "matryoshka": Recipe("matryoshka", "k"),
    "jumprelu": Recipe("jumprelu", "l0", coefficient=1e-3),
    "crosscoder": Recipe("crosscoder", "penalty", weigh_by_decoder=True),
}
TARGETED_COEFFICIENT = 1.0  # of (L0 / target - 1)^2, JumpReLU's penalty with a target


def find_recipe(name: str) -> Recipe:
    """RecipeError for a name that is not in the table."""
    if name not in RECIPES:
        raise RecipeError(f"no recipe is called {name!r}; choose from {', '.join(RECIPES)}")
    return RECIPES[name]


def trainer_for(
    name: str,
    members: Sequence[Member],
    config: TrainConfig,
    sites: Sequence[Site],
    *,
    width: int,
    features: int,
    writes: Sequence[Site] | None = None,
    auxk: AuxK | None = None,
    device: str | torch.device = "cpu",
    ranks: Ranks = ALONE,
    step: Literal["auto", "dense", "active"] = "auto",
    **options: Any,
) -> Trainer[AffineDictionary]:
    """One trainer for a stack; the warm-up of the penalty, annealing and control of L0 follow from the steps.

    Features that are off for lack of rank, or below a threshold, have no slope: those recipes take an AuxK (the
    paper's by default; small problems do better with a larger alpha and a shorter wait). `step`: see
    SparseReconstruction. `options` go to the architecture's config.
    """
    check_members(name, members)
    recipe = find_recipe(name)
    kind = ARCHITECTURES[recipe.architecture]
    dictionaries = []
    for member in members:
        own = _own_k(member, config.steps) if recipe.sparse_by == "k" else {}
        shape = kind.config_type(width, features, **{**recipe.options, **own, **options})
        dictionaries.append(kind(shape, sites, writes, member.seed))
    penalty = _penalty(recipe, members, config.steps)
    parts = [] if recipe.sparse_by == "penalty" else [auxk or AuxK()]
    objective = SparseReconstruction(penalty, parts, weigh_by_decoder=recipe.weigh_by_decoder, step=step)
    return Trainer(dictionaries, objective, config, ranks, device)


def _own_k(member: Member, steps: int) -> dict[str, Any]:
    """k, and an average of the threshold of inference over the last twentieth of training: of nearly final weights."""
    decay = min(0.999, 1 - 20 / max(steps, 21))
    return {"k": member.k or max(1, round(member.target_l0 or 0)), "threshold_decay": decay}


def check_members(name: str, members: Sequence[Member]) -> None:
    """RecipeError, naming the member, for settings that the recipe does not have or that do not go together."""
    recipe = find_recipe(name)
    if not members:
        raise RecipeError("a stack needs at least one member")
    unfit = {"penalty": ("k",), "k": ("coefficient", "p_end"), "l0": ("k", "p_end")}[recipe.sparse_by]
    for member in members:
        wrong = [setting for setting in unfit if getattr(member, setting) is not None]
        if wrong:
            raise RecipeError(f"{name} has no {wrong[0]}: leave it out ({member})")
        if recipe.sparse_by == "k" and (member.k is None) == (member.target_l0 is None):
            raise RecipeError(f"{name} needs either k or target_l0 ({member})")
    if len({member.target_l0 is None for member in members}) > 1:
        raise RecipeError("either all members of a stack have a target_l0 or none")


def _penalty(recipe: Recipe, members: Sequence[Member], steps: int) -> Penalty | None:
    if recipe.sparse_by == "k":
        return None
    targets = [member.target_l0 for member in members]
    targeted = None not in targets
    warmup = steps // 10
    if recipe.sparse_by == "l0":
        default = TARGETED_COEFFICIENT if targeted else recipe.coefficient
        return L0([L0Config(m.coefficient or default, m.target_l0, warmup) for m in members])
    p_ends = [member.p_end or recipe.p_end for member in members]
    coefficients = [member.coefficient or recipe.coefficient for member in members]
    if set(p_ends) == {1.0}:
        penalty: Penalty = Lp([LpConfig(c, warmup=warmup) for c in coefficients])
    else:
        start, end = steps // 5, steps * 4 // 5  # p falls over the middle three fifths
        updates = min(10, end - start + 1)
        times: dict[str, Any] = {"start": start, "end": end, "updates": updates, "warmup": warmup}
        penalty = PAnneal([PAnnealConfig(c, p_end=p, **times) for c, p in zip(coefficients, p_ends, strict=True)])
    if targeted:
        control = TargetL0Config(tuple(float(t or 0) for t in targets), start=warmup, freeze=steps * 95 // 100)
        return TargetL0(penalty, control)
    return penalty
