"""Dictionaries: features that read some sites and write an affine reconstruction of some sites.

Affine decoding is the contract that everything rests on: with x = decode(f) + error, a metric's gradient g at
the site gives every feature's linear effect as (change of f) * (g @ W_dec.T), and that of the error node as
(change of error) . g.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from saes.sites import Site, SiteError


class Dictionary(nn.Module):
    """Base of all dictionaries; features need be neither non-negative nor sparse.

    Subclasses set W_dec [F, D] and b_dec [D] and implement encode. `reads` and `writes` are tuples of sites: the
    same one for an SAE, two for a transcoder.
    """

    W_dec: Tensor
    b_dec: Tensor

    def __init__(self, reads: Sequence[Site], writes: Sequence[Site]) -> None:
        super().__init__()
        self.reads, self.writes = tuple(reads), tuple(writes)

    @property
    def site(self) -> Site:
        """The one site that an SAE reads and writes."""
        if len(self.reads) != 1 or self.reads != self.writes:
            raise SiteError(f"a dictionary from {self.reads} to {self.writes} has no single site")
        return self.reads[0]

    @property
    def features(self) -> int:
        return self.W_dec.shape[0]

    @property
    def width(self) -> int:
        """Dimension of what it writes."""
        return self.W_dec.shape[1]

    def encode(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch f"]:
        return self.activate(self.pre_activation(x))

    def encode_chosen(
        self, x: Float[Tensor, "*batch d"], index: Int[Tensor, " chosen"]
    ) -> Float[Tensor, "*batch chosen"]:
        """Some of the features; an architecture whose features do not compete computes only those."""
        return self.encode(x)[..., index]

    def pre_activation(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch f"]:
        """What the activation function is applied to; affine in x."""
        raise NotImplementedError

    def activate(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        """Features from pre-activations."""
        raise NotImplementedError

    def activation_slope(self, pre: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch f"]:
        """Derivative of each feature with respect to its pre-activation."""
        raise NotImplementedError

    def encoder_rows(self, index: Tensor) -> Float[Tensor, "chosen d"]:
        """Gradient of the chosen features' pre-activations with respect to x."""
        raise NotImplementedError

    def decode(self, f: Float[Tensor, "*batch f"]) -> Float[Tensor, "*batch d"]:
        return f @ self.W_dec + self.b_dec

    def bypass(self, x: Float[Tensor, "*batch d_in"]) -> Tensor | None:
        """What the reconstruction holds besides the decoded features: a skip term, or nothing."""
        return None

    def reconstruct(self, x: Float[Tensor, "*batch d_in"]) -> Float[Tensor, "*batch d"]:
        """decode(encode(x)), and the skip term if there is one."""
        decoded, bypass = self.decode(self.encode(x)), self.bypass(x)
        return decoded if bypass is None else decoded + bypass

    def check_width(self, width: int) -> None:
        """SiteError if the site's tensors have another width."""
        if width != self.width:
            raise SiteError(f"site {self.reads[0]}: activations have width {width}, the dictionary {self.width}")


class IdentityDictionary(Dictionary):
    """Every coordinate of the site is a feature (its neurons): decode is the identity and the error is zero."""

    def __init__(self, site: Site, width: int) -> None:
        super().__init__([site], [site])
        self.register_buffer("W_dec", torch.eye(width))
        self.register_buffer("b_dec", torch.zeros(width))

    def pre_activation(self, x: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return x

    def activate(self, pre: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return pre

    def activation_slope(self, pre: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return torch.ones_like(pre)

    def encoder_rows(self, index: Tensor) -> Float[Tensor, "chosen d"]:
        return self.W_dec[index]

    def decode(self, f: Float[Tensor, "*batch d"]) -> Float[Tensor, "*batch d"]:
        return f
