"""Nodes in the order of their effects, of features or of the neurons of the same sites."""

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.activity import Activity
from circuits.discover import CircuitConfig, batch_effects
from circuits.end_points import EndPoints, ToMean
from circuits.examples import Examples
from circuits.faithfulness import Evaluator
from circuits.feature_acts import Dictionaries, FeatureActs
from circuits.metrics import Metric
from circuits.node_sets import Order, Ranking, Space
from circuits.selection import Sizes
from saes.dictionary import IdentityDictionary
from saes.sites import Site


def rank_nodes(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    finding: Examples,
    metric: Metric,
    to: EndPoints,
    effects: CircuitConfig,
    order: Order,
    *,
    progress: bool = True,
) -> tuple[Ranking, Activity]:
    """Nodes in the order of their effects, and their activity, on the examples that find circuits."""
    sizes, activity = Sizes(len(finding)), Activity(len(finding))
    space = Space.of(dictionaries, len(finding.grouped))
    batches = finding.batches(effects.batch_size)
    for batch in tqdm(batches, desc="node effects", unit="batch", disable=not progress):
        found = batch_effects(model, dictionaries, batch, metric, to, effects)
        for site, values in found.items():
            features = dictionaries[site].features
            sizes.add(site, values.at_places(batch.grouped, features))
            activity.add(site, values.moves, batch.grouped, features)
    direction = 1.0
    if order == "signed":
        ends = Evaluator(model, dictionaries, metric, to, batch_size=effects.batch_size).run(finding, {})
        direction = float(np.sign(ends.model.mean() - ends.empty.mean()))
    return Ranking.of(space, sizes, activity, order, direction), activity


def neurons_of(dictionaries: Dictionaries) -> dict[Site, IdentityDictionary]:
    """The coordinates of the same sites as nodes; their errors are zero."""
    return {
        site: IdentityDictionary(site, d.width).to(d.W_dec.device, d.W_dec.dtype) for site, d in dictionaries.items()
    }


@torch.no_grad()
def to_neurons(to: EndPoints, dictionaries: Dictionaries) -> EndPoints:
    """The same end point for neurons: a mean of features and errors is the mean of the site, for decoding is affine."""
    if not isinstance(to, ToMean):
        return to
    composed = {site: to.states[site].compose(d) for site, d in dictionaries.items()}
    return ToMean({site: FeatureActs(x, torch.zeros_like(x)) for site, x in composed.items()})
