"""Classify with the judged features ablated, and score the four cells of the balanced set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.ablation import ablate_features
from circuits.feature_acts import Dictionaries
from saes.sites import Edit, Site
from shift.probe import predict, readout
from shift.task import Balanced


@dataclass(frozen=True)
class Cells:
    """Accuracy at the intended label in each cell, [intended 0/1][spurious 0/1]."""

    accuracy: Float[np.ndarray, "2 2"]
    spurious_accuracy: float  # accuracy of the same answers at the spurious label

    @property
    def worst_group(self) -> float:
        return float(self.accuracy.min())

    @property
    def intended_accuracy(self) -> float:
        """Mean over the four cells, which are equally large."""
        return float(self.accuracy.mean())


Features = Mapping[str, Sequence[int]]  # by site name


def trimming_edits(dictionaries: Dictionaries, features: Features) -> dict[Site, Edit]:
    """Zero the named features at every position, errors kept; only the sites that are needed are touched."""
    return ablate_features(
        dictionaries,
        {site: torch.tensor(sorted(features[site.name])) for site in dictionaries if features.get(site.name)},
    )


def score(
    model: PreTrainedModel, head: nn.Linear, site: Site, data: Balanced, edits: Mapping[Site, Edit] | None = None
) -> Cells:
    """The head's four cells, with the model edited."""
    answers = predict(head, readout(model, site, data.tokens, data.position, edits))
    right = answers == data.intended
    cells = np.array(
        [[float(right[(data.intended == a) & (data.spurious == b)].float().mean()) for b in (0, 1)] for a in (0, 1)]
    )
    return Cells(cells, float((answers == data.spurious).float().mean()))


def random_features(
    like: Features, effects: Mapping[Site, Float[Tensor, " f"]], rng: np.random.Generator
) -> dict[str, list[int]]:
    """As many features at each site as in `like`, drawn from those that have any effect."""
    by_name = {site.name: values for site, values in effects.items()}
    return {
        name: rng.choice(by_name[name].nonzero().flatten().numpy(), len(index), replace=False).tolist()
        for name, index in like.items()
    }
