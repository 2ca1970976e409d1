"""JumpReLU sparse autoencoder (Rajamanoharan et al. 2024, arXiv:2407.14435): each feature has a threshold it learns.

f = pre 1[pre > threshold], with straight-through gradients for the threshold from a rectangle kernel on the
*pre-activation*. The L0 penalty that belongs to it is saes.penalties.L0.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.architectures.affine import AffineDictionary, Encoded, Shape
from saes.preactivations import PreActivations
from saes.sites import Site


@dataclass(frozen=True)
class JumpReLUConfig(Shape):
    bandwidth: float = 0.03
    """width of the kernel, in the units in which the dictionary is trained (unit mean square norm by default)"""
    first_threshold: float = 0.03
    step_on: Literal["pre_activation", "feature"] = "pre_activation"
    """what L0's straight-through gradient looks at; `feature`, which loses half of the kernel, replicates
    dictionary_learning, as does not holding thresholds at 0 or above"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.bandwidth <= 0:
            raise ValueError(f"bandwidth is {self.bandwidth}: choose a value above 0")


class JumpReLUDictionary(AffineDictionary):
    """Parameters: those of all dictionaries and threshold [F], in units of the features."""

    architecture = "jumprelu"
    config_type = JumpReLUConfig
    config: JumpReLUConfig

    def __init__(
        self, config: JumpReLUConfig, reads: Sequence[Site], writes: Sequence[Site] | None = None, seed: int = 0
    ):
        super().__init__(config, reads, writes, seed)
        self.threshold = nn.Parameter(torch.full((config.features,), config.first_threshold))

    def _first_scale(self) -> float:
        return min(1.0, 2 * self.config.width / self.config.features)

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return pre.relu() * (pre > self.over_rows(self.threshold))

    def encode_chosen(self, x: Float[Tensor, "*batch d"], index: Tensor) -> Float[Tensor, "*batch chosen"]:
        rows, bias = self.W_enc[index], self.b_enc[index]
        pre = x @ rows.T + (bias - rows @ self.b_dec if self.config.center else bias)
        return pre.relu() * (pre > self.threshold[index])

    def training_pass(self, pre: PreActivations) -> Encoded:
        width, on_feature = self.config.bandwidth, self.config.step_on == "feature"
        # below this neither a feature nor its threshold has a gradient; a Step on the feature sees silent ones as well
        entries = pre.above(-torch.inf if on_feature else self.threshold.detach() - width / 2)
        threshold = entries.per_feature(self.threshold)
        features = _JumpReLU.apply(entries.values, threshold, width)
        firing = _Step.apply(features if on_feature else entries.values, threshold, width)
        kept = entries.with_values(features)  # type: ignore[arg-type]
        return Encoded(kept, kept, entries.with_values(firing))  # type: ignore[arg-type]

    @torch.no_grad()
    def constrain(self) -> None:
        if self.config.step_on == "pre_activation":
            self.threshold.clamp_min_(0)  # below 0 training would decode features that inference does not have

    def in_feature_units(self) -> list[Tensor]:
        return [self.b_enc, self.threshold]


class _JumpReLU(torch.autograd.Function):
    """pre 1[pre > threshold]; d/dthreshold = -threshold / width inside the window (the paper's equation 11)."""

    @staticmethod
    def forward(ctx: Any, pre: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(pre, threshold)
        ctx.width = width
        return pre * (pre > threshold)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, Tensor, None]:
        pre, threshold = ctx.saved_tensors
        g = gradients[0]
        window = (pre - threshold).abs() < ctx.width / 2
        at_threshold = (-g * window * threshold / ctx.width).sum_to_size(threshold.shape)
        return g * (pre > threshold), at_threshold, None


class _Step(torch.autograd.Function):
    """1[x > threshold]; d/dthreshold = -1 / width inside the window (equation 12), nothing for x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, threshold: Tensor, width: float) -> Tensor:
        ctx.save_for_backward(x, threshold)
        ctx.width = width
        return (x > threshold).to(x)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, Tensor, None]:
        x, threshold = ctx.saved_tensors
        window = (x - threshold).abs() < ctx.width / 2
        return None, (-gradients[0] * window / ctx.width).sum_to_size(threshold.shape), None
