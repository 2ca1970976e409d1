"""Every method of circuits/ on one planted instance: the scores of all nodes and edges, against the true graph.

Areas under the ROC curve are over nodes that are active in the clean prompts or at the end point, and over pairs of
such nodes between which the model has a path: with inactive nodes among them, which nothing scores, any area is near 1.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from scipy.stats import mannwhitneyu
from torch import Tensor

from circuit_truth.plant_dictionaries import Labelled
from circuit_truth.programs import Instance
from circuit_truth.truth import Truth, given_states
from circuits.attribution import NodeEffects, node_effects
from circuits.component_states import expand, read_states
from circuits.components import Components
from circuits.eap import edge_scores
from circuits.edge_patching import exact_edge_scores
from circuits.edges import Chosen, edge_effects, wiring
from circuits.end_points import Name, end_points
from circuits.exact import exact_effects
from circuits.examples import Examples
from circuits.feature_acts import FeatureActs, NodeScores, states_of
from circuits.metrics import LogitDifference
from circuits.selection import Sizes
from saes.families import blocks
from saes.sites import Site

NOTHING = 1e-3
"""scores below this share of the largest count as 0: what is left of a vanished gradient ranks nothing in practice"""
STEPS = 10
PLACES = ("all", "each")

Scores = Mapping[Site, Float[Tensor, "places f"]]


@dataclass(frozen=True)
class Area:
    """One number of one instance: what was scored, how, and how well; None where there is nothing to tell apart."""

    what: str
    """nodes, edges or coarse edges"""
    end: str
    places: str
    method: str
    area: float | None
    """under the ROC curve"""
    found: float | None
    """share of the true ones among as many strongest"""
    true: int
    candidates: int
    missed: tuple[str, ...] = ()
    """true ones without a score"""


def judged(scores: Float[Tensor, " n"], true: Bool[Tensor, " n"]) -> tuple[float | None, float | None]:
    """Area under the ROC curve (equal scores are half right), and the share of the true among as many strongest.

    Both None if all or none are true. What has no score is not among the strongest.
    """
    if not bool(true.any()) or bool(true.all()):
        return None, None
    sizes, flags = scores.abs().double().numpy(), true.numpy()
    sizes = np.where(sizes < NOTHING * sizes.max(), 0.0, sizes)
    count = int(flags.sum())
    wins = mannwhitneyu(sizes[flags], sizes[~flags]).statistic
    strongest = np.lexsort((flags, -sizes))[:count]  # of equal ones the false first: no method gains by a tie
    return float(wins / count / (len(flags) - count)), float((flags & (sizes > 0))[strongest].mean())


@dataclass(frozen=True)
class Bench:
    """One instance seen through one set of dictionaries."""

    instance: Instance
    labelled: Labelled

    def areas(self, ends: tuple[Name, ...], places: tuple[str, ...] = PLACES) -> Iterator[Area]:
        """Nodes with all end points, and edges towards the counterfactual prompt; `each` position with that alone.

        Towards a mean every feature moves at every position, and through attention all of them may matter.
        """
        for end in ends:
            yield from self._towards(end, places if end == "patch" else places[:1])

    def error_share(self) -> float:
        """What the error nodes have of the summed absolute effects of all nodes (integrated gradients, patch)."""
        sizes = Sizes(len(self.instance.pairs))
        pairs, dictionaries = self.instance.pairs, self.labelled.dictionaries
        ends = end_points("patch", self.instance.plant.model, dictionaries, [pairs])
        effects = self._effects(pairs, ends(self.instance.plant.model, dictionaries, pairs), method="ig")
        for site, found in effects.items():
            sizes.add(site, found.at_places(pairs.grouped, dictionaries[site].features))
        errors, every = (sum(float(t[:, part].sum()) for t in sizes.absolute.values()) for part in (-1, slice(None)))
        return errors / every

    def _towards(self, end: Name, which: tuple[str, ...]) -> Iterator[Area]:
        plant, dictionaries = self.instance.plant, self.labelled.dictionaries
        examples = self.instance.pairs if end == "patch" else self.instance.shown
        ours = end_points(end, plant.model, dictionaries, [examples])(plant.model, dictionaries, examples)
        given = plant.given()
        theirs = end_points(end, plant.model, given, [examples])(plant.model, given, examples)
        clean = states_of(plant.model, given, examples.clean)
        truth = Truth.of(plant, clean, given_states(clean, theirs, plant))
        before = states_of(plant.model, dictionaries, examples.clean)
        after = {
            site: state if isinstance(state, FeatureActs) else FeatureActs.of(dictionaries[site], state)
            for site, state in ours.items()
        }
        active = {site: (b.acts != 0) | (after[site].acts != 0) for site, b in before.items()}
        effects = {
            "attribution": self._effects(examples, ours, method="attribution"),
            "ig": self._effects(examples, ours, method="ig"),
            "ig, left": self._effects(examples, ours, method="ig", rule="left"),
        }
        # decoder rows have norm 1, so a change of a feature is a change of the stream
        changes = {site: (after[site].acts - b.acts).abs().mean(0) for site, b in before.items()}
        for places in which:
            grouped = examples.by_position() if places == "each" else examples
            found = {name: _sizes(e, grouped, dictionaries) for name, e in effects.items()}
            exact = exact_effects(plant.model, dictionaries, grouped, LogitDifference(), ours, batch_size=1024)
            found["exact"] = _mean_sizes(exact, len(grouped))
            found["change"] = {s: c if places == "each" else c.sum(0, keepdim=True) for s, c in changes.items()}
            there = {s: a.any(0) if places == "each" else a.any(0).any(0, keepdim=True) for s, a in active.items()}
            true = {s: t.any(0) if places == "each" else t.any(0).any(0, keepdim=True) for s, t in truth.nodes.items()}
            for name, scores in found.items():
                yield self._nodes(end, places, name, scores, there, true)
            if end == "patch":
                yield from self._edges(places, grouped, found["ig"], there, truth, ours)

    def _effects(self, examples: Examples, ends: Mapping[Site, Tensor | FeatureActs], **options: str) -> NodeEffects:
        model, dictionaries = self.instance.plant.model, self.labelled.dictionaries
        return node_effects(model, dictionaries, examples, LogitDifference(), ends, steps=STEPS, **options)  # type: ignore[arg-type]

    def _nodes(
        self,
        end: str,
        places: str,
        method: str,
        scores: Scores,
        active: Mapping[Site, Tensor],
        true: Mapping[Site, Tensor],
    ) -> Area:
        """Of all sites together. A true node that no active feature stands for is one without a score."""
        sizes, flags, missed = [], [], []
        largest = max(float(s.abs().max()) for s in scores.values())
        for site, here in active.items():
            label, names = self.labelled.labels[site], self.instance.plant.wiring.features
            flag = _labelled(true[site], label)
            sizes.append(scores[site][here])
            flags.append(flag[here])
            for place, feature in true[site].nonzero().tolist():
                own = (label == feature) & here[place]
                if not bool(own.any()):
                    sizes.append(torch.zeros(1, dtype=torch.float64))
                    flags.append(torch.ones(1, dtype=torch.bool))
                if float((scores[site][place] * own).abs().max()) < NOTHING * largest:
                    missed.append(f"{site.name}/{names[feature]}" + (f"@{place}" if places == "each" else ""))
        size, flag = torch.cat(sizes), torch.cat(flags)
        return Area("nodes", end, places, method, *judged(size, flag), int(flag.sum()), len(flag), tuple(missed))

    def _edges(
        self,
        places: str,
        examples: Examples,
        node_sizes: Scores,
        active: Mapping[Site, Tensor],
        truth: Truth,
        ends: Mapping[Site, Tensor | FeatureActs],
    ) -> Iterator[Area]:
        """Edges between all active nodes, by five ways to take derivatives, and by the effects of their ends."""
        chosen = {s: _chosen(here) for s, here in active.items()}
        candidates = self._candidates(places, truth, chosen)
        at = {s: node_sizes[s][c.places, c.features] for s, c in chosen.items()}
        ways = {
            "secant": self._edge_scores(examples, chosen, ends, "full"),
            "secant, path": self._edge_scores(examples, chosen, ends, "path"),
            "clean slope": self._edge_scores(examples, chosen, ends, "full", slope="clean"),
            "secant, frozen": self._edge_scores(examples, chosen, ends, "frozen"),
            "attribution, clean slope": self._edge_scores(
                examples, chosen, ends, "full", method="attribution", slope="clean"
            ),
            "product of ends": {(u, d): at[d][:, None] * at[u] for u, d in candidates},
        }
        for name, edges in ways.items():
            sizes, flags, unmatched = [], [], 0
            for pair, (possible, true, lost) in candidates.items():
                sizes.append(edges[pair][possible])
                flags.append(true[possible])
                unmatched += lost
            sizes.append(torch.zeros(unmatched, dtype=torch.float64))
            flags.append(torch.ones(unmatched, dtype=torch.bool))
            size, flag = torch.cat(sizes), torch.cat(flags)
            yield Area("edges", "patch", places, name, *judged(size, flag), int(flag.sum()), len(flag))

    def _edge_scores(
        self,
        examples: Examples,
        chosen: Mapping[Site, Chosen],
        ends: Mapping[Site, Tensor | FeatureActs],
        derivative: str,
        **options: str,
    ) -> dict[tuple[Site, Site], Tensor]:
        model, dictionaries = self.instance.plant.model, self.labelled.dictionaries
        effects = self._effects(examples, ends, **options)
        return edge_effects(model, dictionaries, examples, effects, chosen, derivative=derivative)  # type: ignore[arg-type]

    def _candidates(
        self, places: str, truth: Truth, chosen: Mapping[Site, Chosen]
    ) -> dict[tuple[Site, Site], tuple[Tensor, Tensor, int]]:
        """By pair of sites, [down, up]: which edges can be, which are true, and how many true ones lack a node."""
        model, found = self.instance.plant.model, {}
        for i, block in enumerate(blocks(model)):
            for down, _, ups in wiring(model, i, block):
                for up in ups:
                    true = truth.edges[up, down]
                    if places == "all":
                        true = true.any(2, keepdim=True).any(0, keepdim=True)
                    d, u = chosen[down], chosen[up]
                    to, back = d.places[:, None], u.places[None, :]
                    possible = (back <= to) if down == block.attn else (back == to)
                    label_d, label_u = self.labelled.labels[down][d.features], self.labelled.labels[up][u.features]
                    known = (label_d >= 0)[:, None] & (label_u >= 0)
                    flags = true[to, label_d.clamp_min(0)[:, None], back, label_u.clamp_min(0)[None]] & known
                    met = torch.zeros_like(true)
                    at = flags.nonzero()
                    met[d.places[at[:, 0]], label_d[at[:, 0]], u.places[at[:, 1]], label_u[at[:, 1]]] = True
                    found[up, down] = (possible.expand_as(flags), flags, int((true & ~met).sum()))
        return found


def coarse_areas(instance: Instance) -> Iterator[Area]:
    """Edges between input, heads, MLPs and logits by the methods of circuits.eap, and exactly, one at a time."""
    plant, examples, metric = instance.plant, instance.pairs, LogitDifference()
    assert examples.patch is not None
    graph = Components.of(plant.model)
    given = plant.given()
    truth = Truth.of(plant, *(states_of(plant.model, given, tokens) for tokens in (examples.clean, examples.patch)))
    true = truth.coarse(graph.sources, graph.destinations) & graph.real
    states = [read_states(graph, tokens).map(lambda x: x.flatten(0, 1)) for tokens in (examples.clean, examples.patch)]
    change = (expand(graph, states[1]) - expand(graph, states[0])).norm(dim=-1).mean(0)
    possible = graph.real & (change > NOTHING * change.max())[:, None]
    ways = {
        "EAP": lambda: edge_scores(graph, examples, metric, method="eap"),
        "clean-corrupted": lambda: edge_scores(graph, examples, metric, method="clean-corrupted"),
        "EAP-IG, inputs": lambda: edge_scores(graph, examples, metric, method="ig-inputs", steps=STEPS),
        "EAP-IG, activations": lambda: edge_scores(graph, examples, metric, method="ig-activations", steps=STEPS),
        "exact": lambda: exact_edge_scores(graph, examples, metric, batch_size=1024),
    }
    found = {name: way().total.double() for name, way in ways.items()}
    found["change"] = change[:, None].expand(true.shape).double()
    for name, scores in found.items():
        flags = true[possible]
        yield Area("coarse edges", "patch", "all", name, *judged(scores[possible], flags), int(flags.sum()), len(flags))


def _sizes(effects: NodeEffects, examples: Examples, dictionaries: Mapping) -> Scores:
    """Mean absolute effects over examples, by place."""
    found = {s: e.at_places(examples.grouped, dictionaries[s].features) for s, e in effects.items()}
    return _mean_sizes(found, len(examples))


def _mean_sizes(scores: Mapping[Site, NodeScores], examples: int) -> Scores:
    sizes = Sizes(examples)
    for site, found in scores.items():
        sizes.add(site, found)
    return {site: total[:, :-1] / examples for site, total in sizes.absolute.items()}


def _labelled(true: Bool[Tensor, "places planted"], label: Tensor) -> Bool[Tensor, "places f"]:
    """Whether each feature is, by its label, a true node."""
    return true[:, label.clamp_min(0)] & (label >= 0)


def _chosen(active: Bool[Tensor, "places f"]) -> Chosen:
    places, features = active.nonzero().unbind(1)
    return Chosen(features, places, torch.zeros(0, dtype=torch.long))
