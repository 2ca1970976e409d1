"""Effects that travel along single edges (Marks et al. 2024, section 3.2), the sites in between held fixed.

The edge from upstream node u to downstream node d is (gradient of the metric at d) * (derivative of d with respect to
u) * (change of u). What a node reads decides how that derivative is taken:

* into the residual stream, *virtual*: the stream is a sum, so the derivative is a dot product of weights;
* into an MLP, *local*: a vector-Jacobian product through LayerNorm and MLP, each position by itself;
* into attention, *crossing*: a batched vector-Jacobian product through LayerNorm and attention, over positions.

Edges are summed over positions at both ends and averaged over examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel
from transformers import PreTrainedModel

from circuits.attribution import NodeEffects
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from saes.dictionary import Dictionary
from saes.families import blocks, find_site
from saes.sites import Site, capture, intervene

Slope = Literal["secant", "clean"]
Edges = dict[tuple[Site, Site], Float[Tensor, "down up"]]  # last index of both axes = the error node

_VJP_CHUNK = 32  # cotangents carried through attention at once; bounds memory


@dataclass(frozen=True)
class Chosen:
    """Which nodes of a site take part: some features, and the error node or not."""

    features: Int[Tensor, " chosen"]
    error: bool

    def __len__(self) -> int:
        return len(self.features) + self.error


def edge_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    nodes: NodeEffects,
    chosen: Mapping[Site, Chosen],
    *,
    slope: Slope = "secant",
    mask: Mapping[Site, Tensor] | None = None,
) -> Edges:
    """All edges between the chosen nodes, as matrices [downstream, upstream] whose last index is the error node.

    Rows and columns follow `chosen[site].features`, then the error node (always present in the matrix, zero where it
    is not chosen). `slope` is the derivative of a downstream feature with respect to its pre-activation: at the clean
    point, as the original code has it, or the secant between clean and patch, with which the edges into a node of the
    residual stream add up to the node's effect. `mask[site]` [batch, length, F + 1] leaves out downstream nodes of
    single examples and positions.
    """
    edges: Edges = {}
    for index, block in enumerate(blocks(model)):
        middle = block.before if block.parallel else find_site(model, f"resid_mid_{index}")
        paths = [
            (block.resid, None, [block.mlp, block.attn, block.before]),
            (block.mlp, middle, [block.before] if block.parallel else [block.attn, block.before]),
            (block.attn, block.before, [block.before]),
        ]
        for down, reads, ups in paths:
            ups = [up for up in ups if up in dictionaries and up in chosen]
            if down not in dictionaries or down not in chosen or not ups:
                continue
            rows_KBLD = _cotangents(dictionaries[down], down, nodes, chosen[down], slope, (mask or {}).get(down))
            if reads is not None:
                rows_KBLD = _through(model, examples, reads, down, rows_KBLD)
            for up in ups:
                edges[up, down] = _contract(rows_KBLD, dictionaries[up], up, nodes, chosen[up])
    return edges


def _slopes(dictionary: Dictionary, site: Site, nodes: NodeEffects, slope: Slope) -> Float[Tensor, "batch length f"]:
    """Derivative of every feature with respect to its pre-activation."""
    clean = dictionary.pre_activation(nodes.clean[site].compose(dictionary))
    at_clean = dictionary.activation_slope(clean)
    if slope == "clean":
        return at_clean
    change_pre = dictionary.pre_activation(nodes.patch[site].compose(dictionary)) - clean
    change = nodes.patch[site].acts - nodes.clean[site].acts
    moved = change_pre.abs() > 1e-12
    return torch.where(moved, change / torch.where(moved, change_pre, 1.0), at_clean)


@torch.no_grad()
def _cotangents(
    dictionary: Dictionary, site: Site, nodes: NodeEffects, chosen: Chosen, slope: Slope, mask: Tensor | None
) -> Float[Tensor, "nodes batch length d"]:
    """The gradient of the metric through each chosen node (and last the error node) to the site's tensor."""
    gradient = nodes.gradients[site]
    weight_BLF = (gradient @ dictionary.W_dec.T) * _slopes(dictionary, site, nodes, slope)
    rows = dictionary.encoder_rows(chosen.features)
    features = weight_BLF[..., chosen.features].permute(2, 0, 1)[..., None] * rows[:, None, None]
    # error = x - decode(encode(x)), so what reaches it is the gradient less what passes through all the features
    every = torch.arange(dictionary.features, device=gradient.device)
    error = gradient - weight_BLF @ dictionary.encoder_rows(every) if chosen.error else torch.zeros_like(gradient)
    stacked = torch.cat([features, error[None]])
    if mask is not None:
        index = torch.cat([chosen.features, chosen.features.new_tensor([dictionary.features])])
        stacked = stacked * mask[..., index].permute(2, 0, 1)[..., None]
    return stacked


def _through(
    model: PreTrainedModel, examples: Examples, reads: Site, writes: Site, rows: Float[Tensor, "nodes batch length d"]
) -> Float[Tensor, "nodes batch length d"]:
    """Vector-Jacobian products of the path from `reads` to `writes`, at the clean prompt."""
    tokens = examples.clean.to(model.device)
    leaves: list[Tensor] = []

    def leaf(x: Tensor) -> Tensor:
        leaves.append(x.detach().requires_grad_())
        return leaves[-1]

    # the fused attention kernels have no batched backward pass
    with sdpa_kernel(SDPBackend.MATH), torch.enable_grad(), intervene(model, {reads: leaf}):
        with capture(model, [writes]) as values:
            model(input_ids=tokens, use_cache=False)
        pieces = [
            torch.autograd.grad(values[writes], leaves[0], chunk, is_grads_batched=True, retain_graph=True)[0]
            for chunk in rows.split(_VJP_CHUNK)
        ]
    return torch.cat(pieces)


@torch.no_grad()
def _contract(
    rows: Float[Tensor, "nodes batch length d"], dictionary: Dictionary, site: Site, nodes: NodeEffects, chosen: Chosen
) -> Float[Tensor, "down up"]:
    """Multiply by the change of every upstream node, sum over positions, average over examples."""
    change = nodes.patch[site] - nodes.clean[site]
    change_BLI = change.acts[..., chosen.features]
    to_features = torch.einsum("kbli,bli->ki", rows @ dictionary.W_dec[chosen.features].T, change_BLI)
    to_error = torch.einsum("kbld,bld->k", rows, change.error) if chosen.error else rows.new_zeros(len(rows))
    return torch.cat([to_features, to_error[:, None]], 1) / rows.shape[1]
