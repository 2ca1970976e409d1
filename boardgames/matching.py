"""Which board property a feature matches best: F1 over all properties and thresholds, on labelled positions."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.confusion import Confusion, count_confusion
from boardgames.game import Labels
from boardgames.labelled_rows import LabelledRows
from boardgames.report import Positions
from saes.dictionary import Dictionary
from saes.harvest import harvest_features
from saes.sites import Site


@dataclass(frozen=True)
class Match:
    """The best-matching property of one feature, with how well it matches."""

    column: str
    square: str  # "" for properties that are about no square
    f1: float
    precision: float
    recall: float
    threshold: int  # index into THRESHOLDS
    density: float  # share of positions on which the feature fires at that threshold


def best_matches(confusion: Confusion, labels: Labels) -> list[Match | None]:
    """One per feature; None for a feature that never fires."""
    f1_TFP = confusion.f1()
    steps, features, properties = f1_TFP.shape
    best = f1_TFP.transpose(1, 0, 2).reshape(features, -1).argmax(1)
    threshold, column = np.unravel_index(best, (steps, properties))
    matches: list[Match | None] = []
    for f, (t, p) in enumerate(zip(threshold, column, strict=True)):
        fires, hits = int(confusion.fires[t, f]), int(confusion.true_positives[t, f, p])
        if not fires:
            matches.append(None)
            continue
        matches.append(
            Match(
                labels.columns[p],
                labels.squares[p],
                float(f1_TFP[t, f, p]),
                hits / fires,
                hits / max(int(confusion.positives[p]), 1),
                int(t),
                fires / confusion.rows,
            )
        )
    return matches


@torch.no_grad()
def match_features(
    model: PreTrainedModel,
    dictionaries: Mapping[Site, Dictionary],
    features: Mapping[Site, Int[Tensor, " chosen"]],
    positions: Positions | LabelledRows,
) -> dict[tuple[str, int], Match]:
    """Name chosen features of several sites, keyed by (site name, feature), from one pass over the positions.

    Games of Othello are named after everything that a square can be; other rows bring their own labels.
    """
    found = harvest_features(model, dictionaries, features, positions.tokens, torch.as_tensor(positions.mask))
    if not found:
        return {}
    if isinstance(positions, LabelledRows):
        labels = positions.labels
    else:
        labels = positions.everything
    named: dict[tuple[str, int], Match] = {}
    for site, acts in found.items():
        confusion = count_confusion([(acts, labels.matrix)], acts.amax(0))
        for feature, match in zip(features[site].tolist(), best_matches(confusion, labels), strict=True):
            if match is not None:
                named[site.name, feature] = match
    return named
