"""Crosscoder (Lindsey et al. 2024, "Sparse Crosscoders"): one set of features for several sites at once.

The sites' activations stand side by side; each feature has an encoder and a decoder row over all of them, and its
penalty is weighted by the sum over the sites of the norms of its decoder parts.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures.affine import Shape
from saes.architectures.relu import ReLUDictionary
from saes.initialise import Normalise, scale_of
from saes.sites import Site


@dataclass(frozen=True)
class CrosscoderConfig(Shape):
    widths: tuple[int, ...] = ()
    """width of each site, in order; they add up to `width`"""
    unit_norm: bool = False
    """the split of a feature's norm over the sites is what a crosscoder shows"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if sum(self.widths) != self.width:
            raise ValueError(f"widths {self.widths} of the sites do not add up to width {self.width}")


class CrosscoderDictionary(ReLUDictionary):
    """ReLU features over the concatenation of all sites; features are in units of normalised activations."""

    architecture = "crosscoder"
    config_type = CrosscoderConfig
    config: CrosscoderConfig

    def __init__(
        self, config: CrosscoderConfig, reads: Sequence[Site], writes: Sequence[Site] | None = None, seed: int = 0
    ):
        if len(reads) != len(config.widths):
            raise ValueError(f"{len(reads)} sites for {len(config.widths)} widths")
        super().__init__(config, reads, writes, seed)

    def split(self, y: Float[Tensor, "*batch d"]) -> dict[Site, Tensor]:
        """What of a reconstruction belongs to which site."""
        return dict(zip(self.writes, y.split(self.config.widths, dim=-1), strict=True))

    def decoder_norms(self) -> Float[Tensor, "*member f"]:
        parts = self.W_dec.split(self.config.widths, dim=-1)
        return torch.stack([part.norm(dim=-1) for part in parts]).sum(0)

    def scale_of(self, x: Float[Tensor, "sample d"], normalise: Normalise) -> Float[Tensor, " d"]:
        """Each site is brought to the same norm, so that no site's reconstruction counts for more."""
        scales = [scale_of(part, normalise) for part in x.split(self.config.widths, dim=1)]
        return torch.tensor(scales, dtype=x.dtype, device=x.device).repeat_interleave(
            torch.tensor(self.config.widths, device=x.device)
        )

    @torch.no_grad()
    def fold_scale(self, scale_in: Tensor, scale_out: Tensor) -> None:
        self.W_enc /= scale_in
        self.W_dec *= scale_out
        self.b_dec *= scale_out
