"""Which nodes are active in some examples, how often, and how far they move: what random circuits are matched by."""

from collections.abc import Mapping
from dataclasses import dataclass, field

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.attribution import site_values
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.moves import Moves, moves_between
from circuits.places import Places
from saes.sites import Site


@dataclass
class Activity:
    """Running sums over examples, [places, F + 1] for each site, the error node last.

    `positions` counts the positions at which a feature is active in the clean prompt or at the end point (for a neuron
    every position), and at which the error changes. `changes` sums |end - clean| over those positions: the change of
    an activation, the norm of an error's.
    """

    examples: int
    positions: dict[Site, Float[Tensor, "places f_plus_1"]] = field(default_factory=dict)
    changes: dict[Site, Float[Tensor, "places f_plus_1"]] = field(default_factory=dict)

    def add(self, site: Site, moves: Moves, places: Places, features: int) -> None:
        """One more batch of examples at one site."""
        place = places.index.to(moves.row.device).flatten()
        error = moves.error.flatten(0, 1).norm(dim=1)
        row = torch.cat([moves.row, torch.arange(len(error), device=error.device)])
        feature = torch.cat([moves.feature, torch.full((len(error),), features, device=error.device)])
        size = torch.cat([moves.change.abs(), error]).double()
        seen = torch.cat([torch.ones_like(moves.change), (error > 0).to(error)]).double()
        inside = place[row] >= 0
        at = (place[row] * (features + 1) + feature)[inside]
        for totals, values in ((self.positions, seen), (self.changes, size)):
            sums = values.new_zeros(len(places) * (features + 1)).index_add_(0, at, values[inside])
            sums = sums.view(len(places), -1).cpu()
            totals[site] = totals[site] + sums if site in totals else sums

    def on(self, site: Site) -> Bool[Tensor, "places f_plus_1"]:
        """The nodes that are active anywhere."""
        return self.positions[site] > 0

    def mean_change(self, site: Site) -> Float[Tensor, "places f_plus_1"]:
        """Mean over examples of the change that is summed over a place's positions."""
        return self.changes[site] / self.examples


@torch.no_grad()
def activity_on(
    model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples, to: EndPoints, batch_size: int = 16
) -> Activity:
    """The activity of all nodes between the clean prompts and where `to` sends them."""
    activity = Activity(len(examples))
    for batch in examples.batches(batch_size):
        ends = to(model, dictionaries, batch)
        clean: Mapping[Site, Tensor] = site_values(model, list(dictionaries), batch.clean, dictionaries)
        for site, dictionary in dictionaries.items():
            activity.add(site, moves_between(dictionary, clean[site], ends[site]), batch.grouped, dictionary.features)
    return activity
