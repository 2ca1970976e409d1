"""Sets of nodes as rows of numbers, and nodes in the order of their effects: circuits of every size.

A row is (site, place, feature); the error node has the feature number F, as the last column of [places, F + 1]. Rows
are a hundredth of the masks over whole dictionaries that ablation takes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int

from circuits.ablation import Kept, Mask, keep_all
from circuits.activity import Activity
from circuits.feature_acts import Dictionaries
from circuits.selection import Sizes
from saes.sites import Site

Nodes = Int[np.ndarray, "nodes 3"]
Order = Literal["absolute", "signed"]


@dataclass(frozen=True)
class Space:
    """All nodes there are: the sites in forward order with their numbers of features, and the number of places."""

    features: Mapping[Site, int]
    places: int

    @classmethod
    def of(cls, dictionaries: Dictionaries, places: int) -> "Space":
        return cls({site: dictionary.features for site, dictionary in dictionaries.items()}, places)

    @property
    def nominal(self) -> int:
        """How many nodes there are, active or not."""
        return self.places * sum(features + 1 for features in self.features.values())

    def mask(self, nodes: Nodes) -> dict[Site, Kept]:
        """The nodes as masks."""
        masks = {}
        for number, (site, features) in enumerate(self.features.items()):
            _, place, feature = nodes[nodes[:, 0] == number].T
            both = torch.zeros(self.places, features + 1, dtype=torch.bool)
            both[torch.from_numpy(place), torch.from_numpy(feature)] = True
            masks[site] = Kept(both[:, :-1], both[:, -1])
        return masks

    def rows(self, mask: Mask) -> Nodes:
        """The kept nodes, in the order of sites, places and features."""
        found = []
        for number, site in enumerate(self.features):
            place, feature = torch.cat([mask[site].features, mask[site].error[:, None]], 1).nonzero(as_tuple=True)
            found.append(np.stack([np.full(len(place), number), place.numpy(), feature.numpy()], 1))
        return np.concatenate(found) if found else np.empty((0, 3), np.int64)

    def is_error(self, nodes: Nodes) -> np.ndarray:
        """Which rows are error nodes."""
        return nodes[:, 2] == np.array(list(self.features.values()))[nodes[:, 0]]


@dataclass(frozen=True)
class Ranking:
    """Every node that is active in the examples that found it, the one that counts most first."""

    space: Space
    nodes: Nodes

    @classmethod
    def of(cls, space: Space, sizes: Sizes, activity: Activity, order: Order, direction: float = 1.0) -> "Ranking":
        """Nodes by their mean absolute effect, or "signed": those first that the metric needs most.

        `direction` is the sign of m(model) - m(empty). A node that carries the behaviour loses it when it is moved:
        its effect has the other sign.
        """
        mask, values = {}, {}
        for site in space.features:
            active = activity.on(site)
            mask[site] = Kept(active[:, :-1], active[:, -1])
            values[site] = sizes.absolute[site] if order == "absolute" else -direction * sizes.signed[site]
        rows = space.rows(mask)
        size = np.concatenate([values[site][activity.on(site)].cpu().double().numpy() for site in space.features])
        return cls(space, rows[np.argsort(-size, kind="stable")])

    def __len__(self) -> int:
        return len(self.nodes)

    def top(self, size: int) -> Nodes:
        return self.nodes[:size]

    def mask(self, size: int, dictionaries: Dictionaries) -> Mask:
        """The first `size` nodes; from the number of active ones on everything, inactive nodes included."""
        return keep_all(dictionaries, self.space.places) if size >= len(self) else self.space.mask(self.top(size))


def log_sizes(total: int, per_decade: int) -> list[int]:
    """0, about `per_decade` sizes for every factor of ten, and `total`."""
    if total < 1:
        return [0]
    steps = max(2, 1 + round(per_decade * np.log10(total)))
    return sorted({0, total, *np.geomspace(1, total, steps).round().astype(int).tolist()})
