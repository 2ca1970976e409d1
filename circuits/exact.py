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
            steps = _steps(moves, dictionary, places, some)
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


def _steps(
    moves: Moves, dictionary: Dictionary, places: Places, nodes: Sequence[Moved]
) -> Float[Tensor, "nodes length d"]:
    """How each node moves the site's tensor in its example."""
    table = torch.tensor([(node.example, node.place, node.feature) for node in nodes], device=moves.error.device)
    example, place, feature = table.unbind(1)
    here = places.index.to(table.device)[example] == place[:, None]
    # a feature's number is looked up once however many examples it moves in; ERROR has no number
    wanted, inverse = feature.clamp_min(0).unique(return_inverse=True)
    change = moves.of_features(wanted, moves.change)[inverse, example]
    steps = torch.where(
        (feature == ERROR)[:, None, None],
        moves.error[example],
        change[..., None] * dictionary.W_dec[feature.clamp_min(0)][:, None],
    )
    return steps * here[..., None]


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
