"""What the oracle judge's labels buy without features: another head, fitted to the intended label directly.

A probe on all labelled prompts, and last-layer retraining (DFR, Kirichenko et al. 2023): heads on small subsets with
the four groups equally often, their weights averaged. There the penalty is L1, tuned on a half; here fit_head's L2.
"""

from collections.abc import Sequence

import torch
from torch import nn

from shift.contest import Contest
from shift.methods import Method
from shift.probe import fit_head
from shift.trim import Cells

GROUP = 50
"""prompts of each group in a subset"""
SUBSETS = 10


def intended_probe(contest: Contest) -> Sequence[Cells]:
    """A head fitted to the intended label of all labelled prompts, as they come."""
    return [contest.scored(fit_head(contest.seen_labelled, contest.known.intended))]


def last_layer_retraining(contest: Contest) -> Sequence[Cells]:
    """The mean of heads fitted to the intended label of group-balanced subsets of the labelled prompts."""
    heads = []
    for draw in contest.rng.integers(2**31, size=SUBSETS).tolist():
        rows = contest.known.equal_rows(draw, most=GROUP)
        heads.append(fit_head(contest.seen_labelled[rows], contest.known.intended[rows]))
    return [contest.scored(_mean(heads))]


def _mean(heads: Sequence[nn.Linear]) -> nn.Linear:
    mean = nn.Linear(heads[0].in_features, 1, dtype=heads[0].weight.dtype).requires_grad_(False)
    mean.weight.copy_(torch.stack([head.weight for head in heads]).mean(0))
    mean.bias.copy_(torch.stack([head.bias for head in heads]).mean(0))
    return mean


METHODS: tuple[Method, ...] = (
    Method("intended_probe", "Probe for the intended property (labelled prompts)", "labelled", intended_probe),
    Method("last_layer", "Last-layer retraining on equal groups (DFR)", "labelled", last_layer_retraining),
)
