"""What a planted transformer computes, said in features: neurons, heads and a readout that read and write by name.

A feature is a direction of the residual stream. Attributes are written by the embedding of tokens, positions by that
of positions, the others by neurons and heads; all are zero or positive. The true graph follows from these words alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool
from torch import Tensor

LENGTH = 8
"""positions of every prompt; the metric is read at the last"""
BLOCKS = 2
HEADS = 4


@dataclass(frozen=True)
class Neuron:
    """relu(sum of weight * feature + bias), written to features."""

    block: int
    reads: Mapping[str, float]
    bias: float
    writes: Mapping[str, float]


@dataclass(frozen=True)
class Head:
    """Attends where a feature of the key matches one of the query; copies features from there.

    `matches`: (feature of the query, feature of the key); without any, attention is even. `moves`: (feature read at the
    key's position, feature written at the query's, gain).
    """

    block: int
    number: int
    matches: tuple[tuple[str, str], ...]
    moves: tuple[tuple[str, str, float], ...]


@dataclass(frozen=True)
class Wiring:
    """A whole program. `readout` is what the logit difference is made of, positive weights in the answer's logit."""

    attributes: tuple[str, ...]
    neurons: tuple[Neuron, ...]
    heads: tuple[Head, ...]
    readout: Mapping[str, float]

    @property
    def features(self) -> tuple[str, ...]:
        """All names: attributes, positions, then what neurons and heads write, in their order."""
        written = [name for neuron in self.neurons for name in neuron.writes]
        copied = [name for head in self.heads for _, name, _ in head.moves]
        return tuple(dict.fromkeys([*self.attributes, *map(position, range(LENGTH)), *copied, *written]))

    def index(self, names: Mapping[str, float] | tuple[str, ...] | list[str]) -> list[int]:
        """The numbers of some features."""
        every = {name: i for i, name in enumerate(self.features)}
        return [every[name] for name in names]

    def mask(self, names: Mapping[str, float] | tuple[str, ...] | list[str]) -> Bool[Tensor, " f"]:
        """True for some features."""
        mask = torch.zeros(len(self.features), dtype=torch.bool)
        mask[self.index(names)] = True
        return mask

    def in_block(self, block: int) -> tuple[list[Head], list[Neuron]]:
        """The heads and neurons of a block."""
        return [h for h in self.heads if h.block == block], [n for n in self.neurons if n.block == block]

    def through_neurons(self, block: int) -> Bool[Tensor, "written read"]:
        """Which features the MLP of a block makes out of which."""
        relation = torch.zeros(len(self.features), len(self.features), dtype=torch.bool)
        for neuron in self.in_block(block)[1]:
            relation |= self.mask(neuron.writes)[:, None] & self.mask(neuron.reads)
        return relation


def position(number: int) -> str:
    """The feature that says where a token stands."""
    return f"position {number}"


def previous() -> tuple[tuple[str, str], ...]:
    """Matches of a head that looks at the token before (at the first position, at itself)."""
    return tuple((position(i), position(i - 1)) for i in range(1, LENGTH))
