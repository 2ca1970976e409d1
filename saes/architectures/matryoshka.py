"""Matryoshka BatchTopK (Bussmann et al. 2025, arXiv:2503.17547): prefixes of the features are dictionaries themselves.

The loss is the mean over the prefixes of each one's reconstruction error, so early features learn the general and
late ones the particular.
"""

from dataclasses import dataclass
from itertools import accumulate

from saes.architectures.batch_topk import BatchTopKConfig, BatchTopKDictionary


@dataclass(frozen=True)
class MatryoshkaConfig(BatchTopKConfig):
    group_fractions: tuple[float, ...] = (1 / 32, 1 / 16, 1 / 8, 1 / 4, 17 / 32)
    """shares of the features in each group; they add up to 1"""
    group_weights: tuple[float, ...] = ()
    """weight of each prefix's error; empty: the mean over prefixes"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if abs(sum(self.group_fractions) - 1) > 1e-6 or min(self.group_fractions) <= 0:
            raise ValueError(f"group_fractions {self.group_fractions} do not add up to 1")
        if self.group_weights and len(self.group_weights) != len(self.group_fractions):
            raise ValueError(f"{len(self.group_weights)} group_weights for {len(self.group_fractions)} groups")
        if min(b - a for a, b in zip([0, *self.prefixes], self.prefixes, strict=False)) < 1:
            raise ValueError(f"{self.features} features cannot be split into {self.group_fractions}")

    @property
    def prefixes(self) -> list[int]:
        """Number of features in each prefix; the last is F."""
        ends = [int(self.features * share + 1e-9) for share in self.group_fractions[:-1]]
        return [*accumulate(ends), self.features]

    @property
    def weights(self) -> tuple[float, ...]:
        return self.group_weights or (1 / len(self.group_fractions),) * len(self.group_fractions)


class MatryoshkaDictionary(BatchTopKDictionary):
    """Encodes and decodes as BatchTopK does; its objective is `NestedReconstruction`."""

    architecture = "matryoshka"
    config_type = MatryoshkaConfig
