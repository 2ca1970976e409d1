"""Dictionaries trained on a planted model's own activations, and which planted feature each of their features is."""

import copy
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from circuit_truth.plants import THRESHOLD, Plant
from circuit_truth.programs import Instance
from circuits.feature_acts import Dictionaries, states_of
from saes.buffer import ActivationBuffer
from saes.dead_features import AuxK
from saes.dictionary import Dictionary
from saes.recipes import Member, find_recipe, trainer_for
from saes.sites import Site
from saes.trainer import TrainConfig
from saes.training import train

FEATURES = 64
BATCH = 256
JUDGED = 256  # prompts that quality is measured on
SAME = 0.5**0.5
"""cosine above which a feature counts as a planted one: no two planted directions can both be as near"""


@dataclass(frozen=True)
class Labelled:
    """Dictionaries with the planted feature that each of their features is, -1 for none."""

    dictionaries: Dictionaries
    labels: Mapping[Site, Int[Tensor, " f"]]
    quality: Mapping[str, float]


def given(plant: Plant) -> Labelled:
    """The true dictionaries."""
    dictionaries = plant.given()
    labels = {site: torch.arange(d.features) for site, d in dictionaries.items()}
    return Labelled(dictionaries, labels, {})


def trained(instance: Instance, recipe: str, *, steps: int, seed: int, progress: bool = False) -> Labelled:
    """One dictionary at every site, all on the same batches, steered to the true number of active features.

    `quality`: means over sites of the mean max cosine of the planted features that are ever on there, of the share of
    them that is found (cosine above SAME), of the variance explained and of L0 (found and true).
    """
    plant = instance.plant
    model, on = copy.deepcopy(plant.model).float(), _active(instance)
    trainers = {
        site: trainer_for(
            recipe,
            [_member(recipe, seed, float(active.sum(-1).float().mean()))],
            TrainConfig(steps=steps, learning_rate=3e-3),
            [site],
            width=plant.directions.shape[1],
            features=FEATURES,
            auxk=AuxK(alpha=0.25, dead_after=20 * BATCH),
            step="dense",  # of so few features all are faster than the active ones
        )
        for site, active in on.items()
    }
    tokens = instance.training
    buffer = ActivationBuffer(
        model, list(on), tokens, torch.ones_like(tokens, dtype=torch.bool), batch_size=BATCH, seed=seed
    )
    dictionaries: dict[Site, Dictionary] = {
        site: d.double().requires_grad_(False) for site, d in train(trainers, buffer, progress=progress).items()
    }
    cosines = {site: _cosines(d, plant) for site, d in dictionaries.items()}
    found = {site: torch.where(c.amax(1) > SAME, c.argmax(1), -1) for site, c in cosines.items()}
    return Labelled(dictionaries, found, _quality(instance, dictionaries, cosines, on))


def _member(recipe: str, seed: int, l0: float) -> Member:
    if find_recipe(recipe).sparse_by == "k":
        return Member(seed, k=max(1, round(l0)))
    return Member(seed, target_l0=max(l0, 0.5))


def _active(instance: Instance) -> dict[Site, Bool[Tensor, "rows f"]]:
    states = states_of(instance.plant.model, instance.plant.given(), instance.training)
    return {site: (state.acts > THRESHOLD).flatten(0, 1) for site, state in states.items()}


def _judged(instance: Instance) -> Tensor:
    """Prompts of both kinds."""
    return torch.cat([instance.training[: JUDGED // 2], instance.training[-JUDGED // 2 :]])


def _cosines(dictionary: Dictionary, plant: Plant) -> Float[Tensor, "f planted"]:
    rows = dictionary.W_dec
    return rows / rows.norm(dim=1, keepdim=True).clamp_min(1e-12) @ plant.directions.T


def _quality(
    instance: Instance,
    dictionaries: Dictionaries,
    cosines: Mapping[Site, Tensor],
    on: Mapping[Site, Bool[Tensor, "rows f"]],
) -> dict[str, float]:
    states = states_of(instance.plant.model, dictionaries, _judged(instance))
    rows = []
    for site, state in states.items():
        there = on[site].any(0)  # in training
        best = cosines[site].amax(0)[there]
        x = state.compose(dictionaries[site]).flatten(0, 1)
        rows.append(
            [
                best.mean(),
                (best > SAME).double().mean(),
                1 - state.error.square().sum() / (x - x.mean(0)).square().sum(),
                (state.acts != 0).double().sum(-1).mean(),
                on[site].double().sum(-1).mean(),
            ]
        )
    names = ("mean max cosine", "found", "variance explained", "L0", "true L0")
    return dict(zip(names, torch.tensor(rows, dtype=torch.float64).mean(0).tolist(), strict=True))
