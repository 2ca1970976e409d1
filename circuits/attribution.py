"""Effects of features and error nodes on a metric (Marks et al. 2024, section 3.1): exact, or by gradients.

The effect of a node is the change of the metric when it alone moves from its clean to its patch value. Because
decoding is affine, moving all features and the error of a site along the straight line moves the site itself along a
straight line: no dictionary runs inside the model, and one gradient g at the site serves all its nodes,
effect(feature) = (change) * (g @ W_dec.T) and effect(error) = (change) . g.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, NodeScores, States, states_of
from circuits.metrics import Metric, measure
from saes.sites import Site


@dataclass(frozen=True)
class NodeEffects:
    """Effects per example and position, with what edges need: end points and the mean gradient on the path.

    effects[site] has acts [batch, length, F] and error [batch, length]; gradients[site] is [batch, length, D].
    """

    effects: dict[Site, NodeScores]
    gradients: dict[Site, Float[Tensor, "batch length d"]]
    clean: States
    patch: States


def patch_states(model: PreTrainedModel, dictionaries: Dictionaries, examples: Examples) -> States:
    """The states of the counterfactual prompts."""
    if examples.patch is None:
        raise ValueError("these examples have no patch prompts: give the patch states (zero_states or mean_states)")
    return states_of(model, dictionaries, examples.patch)


def node_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    patch: States | None = None,
    *,
    method: Literal["attribution", "ig"] = "ig",
    steps: int = 10,
    rule: Literal["midpoint", "left"] = "midpoint",
) -> NodeEffects:
    """Effects of moving every node from the clean prompt to `patch` (by default the counterfactual prompt).

    `attribution` takes the gradient at the clean point, one backward pass for all sites. `ig` averages it over
    `steps` points of the line to the patch state, one site at a time with the rest of the model unmodified; `left`
    end points are those of the original code.
    """
    clean = states_of(model, dictionaries, examples.clean)
    patch = patch_states(model, dictionaries, examples) if patch is None else patch
    offset = {"midpoint": 0.5, "left": 0.0}[rule]
    alphas = [0.0] if method == "attribution" else [(k + offset) / steps for k in range(steps)]
    effects, gradients = {}, {}
    for site, dictionary in dictionaries.items():
        start, end = clean[site].compose(dictionary), patch[site].compose(dictionary)
        gradients[site] = path_gradient(model, site, start, end.expand_as(start), examples, metric, alphas)
        change = patch[site] - clean[site]
        effects[site] = NodeScores(
            change.acts * (gradients[site] @ dictionary.W_dec.T), (change.error * gradients[site]).sum(-1)
        )
    return NodeEffects(effects, gradients, clean, patch)


def path_gradient(
    model: PreTrainedModel,
    site: Site,
    start: Float[Tensor, "batch length d"],
    end: Float[Tensor, "batch length d"],
    examples: Examples,
    metric: Metric,
    alphas: list[float],
) -> Float[Tensor, "batch length d"]:
    """Mean gradient of each example's metric with respect to the site, over the points start + alpha (end - start).

    The points are a batch dimension: one forward and one backward pass.
    """
    alpha = torch.tensor(alphas, dtype=start.dtype, device=start.device)[:, None, None, None]
    points = (start + alpha * (end - start)).flatten(0, 1).detach().requires_grad_()
    repeated = examples.take(torch.arange(len(examples)).repeat(len(alphas)))
    with torch.enable_grad():
        values = measure(model, metric, repeated.clean, repeated, {site: lambda _: points})
        (gradient,) = torch.autograd.grad(values.sum(), points)
    return gradient.unflatten(0, (len(alphas), -1)).mean(0)


@torch.no_grad()
def exact_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    patch: States | None = None,
    *,
    batch_size: int = 256,
) -> dict[Site, NodeScores]:
    """m(one node moved to its patch value) - m(clean), one forward row per node, example and position that differs."""
    clean = states_of(model, dictionaries, examples.clean)
    patch = patch_states(model, dictionaries, examples) if patch is None else patch
    base = measure(model, metric, examples.clean, examples)
    effects = {}
    for site, dictionary in dictionaries.items():
        change = patch[site] - clean[site]
        x = clean[site].compose(dictionary)
        acts, error = torch.zeros_like(change.acts), torch.zeros_like(change.error[..., 0])
        for chunk in change.acts.nonzero().split(batch_size):
            row, position, feature = chunk.unbind(1)
            step = change.acts[row, position, feature, None] * dictionary.W_dec[feature]
            moved = _moved(model, metric, examples, site, x, row, position, step)
            acts[row, position, feature] = moved - base[row]
        for chunk in (change.error != 0).any(-1).nonzero().split(batch_size):
            row, position = chunk.unbind(1)
            moved = _moved(model, metric, examples, site, x, row, position, change.error[row, position])
            error[row, position] = moved - base[row]
        effects[site] = NodeScores(acts, error)
    return effects


def _moved(
    model: PreTrainedModel,
    metric: Metric,
    examples: Examples,
    site: Site,
    x: Float[Tensor, "batch length d"],
    example: Tensor,
    position: Tensor,
    step: Float[Tensor, "rows d"],
) -> Float[Tensor, " rows"]:
    """The metric of rows that are copies of `example`, with the site moved by `step` at one position each."""
    rows = examples.take(example.cpu())
    moved = x[example].clone()
    moved[torch.arange(len(moved)), position] += step
    return measure(model, metric, rows.clean, rows, {site: lambda _: moved})


def completeness_error(effects: NodeEffects, change: Float[Tensor, " batch"], sites: list[Site]) -> dict[Site, float]:
    """How far the effects at each site, over all positions, are from adding up to the metric's whole change.

    Mean absolute gap over examples divided by the mean absolute change; meaningful at sites that all paths pass.
    """
    return {
        site: float(
            (effects.effects[site].joined().sum((1, 2)) - change).abs().mean() / change.abs().mean().clamp_min(1e-12)
        )
        for site in sites
    }
