"""Gradients of a metric at sites, on the clean prompt or averaged over a path to the end point (EAP, EAP-IG)."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.component_states import ComponentStates, Nodes
from circuits.components import ComponentError
from circuits.examples import Examples
from circuits.metrics import Metric, measure
from saes.sites import Edit, Site, intervene

Method = Literal["eap", "ig-inputs", "ig-activations", "clean-corrupted"]
Rule = Literal["midpoint", "left", "right"]


@dataclass(frozen=True)
class Pass:
    """One backward pass: tensors and gradients at sites, rows [steps * batch, length, width] with steps outermost.

    A site that the metric does not depend on has no gradient. The gradients of all passes of a method, averaged over
    steps and weighted by `share`, are the method's.
    """

    values: Mapping[Site, Tensor]
    gradients: Mapping[Site, Tensor]
    steps: int
    share: float


def fractions(steps: int, rule: Rule) -> list[float]:
    """Points of the line from clean (0) to the end point (1): middles of `steps` equal pieces, or their ends."""
    if steps < 1:
        raise ComponentError(f"steps: {steps}; integrated gradients need at least one")
    offset = {"left": 0.0, "midpoint": 0.5, "right": 1.0}[rule]
    return [(k + offset) / steps for k in range(steps)]


def passes(
    nodes: Nodes,
    metric: Metric,
    batch: Examples,
    clean: ComponentStates,
    end: ComponentStates,
    sites: Iterable[Site],
    *,
    method: Method,
    steps: int,
    rule: Rule,
) -> Iterator[Pass]:
    """The passes of a method; steps are a batch dimension.

    `eap`: the gradient on the clean prompt. `clean-corrupted`: the mean of that and of the counterfactual prompt.
    `ig-inputs`: the input embedding moves to its end point, the rest of the model follows. `ig-activations`: every
    layer output (all heads together) moves on its own, one after the other, and all these passes are averaged; as in
    the original a moved output passes no gradient on to what lies before it, so early edges come out small. Nodes that
    are whole sites (`alone`) take the gradient of their own pass instead: what the steps give is the site's effect.
    """
    sites = list(sites)
    if method == "eap":
        yield Pass(*gradients(nodes, metric, batch.clean, batch, sites), 1, 1.0)
    elif method == "clean-corrupted":
        if batch.patch is None:
            raise ComponentError("clean-corrupted needs a counterfactual prompt for every example")
        for tokens in (batch.clean, batch.patch):
            yield Pass(*gradients(nodes, metric, tokens, batch, sites), 1, 0.5)
    elif method in ("ig-inputs", "ig-activations"):
        moved = range(1) if method == "ig-inputs" else [i for i, count in enumerate(nodes.counts) if count]
        own = method == "ig-activations" and nodes.alone
        change, repeated = end - clean, batch.repeat(steps)
        alphas = torch.tensor(fractions(steps, rule), dtype=clean.input.dtype, device=clean.input.device)
        for index in moved:
            site, whole = nodes.written[index], nodes.write_all(index, change.parts[index])
            points = (alphas[:, None, None, None] * whole).flatten(0, 1)
            # nothing before the site is moved, so what is there is the clean value; it takes no gradient further back
            edits: dict[Site, Edit] = {site: lambda x, p=points: x.detach() + p}
            values, found = gradients(nodes, metric, repeated.clean, repeated, sites, edits)
            if own:
                found = {site: found[site]} if site in found else {}
            yield Pass(values, found, steps, 1.0 if own else 1 / len(moved))
    else:
        raise ComponentError(f"method {method!r}: choose eap, ig-inputs, ig-activations or clean-corrupted")


def gradients(
    nodes: Nodes,
    metric: Metric,
    tokens: Int[Tensor, "batch length"],
    examples: Examples,
    sites: Iterable[Site],
    edits: Mapping[Site, Edit] | None = None,
) -> tuple[dict[Site, Tensor], dict[Site, Float[Tensor, "batch length width"]]]:
    """Tensors at the sites, and the gradient of each example's metric there.

    At the input of a module the gradient is the one that flows through this module alone: the residual stream that
    it was read from is not counted.
    """
    seen: dict[Site, Tensor] = {}

    def keep(site: Site) -> Edit:
        def tap(x: Tensor) -> Tensor:
            # the input, and what an edit has replaced, hang on nothing that takes gradients: they start anew
            seen[site] = x.view_as(x) if x.requires_grad else x.detach().requires_grad_()
            return seen[site]

        return tap

    taps = {site: keep(site) for site in (nodes.sites[0], *sites)}
    with torch.enable_grad(), intervene(nodes.model, edits or {}):
        total = measure(nodes.model, metric, tokens, examples, taps).sum()
        found = torch.autograd.grad(total, list(seen.values()), allow_unused=True)
    values = {site: x.detach() for site, x in seen.items()}
    return values, {site: g for site, g in zip(seen, found, strict=True) if g is not None}
