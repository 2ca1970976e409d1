"""ReLU sparse autoencoder (Bricken et al. 2023, "Towards Monosemanticity"; April update: Conerly et al. 2024).

f = ReLU(W_enc (x - b_dec) + b_enc). Unit-norm decoder rows with an L1 penalty are the former; `unit_norm=False` with
the penalty weighted by decoder norms is the latter; p-annealing (Karvonen et al. 2024) trains the same module.
"""

from dataclasses import dataclass

from jaxtyping import Float, Int
from torch import Tensor

from saes.architectures.affine import AffineDictionary, Encoded, Shape
from saes.preactivations import PreActivations


@dataclass(frozen=True)
class ReLUConfig(Shape):
    """A ReLU dictionary has nothing but its shape."""


class ReLUDictionary(AffineDictionary):
    """Features that do not compete: each is on where its own pre-activation is positive."""

    architecture = "relu"
    config_type = ReLUConfig

    def _first_scale(self) -> float:
        # tied rows, half of them active, sum to about x: sum_i ReLU(d_i.x) d_i = F / 2D x
        return min(1.0, 2 * self.config.width / self.config.features)

    def encode_chosen(
        self, x: Float[Tensor, "*batch d"], index: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        rows, bias = self.W_enc[index], self.b_enc[index]
        return (x @ rows.T + (bias - rows @ self.b_dec if self.config.center else bias)).relu()

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return pre.relu()

    def activation_slope(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return (pre > 0).to(pre)

    def training_pass(self, pre: PreActivations) -> Encoded:
        entries = pre.above(0.0)
        features = entries.with_values(entries.values.relu())
        return Encoded(features, features)
