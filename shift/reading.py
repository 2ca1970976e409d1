"""How a classifier reads a prompt: one site, at a position or as the mean over the text (Marks et al. 2024, sec. 4)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.sites import Edit, Site


@dataclass(frozen=True)
class Reading:
    """A site read at each prompt's position, or pooled: averaged over the text that ends there.

    Positions before `start`, such as a token that begins every text, are part of no text: they are neither pooled, nor
    attributed to, nor ablated. Padding stands behind the position, where a causal model cannot look.
    """

    site: Site
    pooled: bool = False
    start: int = 0

    def __post_init__(self) -> None:
        if self.start < 0:
            raise ValueError(f"start is {self.start}: the number of positions before the text, 0 or more")

    def text(self, position: Int[Tensor, " batch"], length: int) -> Bool[Tensor, "batch length"]:
        """Which positions belong to the text of each prompt."""
        at = torch.arange(length, device=position.device)
        return (at >= self.start) & (at <= position[:, None])

    def of(self, x: Float[Tensor, "batch length d"], position: Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """What the classifier sees of the site's activations."""
        position = position.to(x.device)
        if not self.pooled:
            return x[torch.arange(len(x), device=x.device), position]
        text = self.text(position, x.shape[1]).to(x)
        return torch.einsum("bld,bl->bd", x, text / text.sum(1, keepdim=True))

    def kept(self, x: Float[Tensor, "batch length d"], position: Int[Tensor, " batch"]) -> Float[Tensor, "batch d"]:
        """The same to fit and ask heads on: on the CPU, and in float32 at least."""
        return self.of(x, position).to("cpu", torch.promote_types(x.dtype, torch.float32))

    def within(self, edit: Edit) -> Edit:
        """The edit, with positions before `start` left as they are."""
        if not self.start:
            return edit
        return lambda x: torch.cat([x[:, : self.start], edit(x)[:, self.start :]], 1)
