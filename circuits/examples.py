"""What a circuit is found on: prompts, their counterfactuals, where the metric is read, and places of positions."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
from jaxtyping import Int
from torch import Tensor

from circuits.places import Places


@dataclass(frozen=True)
class Examples:
    """Clean prompts, their counterfactuals (None for single prompts), and where the metric is read.

    Prompts of different length are padded behind their end; `lengths` tells how many tokens count (by default all).
    A pair has the same length. `fields` holds what the metric needs of each example, first axis = example. `places`
    groups positions into nodes, by default all of them together.
    """

    clean: Int[Tensor, "batch length"]
    patch: Int[Tensor, "batch length"] | None
    position: Int[Tensor, " batch"]
    fields: Mapping[str, Tensor]
    lengths: Int[Tensor, " batch"] | None = None
    places: Places | None = None

    def __post_init__(self) -> None:
        if self.patch is not None and self.patch.shape != self.clean.shape:
            raise ValueError(
                f"clean prompts have shape {list(self.clean.shape)} and patch prompts {list(self.patch.shape)}: "
                "a pair must have the same length"
            )
        for name, value in {"position": self.position, "lengths": self.lengths, **self.fields}.items():
            if value is not None and len(value) != len(self.clean):
                raise ValueError(f"{name} has {len(value)} entries for {len(self.clean)} examples")
        if self.places is not None and self.places.index.shape != self.clean.shape:
            raise ValueError(
                f"places are of shape {list(self.places.index.shape)}, the prompts of {list(self.clean.shape)}"
            )
        beyond = (self.position >= self.ends).nonzero().flatten().tolist()
        if beyond:
            i = beyond[0]
            raise ValueError(
                f"example {i}: the metric is read at position {int(self.position[i])} of {int(self.ends[i])} tokens"
            )

    def __len__(self) -> int:
        return len(self.clean)

    @property
    def ends(self) -> Int[Tensor, " batch"]:
        """How many tokens of each prompt count."""
        return torch.full((len(self.clean),), self.clean.shape[1]) if self.lengths is None else self.lengths

    @property
    def grouped(self) -> Places:
        """The places of the positions."""
        return Places.summed(self.ends, self.clean.shape[1]) if self.places is None else self.places

    def by_position(self) -> "Examples":
        """The same examples with every position a place of its own."""
        return replace(self, places=Places.each(self.ends, self.clean.shape[1]))

    def take(self, index: Int[Tensor, " chosen"]) -> "Examples":
        """The examples at `index`, repeats allowed."""
        return Examples(
            self.clean[index],
            None if self.patch is None else self.patch[index],
            self.position[index],
            {name: value[index] for name, value in self.fields.items()},
            None if self.lengths is None else self.lengths[index],
            None if self.places is None else self.places.take(index),
        )

    def repeat(self, times: int) -> "Examples":
        """All examples, `times` times over."""
        return self.take(torch.arange(len(self)).repeat(times))

    def batches(self, size: int) -> "list[Examples]":
        """Consecutive pieces of at most `size` examples."""
        return [self.take(index) for index in torch.arange(len(self)).split(size)]

    def mask(self) -> Tensor:
        """[batch, length]: whether a position holds a token of the prompt."""
        return torch.arange(self.clean.shape[1]) < self.ends[:, None]
