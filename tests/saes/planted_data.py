"""Planted dictionaries: rows that are sparse sums of known atoms, as the numeric references of the shared folder."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True)
class Planted:
    """x = z A + mean + noise; z is Bernoulli with log-spaced rates times a shifted exponential magnitude."""

    width: int = 32
    atoms: int = 64
    rarest: float = 0.02
    commonest: float = 0.15
    smallest: float = 0.5
    mean_excess: float = 0.5
    """mean magnitude above the smallest"""
    noise: float = 0.05
    offset: float = 0.3
    """standard deviation of the mean's coordinates"""
    seed: int = 0

    @property
    def rates(self) -> Float[Tensor, " atom"]:
        return torch.logspace(0, 1, self.atoms, base=self.commonest / self.rarest) * self.rarest

    @property
    def directions(self) -> Float[Tensor, "atom d"]:
        # a generator far from those of dictionaries, which would otherwise start from these very atoms
        rows = torch.randn(self.atoms, self.width, generator=torch.Generator().manual_seed(self.seed + 10**9))
        return rows / rows.norm(dim=1, keepdim=True)

    def rows(self, n: int, seed: int = 0) -> Float[Tensor, "n d"]:
        """Rows in float32; another seed draws other rows of the same dictionary."""
        random = torch.Generator().manual_seed(10**9 * (self.seed + 3) + seed)
        on = torch.rand(n, self.atoms, generator=random) < self.rates
        size = self.smallest - self.mean_excess * torch.rand(n, self.atoms, generator=random).clamp_min(1e-9).log()
        mean = self.offset * torch.randn(self.width, generator=torch.Generator().manual_seed(self.seed + 2 * 10**9))
        noise = self.noise * torch.randn(n, self.width, generator=random)
        return (on * size) @ self.directions + mean + noise
