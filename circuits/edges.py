"""Effects that travel along single edges (Marks et al. 2024, section 3.2), the sites in between held fixed.

The edge from upstream node u to downstream node d is (gradient of the metric at d) * (derivative of d with respect to
u) * (change of u). What a node reads decides how that derivative is taken:

* into the residual stream, *virtual*: the stream is a sum, so the derivative is a dot product of weights;
* into an MLP, *local*: a vector-Jacobian product through LayerNorm and MLP, each position by itself;
* into attention, *crossing*: a batched vector-Jacobian product through LayerNorm and attention, over positions.

Edges are summed over the positions of the places at both ends and averaged over examples. Nothing here grows faster
than the number of examples.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.attribution import NodeEffects, SiteEffects, site_values
from circuits.cotangents import Cotangents
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.places import Places
from circuits.suffix import stream_sites
from circuits.vjp import BlockPaths, Derivative
from saes.dictionary import Dictionary
from saes.families import Block, blocks, find_site
from saes.sites import Site

Edges = dict[tuple[Site, Site], Float[Tensor, "down up"]]

_ROWS = 1 << 22  # numbers in a piece of cotangents that go through a block at once; bounds memory


@dataclass(frozen=True)
class Chosen:
    """The nodes of a site that take part: features at places, then error nodes at places. Matrices have this order."""

    features: Int[Tensor, " n"]
    places: Int[Tensor, " n"]
    errors: Int[Tensor, " m"]
    """places whose error node takes part"""

    def __len__(self) -> int:
        return len(self.features) + len(self.errors)

    @classmethod
    def every(cls, features: int, places: int = 1) -> "Chosen":
        """All features at all places, place by place, and all errors."""
        return cls(
            torch.arange(features).repeat(places),
            torch.arange(places).repeat_interleave(features),
            torch.arange(places),
        )


def wiring(model: PreTrainedModel, index: int, block: Block) -> list[tuple[Site, Site | None, list[Site]]]:
    """The sites of a block, what each reads the stream from (None: the stream itself), and what may write there."""
    middle = block.before if block.parallel else find_site(model, f"resid_mid_{index}")
    return [
        (block.resid, None, [block.mlp, block.attn, block.before]),
        (block.mlp, middle, [block.before] if block.parallel else [block.attn, block.before]),
        (block.attn, block.before, [block.before]),
    ]


def edge_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    nodes: NodeEffects,
    chosen: Mapping[Site, Chosen],
    *,
    derivative: Derivative = "full",
    mask: Mapping[Site, Tensor] | None = None,
) -> Edges:
    """All edges between the chosen nodes, as matrices [downstream, upstream] in the order of `chosen`.

    With the secant slope (node_effects), a single position per place and the full derivative, the edges into a node of
    the residual stream add up to its effect; with "path" (and a dictionary at every site) those into a node of
    attention or an MLP do, too, as far as POINTS points tell. "frozen" holds attention patterns and norms as they are
    in the clean pass. `mask[site]` [batch, length, F + 1] weighs downstream nodes of single examples and positions.
    """
    edges: Edges = {}
    places = examples.grouped
    clean = site_values(model, stream_sites(model), examples.clean)
    for index, block in enumerate(blocks(model)):
        for down, reads, writers in wiring(model, index, block):
            ups = [up for up in writers if up in nodes and len(chosen.get(up, ()))]
            if down not in nodes or not len(chosen.get(down, ())) or not ups:
                continue
            rows = Cotangents.of(dictionaries[down], nodes[down], chosen[down], places, (mask or {}).get(down))
            if reads is None:
                for up in ups:
                    edges[up, down] = _virtual(rows, dictionaries[up], nodes[up], chosen[up], places)
                continue
            parts: dict[Site, list[Tensor]] = {up: [] for up in ups}
            line = None
            if derivative == "path":
                line = torch.stack([nodes[up].moves.shift for up in writers if up in nodes]).sum(0)
            paths = BlockPaths(model, examples, block, reads, down, clean[block.before], derivative, line)
            for piece in rows.pieces(max(1, _ROWS // (paths.points * rows.numbers_each))):
                through = paths.back(piece)
                for up in ups:
                    parts[up].append(_contract(through, dictionaries[up], nodes[up], chosen[up], places))
            edges |= {(up, down): torch.cat(parts[up]) for up in ups}
    return edges


@torch.no_grad()
def _virtual(
    rows: Cotangents, dictionary: Dictionary, up: SiteEffects, chosen: Chosen, places: Places
) -> Float[Tensor, "down up"]:
    """Same position, no module in between: weights[down feature] . weights[up feature], times numbers per position."""
    change_UBL = _changes(up, chosen, places)
    decoder = dictionary.W_dec[chosen.features]
    overlap = torch.einsum("kbl,ubl->ku", rows.weights, change_UBL) * (rows.encoder @ decoder.T)
    to_errors = _at_places(
        rows.weights * torch.einsum("kd,bld->kbl", rows.encoder, up.moves.error), places, chosen.errors
    )
    features = torch.cat([overlap, to_errors], 1)
    if not len(rows.error_places):
        return features / rows.batch
    through_error = rows.error_rows()
    errors = _contract(through_error, dictionary, up, chosen, places) * rows.batch
    return torch.cat([features, errors]) / rows.batch


@torch.no_grad()
def _contract(
    rows: Float[Tensor, "nodes batch length d"], dictionary: Dictionary, up: SiteEffects, chosen: Chosen, places: Places
) -> Float[Tensor, "down up"]:
    """Multiply by the change of every upstream node, sum over its place, average over examples."""
    change_UBL = _changes(up, chosen, places)
    to_features = torch.einsum("kblu,ubl->ku", rows @ dictionary.W_dec[chosen.features].T, change_UBL)
    to_errors = _at_places(torch.einsum("kbld,bld->kbl", rows, up.moves.error), places, chosen.errors)
    return torch.cat([to_features, to_errors], 1) / rows.shape[1]


def _changes(up: SiteEffects, chosen: Chosen, places: Places) -> Float[Tensor, "up batch length"]:
    """The change of every chosen feature at the positions of its place."""
    features, inverse = chosen.features.unique(return_inverse=True)
    change = up.moves.of_features(features.to(up.acts.device), up.moves.change)[inverse.to(up.acts.device)]
    here = places.index == chosen.places[:, None, None]
    return change * here.to(change.device)


def _at_places(
    values: Float[Tensor, "nodes batch length"], places: Places, wanted: Int[Tensor, " m"]
) -> Float[Tensor, "nodes m"]:
    """Sums over the positions of each wanted place and over examples."""
    here = (places.index == wanted[:, None, None]).to(values)
    return torch.einsum("kbl,mbl->km", values, here)
