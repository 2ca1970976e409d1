"""Linear probes of the whole board: the supervised ceiling beside the dictionaries (Nanda et al. 2023)."""

from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from boardgames.reconstruction import micro_f1


@dataclass(frozen=True)
class ProbeScore:
    """F1 on the scoring split."""

    coverage: float  # mean over mine and yours on 64 squares of that column's F1
    reconstruction: float  # F1 pooled over columns and positions
    f1: Float[np.ndarray, " property"]


def fit_board_probe(
    x: Float[Tensor, "rows d"],
    mine: Bool[np.ndarray, "rows 64"],
    yours: Bool[np.ndarray, "rows 64"],
    *,
    epochs: int = 8,
    batch_size: int = 1024,
    seed: int = 0,
) -> nn.Module:
    """One linear softmax over (empty, mine, yours) for every square, trained together with Adam."""
    target = torch.from_numpy(mine.astype(np.int64) + 2 * yours.astype(np.int64))
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(x.shape[1], 192, device=x.device)
    nn.init.zeros_(head.weight)
    nn.init.zeros_(head.bias)
    probe = nn.Sequential(_Standardise(x.mean(0), x.std(0)), head)
    total = epochs * (len(x) // batch_size + 1)
    optimizer = torch.optim.Adam(probe.parameters(), lr=1e-2)
    decay = torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.01, total)
    for _ in range(epochs):
        for rows in torch.randperm(len(x), generator=generator).split(batch_size):
            logits = probe(x[rows]).unflatten(-1, (3, 64))
            loss = nn.functional.cross_entropy(logits, target[rows].to(x.device))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            decay.step()
    return probe.requires_grad_(False)


class _Standardise(nn.Module):
    """Zero mean and unit variance per coordinate: Adam's one learning rate then fits all of them."""

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Tensor, std: Tensor) -> None:
        super().__init__()
        self.register_buffer("mean", mean)
        self.register_buffer("std", std.clamp_min(1e-6))

    def forward(self, x: Tensor) -> Tensor:
        return (x - self.mean) / self.std


@torch.no_grad()
def score_board_probe(probe: nn.Module, x: Float[Tensor, "rows d"], board: Bool[np.ndarray, "rows 128"]) -> ProbeScore:
    """Score argmax predictions against the columns mine a1..h8, yours a1..h8."""
    state = probe(x).unflatten(-1, (3, 64)).argmax(-2).cpu().numpy()
    predicted = np.concatenate([state == 1, state == 2], axis=1)
    hits = (predicted & board).sum(0)
    f1 = 2 * hits / np.maximum(predicted.sum(0) + board.sum(0), 1)
    return ProbeScore(float(f1.mean()), micro_f1(int(hits.sum()), int(predicted.sum()), int(board.sum())), f1)
