"""Run a model in which only chosen edges of a feature circuit carry a node's own value: path patching (Goldowsky-Dill
et al. 2023) on the graph of sites, with features and error nodes.

Every node of the circuit has two values: its own, v, and its replacement, r (circuits.end_points). What a downstream
node d reads is put together for d alone: the stream before d's module, in which every upstream node u is at v if there
is an edge u -> d, and at r otherwise. Then v(d) is read off the real module (none for a residual site, which is a sum;
LayerNorm and MLP; LayerNorm and attention) and the real dictionary, where features may compete. Nodes outside the
circuit are at r everywhere. The metric reads the nodes of the last site, or of the site that it reads, those in the
circuit at v: being there is the edge into the metric.

* A node into which no edge leads is at r. With the patch prompts as end point that is also what its module makes of
  inputs that are all at r; with means or zeros it is not, and r is taken. Nodes of embed have no inputs: v is clean.
* A site without a dictionary, and any position without a place, is an unnamed node with edges from and to all; but the
  latter alone do not lift a node off r.
* Places: into residual and MLP sites an edge acts at single positions, so only edges between equal places do anything
  there; into attention it crosses positions.

This is exact for every kind of edge: nothing is linearised. The cost is a pass of one block and a dense encoding for
every example and *different set of parents* among the nodes of a site: nodes with equal parents share a row, so all
edges or none cost one row a site, and there are never more rows than downstream nodes. Rows go through in pieces, so
that memory does not grow with their number.
"""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.ablation import replacements
from circuits.attribution import site_values
from circuits.circuit import Circuit, Node, nodes_of
from circuits.edges import Chosen, wiring
from circuits.end_points import EndPoints
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, FeatureActs
from circuits.held_out import MeasureError
from circuits.metrics import Metric, measure
from circuits.suffix import skipping
from saes.families import Block, blocks, circuit_sites
from saes.sites import Site, capture, intervene

_NUMBERS = 1 << 23  # numbers of one tensor that is held at once

Along = Bool[Tensor, "rows nodes"]
Through = Callable[[Along], Float[Tensor, "rows batch length d"]]


@dataclass(frozen=True)
class Carried:
    """What a site passes on: `base` to everyone, and v - r of each chosen node along its edges."""

    base: Float[Tensor, "batch length d"]
    """r, and at free positions the site's own values"""
    change: Float[Tensor, "n batch length"]
    """of chosen features, at the positions of their places"""
    decoder: Float[Tensor, "n d"]
    error: Float[Tensor, "batch length d"]
    """of the error nodes, each at the positions of its place"""
    error_at: Bool[Tensor, "m batch length"]

    def __len__(self) -> int:
        return len(self.change) + len(self.error_at)

    @classmethod
    def all_of(cls, base: Float[Tensor, "batch length d"]) -> "Carried":
        """A site without nodes."""
        nothing = base.new_zeros(0, *base.shape[:2])
        return cls(base, nothing, base.new_zeros(0, base.shape[-1]), base, nothing.bool())

    def sent(self, along: Along) -> Float[Tensor, "rows batch length d"]:
        """The site as it is seen through some of its edges, a row for each set of them."""
        features, errors = along.to(self.base).split([len(self.change), len(self.error_at)], 1)
        moved = features[:, None, None] * self.change.permute(1, 2, 0)
        seen = torch.einsum("km,mbl->kbl", errors, self.error_at.to(self.base))
        return self.base + moved @ self.decoder + seen[..., None] * self.error


class EdgeAblation:
    """One batch of examples, ready for circuits with any edges."""

    @torch.no_grad()
    def __init__(
        self, model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples, metric: Metric, to: EndPoints
    ) -> None:
        known = circuit_sites(model)
        outside = [site.name for site in dictionaries if site not in known]
        if outside:
            raise MeasureError(f"edges are between embed, attn_i, mlp_i and resid_i: leave {outside[0]} out")
        self._target = known[-1] if metric.reads is None else metric.reads
        if self._target not in known:
            raise MeasureError(f"the metric reads {self._target.name}: edges end at embed, attn_i, mlp_i or resid_i")
        self._model, self._dictionaries, self._examples, self._metric = model, dictionaries, examples, metric
        self._replacements = replacements(dictionaries, to(model, dictionaries, examples))
        self._embed = site_values(model, [known[0]], examples.clean)[known[0]]
        self._index = examples.grouped.index.to(self._embed.device)

    @torch.no_grad()
    def metric_of(self, circuit: Circuit) -> Float[Tensor, " batch"]:
        """The metric of the clean prompts when only the circuit's edges carry its nodes' own values."""
        chosen = {site: nodes for site, nodes in circuit.chosen().items() if site in self._dictionaries}
        edges = edge_masks(circuit, self._model)
        embed = circuit_sites(self._model)[0]
        nodes = len(chosen[embed]) if embed in chosen else 0
        own = torch.zeros(nodes, 0, dtype=torch.bool)
        values = {embed: self._carried(embed, chosen, own, torch.ones(nodes).bool(), lambda _: self._embed[None])}
        for site, writers, through in self._visits(values):
            if self._target in values:
                break
            nodes = len(chosen[site]) if site in chosen else 0
            none = {up: torch.zeros(nodes, len(values[up]), dtype=torch.bool) for up in writers}
            parents = torch.cat([edges.get((up, site), none[up]) for up in writers], 1)
            live = parents.any(1) | any(up not in self._dictionaries for up in writers)
            values[site] = self._carried(site, chosen, parents, live, through)
        whole = values[self._target]
        return self._read(whole.sent(torch.ones(1, len(whole), dtype=torch.bool))[0])

    def _visits(self, values: Mapping[Site, Carried]) -> Iterator[tuple[Site, list[Site], Through]]:
        """Sites after embed in forward order, what writes into their streams, and how to get them through edges."""
        for index, block in enumerate(blocks(self._model)):
            for site, reads, writers in reversed(wiring(self._model, index, block)):

                def through(
                    along: Along,
                    site: Site = site,
                    reads: Site | None = reads,
                    writers: list[Site] = writers,
                    at: tuple[int, Block] = (index, block),
                ) -> Float[Tensor, "rows batch length d"]:
                    parts = along.split([len(values[up]) for up in writers], 1)
                    stream = torch.stack([values[up].sent(part) for up, part in zip(writers, parts, strict=True)])
                    return stream.sum(0) if reads is None else self._module(*at, reads, site, stream.sum(0))

                yield site, writers, through

    def _module(
        self, index: int, block: Block, reads: Site, site: Site, stream: Float[Tensor, "rows batch length d"]
    ) -> Float[Tensor, "rows batch length d"]:
        """What one sublayer writes, having read each of the streams."""
        flat, tokens = stream.flatten(0, 1), self._examples.clean.repeat(len(stream), 1).to(self._model.device)
        before = {block.before: lambda _: flat}
        with (
            skipping(self._model, index),
            intervene(self._model, before),
            intervene(self._model, {reads: lambda _: flat}),
            capture(self._model, [site]) as values,
        ):
            self._model(input_ids=tokens, use_cache=False)
        return values[site].unflatten(0, (len(stream), -1))

    def _carried(
        self,
        site: Site,
        chosen: Mapping[Site, Chosen],
        parents: Bool[Tensor, "nodes ups"],
        live: Bool[Tensor, " nodes"],
        through: Through,
    ) -> Carried:
        """Every chosen node's own value, one row for nodes with the same parents; `live` ones are not at r."""
        everything = torch.ones(1, parents.shape[1], dtype=torch.bool)
        if site not in self._dictionaries:
            return Carried.all_of(through(everything)[0])
        dictionary, nodes = self._dictionaries[site], chosen[site]
        other = self._replacements[site].state()
        base = other.compose(dictionary).expand_as(self._embed)
        unplaced = (self._index < 0)[..., None]
        if bool(unplaced.any()):
            base = torch.where(unplaced, through(everything)[0], base)
        device, count = base.device, len(nodes.features)
        here = self._index == torch.cat([nodes.places, nodes.errors]).to(device)[:, None, None]
        change, error = base.new_zeros(count, *base.shape[:2]), torch.zeros_like(base)
        groups: dict[bytes, list[int]] = {}
        for node in live.nonzero().flatten().tolist():
            groups.setdefault(parents[node].numpy().tobytes(), []).append(node)
        members = list(groups.values())
        piece = max(1, _NUMBERS // (base[..., 0].numel() * max(dictionary.features, base.shape[-1], parents.shape[1])))
        for low in range(0, len(members), piece):
            some = members[low : low + piece]
            state = FeatureActs.of(dictionary, through(parents[[group[0] for group in some]]))
            for row, group in enumerate(some):
                for node in group:
                    if node < count:
                        feature = int(nodes.features[node])
                        change[node] = state.acts[row, ..., feature] - other.acts[..., feature]
                    else:
                        error = torch.where(here[node][..., None], state.error[row] - other.error, error)
        decoder = dictionary.W_dec[nodes.features.to(device)]
        return Carried(base, change * here[:count], decoder, error, here[count:])

    def _read(self, value: Float[Tensor, "batch length d"]) -> Float[Tensor, " batch"]:
        edits = {self._target: lambda _: value}
        done = len(blocks(self._model)) if self._metric.reads is None else 0
        with skipping(self._model, done):
            return measure(self._model, self._metric, self._examples.clean, self._examples, edits)


def edge_masks(circuit: Circuit, model: PreTrainedModel) -> dict[tuple[Site, Site], Bool[Tensor, "down up"]]:
    """The circuit's edges as [downstream, upstream] masks over its nodes; MeasureError for an edge that skips."""
    by_name = {site.name: site for site in circuit.sites}
    place = {
        node: i
        for site, chosen in circuit.chosen().items()
        for i, node in enumerate(nodes_of(site, chosen, circuit.places))
    }
    counts = {site: len(chosen) for site, chosen in circuit.chosen().items()}
    masks = {
        pair: torch.zeros(counts[pair[1]], counts[pair[0]], dtype=torch.bool) for pair in wired_pairs(circuit, model)
    }
    for up, down in circuit.edges:
        pair = by_name[up.site], by_name[down.site]
        if pair not in masks or up not in place or down not in place:
            raise MeasureError(f"edge {up} -> {down}: no single edge of the model leads from the one to the other")
        masks[pair][place[down], place[up]] = True
    return masks


def wired_pairs(circuit: Circuit, model: PreTrainedModel) -> list[tuple[Site, Site]]:
    """Pairs of the circuit's sites with a direct path between them."""
    return [
        (up, down)
        for index, block in enumerate(blocks(model))
        for down, _, writers in wiring(model, index, block)
        for up in writers
        if up in circuit.sites and down in circuit.sites
    ]


def every_edge(circuit: Circuit, model: PreTrainedModel) -> list[tuple[Node, Node]]:
    """All edges that there can be between the circuit's nodes: into attention between any places in order, else within
    a place."""
    nodes = {s: nodes_of(s, chosen, circuit.places) for s, chosen in circuit.chosen().items()}
    attention = {block.attn for block in blocks(model)}
    return [
        (u, d)
        for up, down in wired_pairs(circuit, model)
        for d in nodes[down]
        for u in nodes[up]
        if u.place == d.place or down in attention
    ]
