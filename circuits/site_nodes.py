"""Nodes that are whole tensors: the residual stream between blocks, and the neurons of the MLPs' hidden layers.

They are scored by the functions of circuits/component_nodes.py. A node of the residual stream is all of it at a place:
embed, resid_0, resid_1, ...; at all positions together each of them carries everything, so places are what tells. A
hidden layer (mlp_hidden_i, the input of the MLP's output projection) is a source whose dimensions are its neurons.
With method ig-activations each site is moved on its own, from the clean prompt to its end point, the rest follows, and
the gradient on this line counts: in the limit of many steps the scores of a site add up to its exact effect.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.heads import ComponentError
from saes.families import blocks, family_of, find_site, site_widths
from saes.sites import Site


@dataclass(frozen=True)
class SiteNodes:
    """Sites of a model as nodes, in forward order; `sites` begins with the embedding, whether that is a node or not."""

    model: PreTrainedModel
    sites: tuple[Site, ...]
    counts: tuple[int, ...]
    width: int

    @classmethod
    def residual(cls, model: PreTrainedModel) -> "SiteNodes":
        """embed, resid_0, resid_1, ... as wholes."""
        sites = (find_site(model, "embed"), *(block.resid for block in blocks(model)))
        return cls(model, sites, (1,) * len(sites), _width(model, sites))

    @classmethod
    def neurons(cls, model: PreTrainedModel) -> "SiteNodes":
        """The hidden layers mlp_hidden_i; their dimensions are the neurons."""
        if family_of(model).neurons is None:
            raise ComponentError(f"{model.config.model_type}: no neurons in its description, so they are no nodes")
        hidden = tuple(find_site(model, f"mlp_hidden_{i}") for i in range(len(blocks(model))))
        return cls(model, (find_site(model, "embed"), *hidden), (0, *[1] * len(hidden)), _width(model, hidden))

    @property
    def sources(self) -> tuple[str, ...]:
        """Names of the nodes."""
        return tuple(site.name for site, count in zip(self.sites, self.counts, strict=True) if count)

    @property
    def written(self) -> tuple[Site, ...]:
        """Nodes are moved where they are read."""
        return self.sites

    @property
    def alone(self) -> bool:
        """Integrated gradients over activations count at the site that moves alone."""
        return True

    def part(self, index: int, value: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """What is kept of site `index`: all of it."""
        return value

    def write(
        self, index: int, part: Float[Tensor, "*rows d"], chosen: slice = slice(None)
    ) -> Float[Tensor, "*rows 1 d"]:
        """Its only source."""
        return part[..., None, :]

    def write_all(self, index: int, part: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        """All that is at the site."""
        return part


def _width(model: PreTrainedModel, sites: tuple[Site, ...]) -> int:
    """The width of all of them."""
    with torch.no_grad():
        widths = site_widths(model, sites)
    if len(set(widths.values())) > 1:
        listed = ", ".join(f"{site} {width}" for site, width in widths.items())
        raise ComponentError(f"nodes need one width: {listed}")
    return next(iter(widths.values()))
