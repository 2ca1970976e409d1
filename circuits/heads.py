"""How the attention heads of a block read and write the residual stream.

A head writes z W_O, its share of attention's output; the bias of the output projection belongs to no head. Where a norm
stands behind attention (Gemma 2 and 3, OLMo 2), what is added to the stream is the norm's output, and a head writes its
share of that: z W_O times the norm's weights and the scale that the norm has at this position *in the same run*. The
shares add up to what attention writes, exactly and in every run, so heads are sources like all others. Moving a head
moves its share alone: what the scale changes is spread over the shares of all heads, whose own moves hold it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from circuits.attention import heads_of
from saes.families import Family, find_site
from saes.sites import Site, SiteError

_LARGE = 1e4  # an RMSNorm of this and its weights differ by less than a millionth of epsilon, also in float16


class ComponentError(SiteError):
    """Nodes that a model does not have."""


@dataclass(frozen=True)
class Heads:
    """How the heads of one block read and write; D is the width of the residual stream, d that of a head.

    `reads` is [letter, head, d, D] with letters q, k, v: projection = reads @ norm(stream) + bias. `writes` is
    [head, d, D]: what a head adds to the stream is share @ writes, with share = z, or z times the scale of `after`.
    """

    norm: nn.Module
    projections: tuple[tuple[Site, str], ...]  # the output of each projecting module, and the letters that it holds
    interleaved: bool
    z: Site
    reads: Float[Tensor, "letters heads d_head d"]
    writes: Float[Tensor, "heads d_head d"]
    after: nn.Module | None = None  # the norm behind attention
    out: Float[Tensor, "heads d_head d"] | None = None  # W_O without the norm's weights, where there is one

    def unpack(self, projected: Float[Tensor, "*rows width"], letters: str) -> Float[Tensor, "*rows letters heads d"]:
        """A projecting module's output by letter and head."""
        return _unpacked(projected, len(letters), self.writes.shape[0], self.interleaved)

    def pack(self, parts: Float[Tensor, "*rows letters heads d"]) -> Float[Tensor, "*rows width"]:
        """What `unpack` came from."""
        return (parts.transpose(-3, -2) if self.interleaved else parts).flatten(-3)

    def shares(self, z: Float[Tensor, "*rows width"]) -> Float[Tensor, "*rows heads d_head"]:
        """z by head, times the scale that the norm behind attention gives it."""
        heads = z.unflatten(-1, self.writes.shape[:2])
        if self.after is None or self.out is None:
            return heads
        normed = self.after(torch.einsum("...hk,hkd->...d", heads, self.out))
        plain = torch.einsum("...hk,hkd->...d", heads, self.writes)  # normed is this times a scale
        scale = (normed * plain).sum(-1) / plain.square().sum(-1).clamp_min(torch.finfo(plain.dtype).tiny)
        return heads * scale[..., None, None]


def heads_of_block(model: PreTrainedModel, family: Family, i: int) -> Heads:
    """The heads of block i; ComponentError where they are not linear, or leave a bias that no head owns to a norm."""
    row, out, norm = family.projections, family.heads, family.attn_in
    assert row is not None and out is not None and norm is not None
    count = heads_of(model)[0]
    paths = dict.fromkeys(p.format(i=i) for p in (row.q, row.k, row.v))
    letters = {path: "".join(c for c in "qkv" if getattr(row, c).format(i=i) == path) for path in paths}
    reads = [
        _unpacked(_matrix(model, path).T, len(held), count, row.interleaved).movedim(0, -1)
        for path, held in letters.items()
    ]
    # attention that reads the stream as it is has no norm before it
    before = nn.Identity() if row.q.startswith(f"{norm}.") else model.get_submodule(norm.format(i=i))
    projections = tuple((Site(f"{held}_{i}", path), held) for path, held in letters.items())
    z, path = find_site(model, f"attn_heads_{i}"), out.format(i=i)
    writes = _matrix(model, path).T.unflatten(0, (count, -1))
    if out.startswith(f"{family.attn}."):
        return Heads(before, projections, row.interleaved, z, torch.cat(reads), writes)
    if getattr(model.get_submodule(path), "bias", None) is not None:
        raise ComponentError(f"{path}: its bias goes through a norm and belongs to no head; use heads=False")
    after = model.get_submodule(family.attn.format(i=i))
    with torch.no_grad():
        gain = after(torch.full_like(writes[0, 0], _LARGE))
    return Heads(before, projections, row.interleaved, z, torch.cat(reads), writes * gain, after, writes)


def _unpacked(projected: Tensor, letters: int, heads: int, interleaved: bool) -> Float[Tensor, "*rows letters heads d"]:
    if interleaved:
        return projected.unflatten(-1, (heads, letters, -1)).transpose(-3, -2)
    return projected.unflatten(-1, (letters, heads, -1))


def _matrix(model: PreTrainedModel, path: str) -> Float[Tensor, "out into"]:
    module = model.get_submodule(path)
    if type(module) is nn.Linear:
        return module.weight.detach()
    if isinstance(module, Conv1D):
        return module.weight.detach().T
    raise ComponentError(f"{path}: a {type(module).__name__}; heads need the plain weights of a Linear or a Conv1D")
