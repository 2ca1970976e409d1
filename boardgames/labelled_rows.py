"""Rows of tokens as a model reads them, the positions of them that are scored, and what is true of each position."""

from dataclasses import dataclass

from jaxtyping import Bool, Int
from torch import Tensor

from boardgames.game import Labels


@dataclass(frozen=True)
class LabelledRows:
    """Row n of the labels belongs to the n-th position of `mask`, row by row."""

    tokens: Int[Tensor, "rows length"]
    played: Bool[Tensor, "rows length"]
    """not padding"""
    mask: Bool[Tensor, "rows length"]
    """scored"""
    labels: Labels
    groups: dict[str, int]
    """names of groups of properties and their numbers of columns, in the order of the columns"""

    def first_half(self) -> tuple[Int[Tensor, "some length"], Bool[Tensor, "some length"]]:
        """All tokens of the first half of the rows, of 1,000 at most: of such games the original takes its maxima."""
        half = min(max(1, len(self.tokens) // 2), 1000)
        return self.tokens[:half], self.played[:half]
