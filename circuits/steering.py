"""Move nodes, and see whether the metric moves as the circuit says.

An action moves every node of a group by a share t of the way to an end point, v <- v + t (end - v): *swap* goes to the
patch prompt's value, *ablate* to zero (or a mean), *amplify* by a factor k, v <- k v, which is zero with t = 1 - k.

Two predictions stand beside what is measured. *Gradient* is t times the sum of the nodes' effects towards that end
point, by gradients on the same examples: attribution patching, or integrated gradients (`method`), which is closer for
large moves. *Circuit* is t times the sum of the effects that the circuit reports, from the examples that found it; only
for an action towards the end point that the circuit was found with.

What "moving a group" means where one node lies upstream of another:

* "add" (default): to every site the change that was planned on the clean prompt is added. Effects then add up, exactly
  so in a linear model.
* "set": a node gets its value at its turn, after what upstream nodes did to it. The sum of effects counts what flows
  from one member through another twice, so it overshoots for groups that span sites; for single sites both are equal.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.ablation import Kept, Mask, Replacement, replacements
from circuits.attribution import Method, counterfactual, node_effects, site_values
from circuits.circuit import Circuit, Node
from circuits.end_points import EndPoints, ToZero
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, FeatureActs
from circuits.held_out import MeasureError
from circuits.intervals import RESAMPLES, Interval, correlation, interval, resampled_means
from circuits.metrics import Metric, measure
from circuits.places import Places
from saes.dictionary import Dictionary
from saes.sites import Edit, Site

Group = Sequence[Node]
How = Literal["add", "set"]


@dataclass(frozen=True)
class Action:
    """Move nodes by `share` of the way to where `to` says; `as_found`: the circuit's effects go there too."""

    name: str
    share: float
    to: EndPoints = field(repr=False)
    as_found: bool


def swap(to: EndPoints = counterfactual, share: float = 1.0) -> Action:
    """To the end point that the circuit was found with: the patch prompt's values by default."""
    return Action("swap" if share == 1 else f"swap {share:g}", share, to, True)


def ablate(to: EndPoints | None = None, *, as_found: bool = False) -> Action:
    """To zero, or to a mean; `as_found` if the circuit was found with the same end point."""
    return Action("ablate", 1.0, ToZero() if to is None else to, as_found)


def amplify(factor: float) -> Action:
    """Times a factor: 2 doubles, 0 is zero ablation, 1 changes nothing."""
    return Action(f"times {factor:g}", 1 - factor, ToZero(), False)


@dataclass(frozen=True)
class Steered:
    """One group under one action: changes of the metric, means over examples."""

    nodes: tuple[str, ...]
    action: str
    measured: Interval
    gradient: float
    circuit: float | None


@dataclass(frozen=True)
class Steering:
    """A table of groups; correlations over its rows are None for fewer than 3 or where one side is constant."""

    rows: tuple[Steered, ...]
    how: How
    examples: int

    @property
    def gradient_correlation(self) -> float | None:
        return correlation([row.gradient for row in self.rows], [row.measured.value for row in self.rows])

    @property
    def circuit_correlation(self) -> float | None:
        said = [(row.circuit, row.measured.value) for row in self.rows if row.circuit is not None]
        return correlation([circuit for circuit, _ in said], [measured for _, measured in said])

    def table(self) -> str:
        """Nodes, action, predictions and what was measured, a line each."""
        lines = [f"{'nodes':40s}{'action':>12s}{'circuit':>12s}{'gradient':>12s}  measured"]
        for row in self.rows:
            names = ", ".join(row.nodes[:2]) + (f" and {len(row.nodes) - 2} more" if len(row.nodes) > 2 else "")
            said = "-" if row.circuit is None else f"{row.circuit:.4g}"
            lines.append(f"{names:40s}{row.action:>12s}{said:>12s}{row.gradient:>12.4g}  {row.measured}")
        return "\n".join(lines)

    def to_json(self) -> dict[str, Any]:
        correlations = {"gradient": self.gradient_correlation, "circuit": self.circuit_correlation}
        return {**asdict(self), "correlation": correlations}


@torch.no_grad()
def steer(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    circuit: Circuit,
    groups: Sequence[Group],
    actions: Sequence[Action],
    examples: Examples,
    metric: Metric,
    *,
    how: How = "add",
    method: Method = "attribution",
    steps: int = 10,
    batch_size: int = 32,
) -> Steering:
    """Every action on every group of the circuit's nodes, a row each. `examples` should not be those that found it."""
    if how not in ("add", "set"):
        raise MeasureError(f"moving nodes by {how!r}: choose add or set")
    if examples.grouped.names != circuit.places:
        raise MeasureError(
            f"the circuit's places are {', '.join(circuit.places)}, the examples' {', '.join(examples.grouped.names)}"
        )
    masks = [_mask(circuit, dictionaries, group) for group in groups]
    rows = {(g, a): ([], []) for g in range(len(groups)) for a in range(len(actions))}
    for batch in examples.batches(batch_size):
        base = measure(model, metric, batch.clean, batch)
        clean = site_values(model, list(dictionaries), batch.clean, dictionaries)
        for a, action in enumerate(actions):
            ends = action.to(model, dictionaries, batch)
            states = replacements(dictionaries, ends)
            with torch.enable_grad():
                effects = node_effects(model, dictionaries, batch, metric, ends, method=method, steps=steps)
            at_places = {s: e.at_places(batch.grouped, dictionaries[s].features) for s, e in effects.items()}
            for g, mask in enumerate(masks):
                edits = _edits(dictionaries, mask, states, action.share, clean, batch.grouped, how)
                moved = measure(model, metric, batch.clean, batch, edits) - base
                predicted = sum(
                    (at_places[s].acts * k.features.to(base.device)).sum((1, 2))
                    + (at_places[s].error * k.error.to(base.device)).sum(1)
                    for s, k in mask.items()
                )
                rows[g, a][0].append(moved.double().cpu().numpy())
                rows[g, a][1].append(action.share * torch.as_tensor(predicted).double().cpu().numpy())
    found = []
    for (g, a), (measured, predicted) in rows.items():
        group, action, values = groups[g], actions[a], np.concatenate(measured)
        said = action.share * sum(circuit.nodes[node] for node in group) if action.as_found else None
        moved = interval(values.mean(), resampled_means(values[None], RESAMPLES)[:, 0])
        names = tuple(map(str, group))
        found.append(Steered(names, action.name, moved, float(np.concatenate(predicted).mean()), said))
    return Steering(tuple(found), how, len(examples))


def _mask(circuit: Circuit, dictionaries: Dictionaries, group: Group) -> dict[Site, Kept]:
    """The group's nodes as masks, only of the sites that have any."""
    if not group:
        raise MeasureError("a group without nodes: name at least one node of the circuit")
    for node in group:
        if node not in circuit.nodes:
            raise MeasureError(f"node {node} is not in the circuit")
    chosen = Circuit(circuit.sites, dict.fromkeys(group, 0.0), {}, {}, circuit.places).kept(dictionaries)
    return {site: kept for site, kept in chosen.items() if bool(kept.features.any()) or bool(kept.error.any())}


def _edits(
    dictionaries: Dictionaries,
    mask: Mask,
    states: Mapping[Site, Replacement],
    share: float,
    clean: Mapping[Site, Tensor],
    places: Places,
    how: How,
) -> dict[Site, Edit]:
    def edit(site: Site) -> Edit:
        if how == "set":
            return lambda x: x + _step(dictionaries[site], mask[site], states[site], share, x, places)
        planned = _step(dictionaries[site], mask[site], states[site], share, clean[site], places)
        return lambda x: x + planned

    return {site: edit(site) for site in mask}


def _step(
    dictionary: Dictionary,
    kept: Kept,
    end: Replacement,
    share: float,
    x: Float[Tensor, "batch length d"],
    places: Places,
) -> Float[Tensor, "batch length d"]:
    """How the nodes of one site move its tensor from x."""
    state, other = FeatureActs.of(dictionary, x), end.state()
    features, error = places.spread(kept.features.to(x.device)), places.spread(kept.error.to(x.device))[..., None]
    step = torch.where(features, other.acts - state.acts, 0.0) @ dictionary.W_dec
    return share * (step + torch.where(error, other.error - state.error, 0.0))
