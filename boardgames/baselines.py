"""What a dictionary has to beat: frozen random features, principal components, neurons of both signs.

All of them are dictionaries, so that they are scored by the same code. They have as many features as the dictionary
that they stand beside, or as many as there are.
"""

import torch
from jaxtyping import Float
from torch import Tensor

from saes.architectures import TopKConfig, TopKDictionary
from saes.dictionary import Dictionary
from saes.sites import Site


class SignedBasis(Dictionary):
    """Both signs of the coordinates in an orthonormal basis: 2K features, (x - centre) . v and its negative."""

    def __init__(self, site: Site, basis: Float[Tensor, "k d"], centre: Float[Tensor, " d"]) -> None:
        super().__init__([site], [site])
        self.register_buffer("W_dec", torch.cat([basis, -basis]))
        self.register_buffer("b_dec", centre)

    def pre_activation(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch f"]:
        return (x - self.b_dec) @ self.W_dec.T

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return pre.relu()

    def activation_slope(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        return (pre > 0).to(pre.dtype)

    def encoder_rows(self, index: Tensor) -> Float[Tensor, "chosen d"]:
        return self.W_dec[index]


def principal_components(site: Site, x: Float[Tensor, "rows d"], features: int) -> SignedBasis:
    """Both signs of the directions of largest variance, around the mean."""
    centre = x.double().mean(0)
    covariance = (x.double() - centre).T @ (x.double() - centre)
    directions = torch.linalg.eigh(covariance)[1].T.flip(0)
    return SignedBasis(site, directions[: max(1, features // 2)].to(x.dtype), centre.to(x.dtype))


def signed_neurons(site: Site, x: Float[Tensor, "rows d"], features: int) -> SignedBasis:
    """Both signs of the neurons of largest variance, around zero."""
    loudest = x.double().var(0).argsort(descending=True)[: max(1, features // 2)].sort()[0]
    return SignedBasis(site, torch.eye(x.shape[1], dtype=x.dtype, device=x.device)[loudest], torch.zeros_like(x[0]))


def random_dictionary(
    site: Site, x: Float[Tensor, "rows d"], features: int, l0: float, seed: int = 0
) -> TopKDictionary:
    """Random unit directions around the mean, never trained; the l0 most active of each row fire."""
    k = min(max(1, round(l0)), features)
    dictionary = TopKDictionary(TopKConfig(x.shape[1], features, k=k), [site], seed=seed)
    dictionary.b_dec.data.copy_(x.mean(0))
    return dictionary.requires_grad_(False).to(x.device)
