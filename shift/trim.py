"""Classify with the judged features ablated, and score the four cells of the balanced set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.ablation import ablate_features
from circuits.feature_acts import Dictionaries, FeatureActs, States, states_of
from saes.sites import Edit, Site
from shift.probe import predict, readout
from shift.task import Ambiguous, Balanced


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


def trimming_edits(dictionaries: Dictionaries, features: Features, values: States | None = None) -> dict[Site, Edit]:
    """Set the named features to zero, or to `values`, at every position, errors kept; only their sites are touched."""
    return ablate_features(
        dictionaries,
        {site: torch.tensor(sorted(features[site.name])) for site in dictionaries if features.get(site.name)},
        values,
    )


@torch.no_grad()
def mean_features(
    model: PreTrainedModel, dictionaries: Dictionaries, data: Ambiguous, prompts: int = 512, batch_size: int = 128
) -> States:
    """Mean of every feature over the positions up to the one read, on ambiguous prompts: acts [F], error zero [D]."""
    sums = {site: torch.zeros(d.features, dtype=d.W_dec.dtype) for site, d in dictionaries.items()}
    count = 0
    for tokens, position in zip(
        data.tokens[:prompts].split(batch_size), data.position[:prompts].split(batch_size), strict=True
    ):
        read = torch.arange(tokens.shape[1]) <= position[:, None]
        for site, state in states_of(model, dictionaries, tokens).items():
            sums[site] += state.acts[read].sum(0)
        count += int(read.sum())
    return {site: FeatureActs(s / count, torch.zeros(dictionaries[site].width)) for site, s in sums.items()}


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
