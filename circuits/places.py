"""Places: which positions of a prompt are one node. All of them, each by itself, or named spans (Haklay et al. 2025).

A node is a feature, error, head or neuron *at a place*; its effect is the sum over the place's positions, and ablating
it ablates it there. Spans align examples of different lengths: "the subject" is a place of all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

EVERYWHERE = "all"


@dataclass(frozen=True)
class Places:
    """The place of every position: an index into `names`, or -1 where there is none (padding)."""

    names: tuple[str, ...]
    index: Int[Tensor, "batch length"]

    def __post_init__(self) -> None:
        if len(set(self.names)) != len(self.names):
            twice = sorted({name for name in self.names if self.names.count(name) > 1})
            raise ValueError(f"places: {', '.join(twice)} is named twice")
        if self.index.numel() and not -1 <= int(self.index.min()) <= int(self.index.max()) < len(self.names):
            wrong = int(self.index.max()) if int(self.index.min()) >= -1 else int(self.index.min())
            raise ValueError(f"places: position of place {wrong}, but there are {len(self.names)} places")

    @classmethod
    def summed(cls, lengths: Int[Tensor, " batch"], length: int) -> "Places":
        """All positions of an example are one place."""
        inside = torch.arange(length) < lengths.cpu()[:, None]
        return cls((EVERYWHERE,), inside.long() - 1)

    @classmethod
    def each(cls, lengths: Int[Tensor, " batch"], length: int) -> "Places":
        """Every position is a place of its own, named by its number."""
        steps = torch.arange(length)
        return cls(tuple(map(str, range(length))), torch.where(steps < lengths.cpu()[:, None], steps, -1))

    @classmethod
    def spans(cls, names: Sequence[str], starts: Int[Tensor, "batch spans_plus_1"], length: int) -> "Places":
        """Span i of an example runs from starts[i] up to starts[i + 1]; the last column is the example's length."""
        steps = torch.arange(length)
        index = (steps[None, :, None] >= starts[:, None, :]).sum(-1) - 1
        return cls(tuple(names), torch.where(steps < starts[:, -1:], index, -1))

    def __len__(self) -> int:
        """How many places there are."""
        return len(self.names)

    def take(self, examples: Int[Tensor, " chosen"]) -> "Places":
        """The places of some examples, repeats allowed."""
        return Places(self.names, self.index[examples])

    def number(self, name: str) -> int:
        """The index of a place; ValueError for one that is not there."""
        if name not in self.names:
            raise ValueError(f"place {name!r}: these examples have {', '.join(self.names)}")
        return self.names.index(name)

    def sum(self, values: Float[Tensor, "batch length *rest"]) -> Float[Tensor, "batch places *rest"]:
        """Sums over the positions of every place; positions without a place are left out."""
        index = self.index.to(values.device)
        total = values.new_zeros(values.shape[0], len(self.names) + 1, *values.shape[2:])
        rows = torch.arange(len(values), device=values.device)[:, None].expand_as(index)
        return total.index_put((rows, index), values, accumulate=True)[:, :-1]  # index -1 is the row that goes

    def spread(
        self, values: Shaped[Tensor, "places *rest"], otherwise: float = 0.0
    ) -> Shaped[Tensor, "batch length *rest"]:
        """The value of its place at every position, and `otherwise` where there is none."""
        extra = torch.full_like(values[:1], otherwise)
        return torch.cat([values, extra])[self.index.to(values.device)]
