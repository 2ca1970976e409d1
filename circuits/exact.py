"""Exact effects: one node is moved to its patch value, and the metric measured (activation patching, Vig et al. 2020).

A node is moved at all positions of its place at once. Many copies of an example, one node each, are one batch; the
blocks before the site are not run again.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from circuits.attribution import counterfactual, site_values
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries, NodeScores
from circuits.metrics import Metric, measure
from circuits.moves import EndPoint, Moves, moves_between
from circuits.places import Places
from circuits.suffix import entry_of, skipping, stream_sites
from saes.dictionary import Dictionary
from saes.sites import Site

ERROR = -1  # in place of a feature's number


@dataclass(frozen=True)
class Moved:
    """One node of one example: which example, place, and feature (ERROR for the error node)."""

    example: int
    place: int
    feature: int


@torch.no_grad()
def exact_effects(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    patch: Mapping[Site, EndPoint] | None = None,
    *,
    wanted: Mapping[Site, Sequence[Moved]] | None = None,
    batch_size: int = 256,
) -> dict[Site, NodeScores]:
    """m(one node moved) - m(clean), of `wanted` nodes or of all that differ: acts [batch, places, F], error likewise.

    Costs one forward row per node and example. Nodes that are not wanted, or do not differ, have 0.
    """
    places = examples.grouped
    clean = site_values(model, list(dict.fromkeys([*stream_sites(model), *dictionaries])), examples.clean, dictionaries)
    patch = counterfactual(model, dictionaries, examples) if patch is None else patch
    base = measure(model, metric, examples.clean, examples)
    found = {}
    for site in dictionaries if wanted is None else wanted:
        dictionary = dictionaries[site]
        moves = moves_between(dictionary, clean[site], patch[site], "clean")
        nodes = all_moved(moves, places) if wanted is None else wanted[site]
        acts = base.new_zeros(len(examples), len(places), dictionary.features)
        error = base.new_zeros(len(examples), len(places))
        for low in range(0, len(nodes), batch_size):
            some = nodes[low : low + batch_size]
            steps = torch.stack([_step(moves, dictionary, places, node) for node in some])
            example = torch.tensor([node.example for node in some])
            change = _measured(model, metric, examples, site, clean, example, steps) - base[example]
            for node, value in zip(some, change, strict=True):
                if node.feature == ERROR:
                    error[node.example, node.place] = value
                else:
                    acts[node.example, node.place, node.feature] = value
        found[site] = NodeScores(acts, error)
    return found


def all_moved(moves: Moves, places: Places) -> list[Moved]:
    """Every node of a site that differs between clean and patch, by example and place."""
    length = moves.error.shape[1]
    example, position = moves.row // length, moves.row % length
    place = places.index.to(moves.row.device)[example, position]
    inside = (place >= 0) & (moves.change != 0)
    features = torch.stack([example, place, moves.feature], 1)[inside].unique(dim=0)
    at = (moves.error != 0).any(-1).nonzero()
    place = places.index.to(at.device)[at[:, 0], at[:, 1]]
    errors = torch.stack([at[:, 0], place, torch.full_like(place, ERROR)], 1)[place >= 0].unique(dim=0)
    return [Moved(*row) for row in [*features.tolist(), *errors.tolist()]]


def _step(moves: Moves, dictionary: Dictionary, places: Places, node: Moved) -> Float[Tensor, "length d"]:
    """How one node moves the site's tensor in its example."""
    length = moves.error.shape[1]
    here = (places.index[node.example] == node.place).to(moves.error.device)
    if node.feature == ERROR:
        return moves.error[node.example] * here[:, None]
    hit = (moves.feature == node.feature) & (moves.row // length == node.example)
    change = moves.change.new_zeros(length)
    change[moves.row[hit] % length] = moves.change[hit]
    return (change * here)[:, None] * dictionary.W_dec[node.feature]


def _measured(
    model: PreTrainedModel,
    metric: Metric,
    examples: Examples,
    site: Site,
    clean: Mapping[Site, Tensor],
    example: Tensor,
    steps: Float[Tensor, "rows length d"],
) -> Float[Tensor, " rows"]:
    entry, rows = entry_of(model, site, metric.reads), examples.take(example)
    streams = {s: clean[s][example] for s in (entry.held, entry.moved) if s is not None}
    with skipping(model, entry.skipped):
        edits = entry.edits(streams, 1, streams[entry.moved] + steps)
        return measure(model, metric, rows.clean, rows, edits)
