"""TopK sparse autoencoder (Gao et al. 2024, arXiv:2406.04093): the k largest positive features of each row."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.affine import AffineDictionary, Encoded, Shape
from saes.entries import Entries
from saes.preactivations import PreActivations
from saes.sites import Site


@dataclass(frozen=True)
class TopKConfig(Shape):
    k: int = 32
    """number of features that a row may use (BatchTopK: on average)"""
    threshold_decay: float = 0.999
    """of the moving average of the smallest activation kept in training: the threshold of inference"""
    threshold_start: int = 0
    """steps before the average starts"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.k <= self.features:
            raise ValueError(f"k is {self.k}: choose between 1 and the number of features, {self.features}")


class CompetingDictionary(AffineDictionary):
    """Base of dictionaries whose features compete. Buffer: threshold [] (-1 until it was first measured)."""

    config: TopKConfig
    threshold: Tensor

    def __init__(self, config: TopKConfig, reads: Sequence[Site], writes: Sequence[Site] | None = None, seed: int = 0):
        super().__init__(config, reads, writes, seed)
        self.register_buffer("threshold", torch.tensor(-1.0))

    @property
    def ks(self) -> list[int]:
        """k of each member."""
        return [config.k for config in self.member_configs if isinstance(config, TopKConfig)]

    def smallest_kept(self, features: Entries) -> Float[Tensor, " member"]:
        """What the threshold averages over steps."""
        raise NotImplementedError

    @torch.no_grad()
    def observe(self, features: Entries, step: int) -> None:
        if step < self.config.threshold_start:
            return
        smallest, decay = self.smallest_kept(features), self.config.threshold_decay
        average = decay * self.threshold + (1 - decay) * smallest
        self.threshold.copy_(torch.where(self.threshold < 0, smallest, average))

    @torch.no_grad()
    def fold_scale(self, scale_in: Tensor, scale_out: Tensor) -> None:
        measured = self.threshold >= 0
        super().fold_scale(scale_in, scale_out)
        self.threshold.copy_(torch.where(measured, self.threshold * scale_in, self.threshold))


class TopKDictionary(CompetingDictionary):
    """Training and inference keep the same features: the k largest positive ones of a row."""

    architecture = "topk"
    config_type = TopKConfig

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        kept, index = pre.relu().topk(self.config.k, dim=-1)
        return torch.zeros_like(pre).scatter(-1, index, kept)

    def training_pass(self, pre: PreActivations) -> Encoded:
        features = pre.top(self.ks)
        return Encoded(features, features)

    def smallest_kept(self, features: Entries) -> Float[Tensor, " member"]:
        ranks = features.layout.ranks
        smallest = ranks.smallest(smallest_positive(features), over_rows=False)
        return ranks.mean_rows(smallest.nan_to_num(0.0, posinf=0.0).mean(1))


def smallest_positive(features: Entries) -> Float[Tensor, "member batch"]:
    """Of each row, among this rank's features; infinite if a row has none."""
    layout = features.layout
    rows = features.values.new_full((layout.members * layout.batch,), torch.inf)
    positive = features.values.masked_fill(features.values <= 0, torch.inf)
    if positive.dim() == 3:
        return positive.amin(-1)
    if positive.dim() == 2:
        return positive.amin(-1).view(layout.members, layout.batch)
    return rows.scatter_reduce(0, layout.rows, positive, "amin").view(layout.members, layout.batch)  # type: ignore[union-attr]
