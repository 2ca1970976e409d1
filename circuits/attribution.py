"""Effects of features and error nodes on a metric (Marks et al. 2024, section 3.1), by gradients.

The effect of a node is the change of the metric when it alone moves from its clean to its patch value. Because
decoding is affine, moving all features and the error of a site along the straight line moves the site itself along a
straight line: no dictionary runs inside the model, and one gradient g at the site serves all its nodes,
effect(feature) = (change) * (g @ W_dec.T) and effect(error) = (change) . g.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, NodeScores
from circuits.metrics import Metric, measure
from circuits.moves import EndPoint, Moves, Slope, moves_between
from circuits.places import Places
from circuits.suffix import entry_of, frozen, skipping, stream_sites
from saes.sites import Site, capture

Method = Literal["attribution", "ig"]
Rule = Literal["midpoint", "left"]

_TOKENS = 8192  # positions in one pass of integrated gradients; bounds memory


@dataclass(frozen=True)
class SiteEffects:
    """Effects of one site's nodes at every position, and what edges need."""

    moves: Moves
    gradient: Float[Tensor, "batch length d"]
    """mean gradient of the metric on the path"""
    acts: Float[Tensor, " entries"]
    """effect of every entry of `moves`"""
    error: Float[Tensor, "batch length"]
    total: Float[Tensor, " batch"] | None
    """change of the metric when the whole site moves; None where it was not measured"""

    @property
    def bytes(self) -> int:
        """Of all tensors."""
        moves = (t for t in vars(self.moves).values() if isinstance(t, Tensor))
        return sum(t.nbytes for t in (*moves, self.gradient, self.acts, self.error))

    def dense(self, features: int) -> NodeScores:
        """Effects at every position: acts [batch, length, F], error [batch, length]."""
        acts = self.acts.new_zeros(self.error.numel(), features)
        acts[self.moves.row, self.moves.feature] = self.acts
        return NodeScores(acts.view(*self.error.shape, features), self.error)

    def at_places(self, places: Places, features: int) -> NodeScores:
        """Effects summed over the positions of every place: acts [batch, places, F], error [batch, places]."""
        length, count = self.error.shape[1], len(places)
        place = places.index.to(self.acts.device).flatten()[self.moves.row]
        at = (self.moves.row // length * count + place) * features + self.moves.feature
        acts = self.acts.new_zeros(len(self.error) * count * features)
        acts.index_add_(0, at[place >= 0], self.acts[place >= 0])
        return NodeScores(acts.view(-1, count, features), places.sum(self.error))

    def gap(self) -> Float[Tensor, " batch"]:
        """What the effects miss of the change of the metric when the whole site moves (completeness)."""
        assert self.total is not None
        length = self.error.shape[1]
        example = self.moves.row // length
        return self.total - self.error.sum(1) - self.error.new_zeros(len(self.error)).index_add(0, example, self.acts)


NodeEffects = dict[Site, SiteEffects]


@torch.no_grad()
def site_values(
    model: PreTrainedModel, sites: Sequence[Site], tokens: Tensor, dictionaries: Dictionaries | None = None
) -> dict[Site, Float[Tensor, "batch length d"]]:
    """Tensors of an unmodified pass; with dictionaries their widths are checked."""
    with capture(model, sites) as values:
        model(input_ids=tokens.to(model.device), use_cache=False)
    for site in dictionaries or {}:
        assert dictionaries is not None
        dictionaries[site].check_width(values[site].shape[-1])
    return values


def counterfactual(
    model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples
) -> dict[Site, Float[Tensor, "batch length d"]]:
    """The sites' tensors on the patch prompts."""
    if examples.patch is None:
        raise ValueError("these examples have no patch prompts: give an end point (circuits.end_points)")
    return site_values(model, list(dictionaries), examples.patch)


def node_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    patch: Mapping[Site, EndPoint] | None = None,
    *,
    method: Method = "ig",
    steps: int = 10,
    rule: Rule = "midpoint",
    slope: Slope = "secant",
    totals: bool = False,
    start: int = 0,
) -> NodeEffects:
    """Effects of moving every node from the clean prompt to `patch` (by default the counterfactual prompt).

    `attribution` takes the gradient at the clean point, one backward pass for all sites. `ig` averages it over
    `steps` points of the line to the patch state, one site at a time with the rest of the model unmodified; `left`
    end points are those of the original code. `totals` also measures what the whole site does, for the gap. Positions
    before `start`, such as a token that begins every text, do not move.
    """
    streams = stream_sites(model)
    clean = site_values(model, list(dict.fromkeys([*streams, *dictionaries])), examples.clean, dictionaries)
    patch = counterfactual(model, dictionaries, examples) if patch is None else patch
    offset = {"midpoint": 0.5, "left": 0.0}[rule]
    alphas = [(k + offset) / steps for k in range(steps)]
    at_clean = clean_gradients(model, list(dictionaries), examples, metric) if method == "attribution" else {}
    base = None
    if totals:
        with torch.no_grad():
            base = measure(model, metric, examples.clean, examples)
    found: NodeEffects = {}
    for site in dictionaries:
        dictionary = dictionaries[site]
        moves = moves_between(dictionary, clean[site], patch[site], slope).from_position(start)
        path = Path(model, site, clean, moves.shift, examples, metric)
        gradient = at_clean[site] if method == "attribution" else path.gradient(alphas)
        with torch.no_grad():
            acts = moves.change * moves.dot_rows(gradient.flatten(0, 1), dictionary.W_dec)
            total = None if base is None else path.end() - base
            found[site] = SiteEffects(moves, gradient, acts, (moves.error * gradient).sum(-1), total)
    return found


def clean_gradients(
    model: PreTrainedModel, sites: Sequence[Site], examples: Examples, metric: Metric
) -> dict[Site, Float[Tensor, "batch length d"]]:
    """Gradient of each example's metric with respect to every site, at the clean prompt: one pass."""
    first = stream_sites(model)[0]
    leaf = site_values(model, [first], examples.clean)[first].detach().requires_grad_()
    with frozen(model), capture(model, sites, stop_after=False) as values:
        metric_values = measure(model, metric, examples.clean, examples, {first: lambda _: leaf})
    seen = [site for site in sites if site in values]  # a metric on a site ends the pass there
    found = torch.autograd.grad(metric_values.sum(), [values[site] for site in seen], allow_unused=True)
    gradients = dict(zip(seen, found, strict=True))
    return {site: torch.zeros_like(leaf) if gradients.get(site) is None else gradients[site] for site in sites}


@dataclass(frozen=True)
class Path:
    """The straight line on which one site moves, the rest of the model unmodified."""

    model: PreTrainedModel
    site: Site
    clean: Mapping[Site, Tensor]
    shift: Float[Tensor, "batch length d"]
    examples: Examples
    metric: Metric

    def gradient(self, alphas: Sequence[float]) -> Float[Tensor, "batch length d"]:
        """Mean gradient of each example's metric with respect to the site, over the points start + alpha * shift.

        The points are a batch dimension, as many at once as fit.
        """
        at_once = max(1, _TOKENS // self.shift[..., 0].numel())
        total = torch.zeros_like(self.shift)
        for low in range(0, len(alphas), at_once):
            points = self._points(alphas[low : low + at_once]).requires_grad_()
            with frozen(self.model):
                values = self._measured(points)
                (gradient,) = torch.autograd.grad(values.sum(), points, allow_unused=True)
            if gradient is not None:
                total += gradient.unflatten(0, (-1, len(self.shift))).sum(0)
        return total / len(alphas)

    @torch.no_grad()
    def end(self) -> Float[Tensor, " batch"]:
        """The metric with the whole site at its patch value."""
        return self._measured(self._points([1.0]))

    def _points(self, alphas: Sequence[float]) -> Float[Tensor, "points_batch length d"]:
        alpha = torch.tensor(alphas, dtype=self.shift.dtype, device=self.shift.device)[:, None, None, None]
        start = self.clean[entry_of(self.model, self.site, self.metric.reads).moved]
        return (start + alpha * self.shift).flatten(0, 1).detach()

    def _measured(self, points: Tensor) -> Tensor:
        """The metric with the site moved to the given points, each a copy of the batch."""
        entry = entry_of(self.model, self.site, self.metric.reads)
        repeats = len(points) // len(self.shift)
        repeated = self.examples if repeats == 1 else self.examples.repeat(repeats)
        edits = entry.edits(self.clean, repeats, points)
        with skipping(self.model, entry.skipped):
            return measure(self.model, self.metric, repeated.clean, repeated, edits)
