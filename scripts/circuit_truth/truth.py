"""The true graph of a planted model, from its wiring and from what its features are at both ends; no gradient is taken.

A node (site, feature, position) is true if it moves between the clean prompt and the end point, and something that
the metric depends on reads it there. An edge is true if both of its ends are and the downstream one is made directly
out of the upstream one. So a node may be true though it does nothing alone: of two attributes, each of which is enough,
both are. Tests hold this against exact interventions in random contexts of the other nodes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from circuit_truth.plants import SHARPNESS, THRESHOLD, Plant
from circuit_truth.wiring import BLOCKS, Head
from circuits.edges import wiring
from circuits.feature_acts import FeatureActs, States
from saes.families import blocks, find_site
from saes.sites import Site

LOOKS = 0.01  # attention above it counts

Flags = Bool[Tensor, "batch length f"]
Relation = Bool[Tensor, "batch length f from_length from_f"]


@dataclass(frozen=True)
class Truth:
    """Of examples and their end points: what is active, what is a true node, and the edges of all examples together."""

    plant: Plant
    clean: States
    end: Mapping[Site, Float[Tensor, "batch length f"]]

    @classmethod
    def of(cls, plant: Plant, clean: States, end: States) -> "Truth":
        """`clean` and `end` are states of the given dictionaries; end points may broadcast."""
        return cls(plant, clean, {site: state.acts.expand_as(clean[site].acts) for site, state in end.items()})

    @cached_property
    def active(self) -> dict[Site, Flags]:
        """Features that are on at either end."""
        return {site: (clean.acts > THRESHOLD) | (self.end[site] > THRESHOLD) for site, clean in self.clean.items()}

    @cached_property
    def moved(self) -> dict[Site, Flags]:
        """Features that change."""
        return {site: (clean.acts - self.end[site]).abs() > THRESHOLD for site, clean in self.clean.items()}

    @cached_property
    def nodes(self) -> dict[Site, Flags]:
        """The true nodes."""
        needed = {}
        for i, block in enumerate(blocks(self.plant.model)):
            needed |= {block.before: self._needed[2 * i], block.attn: self._needed[2 * i + 1]}
            needed |= {block.mlp: self._needed[2 * i + 2], block.resid: self._needed[2 * i + 2]}
        return {site: needed[site] & moved for site, moved in self.moved.items()}

    @cached_property
    def edges(self) -> dict[tuple[Site, Site], Bool[Tensor, "length f from_length from_f"]]:
        """The true edges, from the last two axes to the first two, of any example."""
        found = {}
        for i, block in enumerate(blocks(self.plant.model)):
            for down, reads, ups in wiring(self.plant.model, i, block):
                relation = self.relation(i, down, reads)
                for up in ups:
                    both = relation & self.nodes[down][..., None, None] & self.nodes[up][:, None, None]
                    found[up, down] = both.any(0)
        return found

    def relation(self, index: int, down: Site, reads: Site | None) -> Relation:
        """What each feature of a site is made of directly, whether or not it matters."""
        block = blocks(self.plant.model)[index]
        if down == block.attn:
            return self.attention(index)
        count = len(self.plant.directions)
        local = torch.eye(count, dtype=torch.bool) if reads is None else self.plant.wiring.through_neurons(index)
        length = self.moved[down].shape[1]
        here = torch.eye(length, dtype=torch.bool)
        every = local[None, :, None, :] & here[:, None, :, None]
        return every.expand(len(self.moved[down]), *every.shape)

    @cached_property
    def _needed(self) -> list[Flags]:
        """Which features of the stream matter: before the first block, after its attention, after it, and so on."""
        some = self.moved[blocks(self.plant.model)[-1].resid]
        needed = torch.zeros_like(some)
        needed[:, -1] = self.plant.wiring.mask(self.plant.wiring.readout)
        points = [needed]
        for i in reversed(range(BLOCKS)):
            local = self.plant.wiring.through_neurons(i)
            needed = needed | (needed[..., None] & local).any(2)
            points.append(needed)
            needed = needed | (needed[..., None, None] & self.attention(i)).any(2).any(1)
            points.append(needed)
        return points[::-1]

    def attention(self, index: int) -> Relation:
        """Which features attention makes out of which, of all heads of a block."""
        heads = self.plant.wiring.in_block(index)[0]
        parts = [part for head in heads for part in self.of_head(head).values()]
        shape = self.moved[find_site(self.plant.model, f"attn_{index}")].shape
        none = torch.zeros(*shape, *shape[1:], dtype=torch.bool)
        return torch.stack([none, *parts]).any(0)

    def of_head(self, head: Head) -> dict[str, Relation]:
        """By q, k and v: what a head makes of what.

        A query and a key matter where both of a pair that matches can be there. Values matter where the head looks in
        the clean prompt, and everywhere if what it looks for, or what would answer, moves.
        """
        before, names = blocks(self.plant.model)[head.block].before, self.plant.wiring
        clean, moved = self.clean[before].acts, self.moved[before]
        there = self.active[before]
        batch, length, count = clean.shape
        causal = torch.ones(length, length, dtype=torch.bool).tril()
        scores = clean.new_zeros(batch, length, length)
        queries, keys = (torch.zeros(batch, length, length, count, dtype=torch.bool) for _ in "qk")
        for asks, answers in head.matches:
            q, k = names.index([asks, answers])
            scores += SHARPNESS * clean[:, :, None, q] * clean[:, None, :, k]
            live = there[:, :, q] & (there[:, None, :, k] & causal).any(-1)
            queries[..., q] |= live[..., None] & torch.eye(length, dtype=torch.bool)
            keys[..., k] |= live[..., None] & causal
        pattern = scores.masked_fill(~causal, float("-inf")).softmax(-1)
        turns = ((queries | keys) & moved[:, None]).any((-1, -2))
        looks = causal & ((pattern > LOOKS) | turns[..., None])
        written = names.mask([name for _, name, _ in head.moves])[:, None, None]
        values = torch.zeros(batch, length, count, length, count, dtype=torch.bool)
        for reads, writes, _ in head.moves:
            read, write = names.index([reads, writes])
            values[:, :, write, :, read] |= looks
        return {"q": queries[:, :, None] & written, "k": keys[:, :, None] & written, "v": values}

    def coarse(self, sources: tuple[str, ...], destinations: tuple[str, ...]) -> Bool[Tensor, "sources destinations"]:
        """The true edges between heads, MLPs, input and logits, by circuits.components' names."""
        writes = {name: self._written_by(name) for name in sources}
        reads = {name: self._read_by(name) for name in destinations}
        return torch.stack([torch.stack([(writes[s] & reads[d]).any() for d in destinations]) for s in sources])

    def _written_by(self, source: str) -> Flags:
        """What a component writes and that moves."""
        if source == "input":
            return self.moved[find_site(self.plant.model, "embed")]
        block, _, number = source[1:].partition(".h")
        site = find_site(self.plant.model, ("mlp_" if source[0] == "m" else "attn_") + block)
        heads = [h for h in self.plant.wiring.in_block(int(block))[0] if number and h.number == int(number)]
        copied = self.plant.wiring.mask([name for h in heads for _, name, _ in h.moves])
        return self.moved[site] if source[0] == "m" else self.moved[site] & copied

    def _read_by(self, destination: str) -> Flags:
        """What a component reads to make something that matters."""
        if destination == "logits":
            return self._needed[-1]
        node, _, letter = destination.partition("<")
        block, _, number = node[1:].partition(".h")
        if node[0] == "m":
            return (self._needed[2 * int(block) + 2][..., None] & self.plant.wiring.through_neurons(int(block))).any(2)
        after = self._needed[2 * int(block) + 1]
        found = torch.zeros_like(after)
        for head in self.plant.wiring.in_block(int(block))[0]:
            if head.number == int(number):
                found |= (after[..., None, None] & self.of_head(head)[letter[0]]).any(2).any(1)
        return found


def given_states(clean: States, end: Mapping[Site, Tensor | FeatureActs], plant: Plant) -> States:
    """End points as states of the given dictionaries."""
    dictionaries = plant.given()
    return {
        site: state if isinstance(state, FeatureActs) else FeatureActs.of(dictionaries[site], state)
        for site, state in ((site, end[site]) for site in clean)
    }
