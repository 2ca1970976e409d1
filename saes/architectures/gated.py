"""Gated sparse autoencoder (Rajamanoharan et al. 2024, arXiv:2404.16014): one part says which, another how much.

s = W_enc (x - b_dec); f = 1[s + b_gate > 0] ReLU(exp(r_mag) s + b_mag). The penalty acts on the gate ReLU(s + b_gate),
which is also decoded by a frozen copy of the decoder, so that it learns to reconstruct. Gated p-annealing is this
module with another penalty.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from saes.architectures.affine import AffineDictionary, Encoded, Shape
from saes.preactivations import PreActivations
from saes.sites import Site


@dataclass(frozen=True)
class GatedConfig(Shape):
    """A Gated dictionary has nothing but its shape."""


class GatedDictionary(AffineDictionary):
    """Parameters: W_enc [F, D], b_gate [F], r_mag [F], b_mag [F], W_dec [F, D], b_dec [D]; no b_enc."""

    architecture = "gated"
    config_type = GatedConfig

    b_enc: None  # type: ignore[assignment]

    def __init__(self, config: Shape, reads: Sequence[Site], writes: Sequence[Site] | None = None, seed: int = 0):
        super().__init__(config, reads, writes, seed)
        self.b_enc = None  # a registered parameter set to None: the two parts have biases of their own
        self.b_gate, self.r_mag, self.b_mag = (nn.Parameter(torch.zeros(config.features)) for _ in range(3))

    def _first_scale(self) -> float:
        return min(1.0, 2 * self.config.width / self.config.features)

    def encoder_bias(self) -> Float[Tensor, "*member f"]:
        if not self.config.center:
            return torch.zeros_like(self.b_gate)
        return -(self.W_enc @ self.encoder_center()[..., None])[..., 0]

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        gate, r, b = (self.over_rows(v) for v in (self.b_gate, self.r_mag, self.b_mag))
        return (r.exp() * pre + b).relu() * (pre + gate > 0)

    def activation_slope(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return (self.activate(pre) != 0) * self.over_rows(self.r_mag).exp()

    def encode_chosen(self, x: Float[Tensor, "*batch d"], index: Tensor) -> Float[Tensor, "*batch chosen"]:
        rows = self.W_enc[index]
        s = x @ rows.T
        if self.config.center:
            s = s - rows @ self.b_dec
        return (self.r_mag[index].exp() * s + self.b_mag[index]).relu() * (s + self.b_gate[index] > 0)

    def training_pass(self, pre: PreActivations) -> Encoded:
        entries = pre.above(-self.b_gate.detach())
        gate = (entries.values + entries.per_feature(self.b_gate)).relu()
        magnitude = entries.per_feature(self.r_mag.exp()) * entries.values + entries.per_feature(self.b_mag)
        return Encoded(entries.with_values(magnitude.relu() * (gate > 0)), entries.with_values(gate))

    def in_feature_units(self) -> list[Tensor]:
        return [self.b_gate, self.b_mag]
