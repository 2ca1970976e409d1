"""Linear probes of board properties: the supervised ceiling beside the dictionaries (Nanda et al. 2023)."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from boardgames.reconstruction import micro_f1

_GRID = np.round(np.arange(0.05, 1.0, 0.05), 2)
CUTS = tuple(sorted(_GRID.tolist(), key=lambda p: (abs(p - 0.5), p)))
"""probabilities above which a column may be predicted; of equally good ones the first, the nearest to .5, is taken"""
_CHUNK = 8192  # rows predicted at a time
_RAREST = 1e-4  # share of rows, so that a column that is never or always true has a finite logit


class ProbeError(ValueError):
    """Rows, labels or groups of squares that do not fit together."""


@dataclass(frozen=True)
class ProbeScore:
    """F1 on the scoring split."""

    coverage: float  # mean F1 of the columns that are true in some row
    reconstruction: float  # F1 pooled over columns and positions
    f1: Float[np.ndarray, " property"]  # 0 where a column is never true


class LinearProbe(nn.Module):
    """Standardise, then one logit for each column; `cuts` are the logits above which a column is predicted."""

    mean: Tensor
    std: Tensor
    cuts: Tensor

    def __init__(self, mean: Float[Tensor, " d"], std: Float[Tensor, " d"], columns: int) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        # Adam's one learning rate fits all coordinates if they have unit variance
        self.register_buffer("std", std.clamp_min(1e-6))
        self.register_buffer("cuts", torch.zeros(columns, device=mean.device))
        self.linear = nn.Linear(len(mean), columns, device=mean.device)
        nn.init.zeros_(self.linear.weight)

    def forward(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows P"]:
        return self.linear((x - self.mean) / self.std)

    @torch.no_grad()
    def logits(self, x: Float[Tensor, "rows d"]) -> Float[Tensor, "rows P"]:
        """Of every column, computed some rows at a time, on the probe's device."""
        return torch.cat([self(rows.to(self.mean.device)) for rows in x.split(_CHUNK)])

    def predict(self, x: Float[Tensor, "rows d"]) -> Bool[np.ndarray, "rows P"]:
        """Which columns are predicted to be true."""
        return np.concatenate([(self.logits(rows) > self.cuts).cpu().numpy() for rows in x.split(_CHUNK)])


def fit_probe(
    x: Float[Tensor, "rows d"],
    labels: Bool[np.ndarray, "labelled P"],
    *,
    epochs: int = 8,
    batch_size: int = 256,
    seed: int = 0,
    learning_rate: float = 3e-2,
) -> LinearProbe:
    """Fit all columns together on x's device: binary cross-entropy, Adam, a rate that falls linearly.

    The cuts are then chosen on the same rows: for each column the probability with the highest F1.
    """
    if len(x) != len(labels) or not len(x):
        raise ProbeError(
            f"{len(x)} rows of activations and {len(labels)} of labels; expected as many of both, and some"
        )
    given = torch.as_tensor(labels)
    x = x.float()
    probe = LinearProbe(x.mean(0), x.std(0, correction=0), labels.shape[1])
    # rare columns start where their base rate is: few steps would not carry them there
    share = torch.as_tensor(labels.mean(0), dtype=torch.float32).clamp(_RAREST, 1 - _RAREST)
    probe.linear.bias.data.copy_(share.logit())
    generator = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(probe.parameters(), lr=learning_rate)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, epochs * -(-len(x) // batch_size))
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            target = given[rows].to(x.device).float()
            loss = nn.functional.binary_cross_entropy_with_logits(probe(x[rows.to(x.device)]), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    probe.requires_grad_(False)
    probe.cuts.copy_(_best_cuts(probe, x, given))
    return probe


def _best_cuts(probe: LinearProbe, x: Float[Tensor, "rows d"], labels: Bool[Tensor, "rows P"]) -> Float[Tensor, " P"]:
    """For each column the logit of the probability in CUTS with the highest F1 on these rows."""
    cuts = torch.tensor(CUTS, device=x.device).logit()
    hits, fires = (torch.zeros(len(cuts), labels.shape[1], dtype=torch.long, device=x.device) for _ in range(2))
    true = torch.zeros_like(hits[0])
    for rows, truth in zip(x.split(_CHUNK), labels.split(_CHUNK), strict=True):
        logits, truth = probe(rows), truth.to(x.device)
        true += truth.sum(0)
        for t, cut in enumerate(cuts):
            predicted = logits > cut
            fires[t] += predicted.sum(0)
            hits[t] += (predicted & truth).sum(0)
    f1 = 2 * hits.double() / (fires + true).clamp_min(1)
    return cuts[(f1 == f1.amax(0)).int().argmax(0)]


def score_probe(probe: LinearProbe, x: Float[Tensor, "rows d"], labels: Bool[np.ndarray, "rows P"]) -> ProbeScore:
    """F1 of the probe's predictions for each column, on rows that it was not fitted on."""
    predicted = probe.predict(x)
    hits, fires, true = (predicted & labels).sum(0), predicted.sum(0), labels.sum(0)
    f1 = 2 * hits / np.maximum(fires + true, 1)
    occurs = true > 0
    coverage = float(f1[occurs].mean()) if occurs.any() else 0.0
    return ProbeScore(coverage, micro_f1(int(hits.sum()), int(fires.sum()), int(true.sum())), f1)


def exclusive_states(squares: Sequence[str]) -> Int[np.ndarray, "squares states"]:
    """The columns about each square, in the order in which squares first come: the groups of board_accuracy."""
    groups: dict[str, list[int]] = {}
    for column, square in enumerate(squares):
        groups.setdefault(square, []).append(column)
    sizes = {len(columns) for columns in groups.values()}
    if len(sizes) != 1 or "" in groups:
        raise ProbeError(
            f"expected as many states of every square, found {sorted(sizes)} and {groups.get('', [])} of none"
        )
    return np.array(list(groups.values()))


def squares_right(
    probe: LinearProbe,
    x: Float[Tensor, "rows d"],
    labels: Bool[np.ndarray, "rows P"],
    groups: Int[np.ndarray, "squares states"],
) -> Bool[np.ndarray, "rows squares"]:
    """Where the most probable of a square's states is the true one; exactly one column of each group must be true."""
    wrong = np.argwhere(labels[:, groups].sum(-1) != 1)
    if len(wrong):
        row, square = wrong[0]
        raise ProbeError(
            f"row {row}: {int(labels[row, groups[square]].sum())} of the columns {groups[square].tolist()} are true; "
            "the states of a square must exclude each other and leave nothing out"
        )
    place = torch.as_tensor(groups, device=probe.mean.device)
    state = [probe.logits(rows)[:, place].argmax(-1).cpu().numpy() for rows in x.split(_CHUNK)]
    return np.concatenate(state) == labels[:, groups].argmax(-1)


def board_accuracy(
    probe: LinearProbe,
    x: Float[Tensor, "rows d"],
    labels: Bool[np.ndarray, "rows P"],
    groups: Int[np.ndarray, "squares states"],
) -> float:
    """Share of squares whose most probable state is the true one, as Nanda et al. and Karvonen report it."""
    return float(squares_right(probe, x, labels, groups).mean())
