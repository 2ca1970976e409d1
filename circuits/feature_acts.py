"""What a dictionary sees of a site, with nothing lost: features and the error node that makes up the rest."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.dictionary import Dictionary
from saes.sites import Site, capture

Dictionaries = Mapping[Site, Dictionary]


@dataclass(frozen=True)
class FeatureActs:
    """Site activations as features and error: x == decode(acts) + error."""

    acts: Float[Tensor, "*batch f"]
    error: Float[Tensor, "*batch d"]

    @classmethod
    def of(cls, dictionary: Dictionary, x: Float[Tensor, "*batch d"]) -> "FeatureActs":
        acts = dictionary.encode(x)
        return cls(acts, x - dictionary.decode(acts))

    def compose(self, dictionary: Dictionary) -> Float[Tensor, "*batch d"]:
        """The activations again."""
        return dictionary.decode(self.acts) + self.error

    def __sub__(self, other: "FeatureActs") -> "FeatureActs":
        return FeatureActs(self.acts - other.acts, self.error - other.error)


States = dict[Site, FeatureActs]


@dataclass(frozen=True)
class NodeScores:
    """One number per feature and one per error node; the leading axes are named by whoever makes it."""

    acts: Float[Tensor, "*batch f"]
    error: Float[Tensor, "*batch"]

    def sum_positions(self) -> "NodeScores":
        """Sum over the second axis, positions or places: [batch, length, F] -> [batch, F]."""
        return NodeScores(self.acts.sum(1), self.error.sum(1))

    def mean_examples(self) -> "NodeScores":
        """[batch, ...] -> [...]."""
        return NodeScores(self.acts.mean(0), self.error.mean(0))

    def joined(self) -> Float[Tensor, "*batch f_plus_1"]:
        """Features with the error node as last index."""
        return torch.cat([self.acts, self.error[..., None]], -1)


@torch.no_grad()
def states_of(model: PreTrainedModel, dictionaries: Dictionaries, tokens: Int[Tensor, "batch length"]) -> States:
    """Features and errors at every site of an unmodified forward pass."""
    with capture(model, dictionaries) as values:
        model(input_ids=tokens.to(model.device), use_cache=False)
    for site, dictionary in dictionaries.items():
        dictionary.check_width(values[site].shape[-1])
    return {site: FeatureActs.of(dictionary, values[site]) for site, dictionary in dictionaries.items()}
