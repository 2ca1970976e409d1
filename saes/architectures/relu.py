"""ReLU sparse autoencoder with unit-norm decoder rows (Bricken et al. 2023, "Towards Monosemanticity").

f = ReLU(W_enc (x - b_dec) + b_enc), reconstruction = f W_dec + b_dec. The penalty is a part of the objective, so
plain L1 and p-annealing (Karvonen et al. 2024) train this same module.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saes.dictionary import Dictionary
from saes.sites import Site


@dataclass(frozen=True)
class ReLUConfig:
    width: int
    """D, the width of the site"""
    features: int
    """F"""

    def __post_init__(self) -> None:
        if self.width < 1 or self.features < 1:
            raise ValueError(
                f"a dictionary needs width and features of at least 1, not {self.width} and {self.features}"
            )


class ReLUDictionary(Dictionary):
    """Parameters: W_enc [F, D], b_enc [F], W_dec [F, D] (unit rows), b_dec [D] (also subtracted at the input)."""

    architecture = "relu"

    def __init__(self, config: ReLUConfig, sites: Sequence[Site], seed: int = 0) -> None:
        super().__init__(sites, sites)
        self.config = config
        rows = torch.randn(config.features, config.width, generator=torch.Generator().manual_seed(seed))
        rows /= rows.norm(dim=1, keepdim=True)
        self.W_dec = nn.Parameter(rows)
        # tied, and scaled so that random rows, half of them active, sum to about x: sum_i ReLU(d_i.x) d_i = F / 2D x
        self.W_enc = nn.Parameter(rows * min(1.0, 2 * config.width / config.features))
        self.b_enc = nn.Parameter(torch.zeros(config.features))
        self.b_dec = nn.Parameter(torch.zeros(config.width))

    def pre_activation(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch f"]:
        # W (x - b) + b_enc = W x + (b_enc - W b): the same gradients without a second pass over x
        return x @ self.W_enc.T + (self.b_enc - self.W_enc @ self.b_dec)

    def encode_chosen(
        self, x: Float[Tensor, "*batch d"], index: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        rows = self.W_enc[index]
        return (x @ rows.T + (self.b_enc[index] - rows @ self.b_dec)).relu()

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return pre.relu()

    def activation_slope(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return (pre > 0).to(pre)

    def encoder_rows(self, index: Tensor) -> Float[Tensor, "chosen d"]:
        return self.W_enc[index]

    @torch.no_grad()
    def fold_scale(self, scale: float) -> None:
        """Turn a dictionary of x / scale into the same dictionary of x, exactly; features grow by `scale`."""
        self.b_enc *= scale
        self.b_dec *= scale
