"""How often features fire and how their decoder rows lie to each other: counts, histograms, plots.

A feature fires at a position where it is not zero. `dead` features fire at no position, `dense` ones at more than a
tenth of them (SAEBench's `freq_over_10_percent`); alive = 1 - dead. Shares of features describe the sample and carry
no standard error: dead shares fall as a sample grows.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from saes.sweep import save_figure

DENSE = 0.1
_BINS_PER_DECADE = 4
_COSINE_BINS = 20


@dataclass(frozen=True)
class FeatureCounts:
    """What each of F features did on `tokens` positions."""

    tokens: int
    fires: Int[Tensor, " f"]
    """positions at which it is not zero"""
    rows: Int[Tensor, " f"]
    """rows of tokens in which it fires at least once"""
    maxima: Float[Tensor, " f"]
    """its largest activation"""

    @property
    def frequency(self) -> Float[Tensor, " f"]:
        """Share of positions at which each feature fires."""
        return self.fires.double() / self.tokens

    def share_above(self, frequency: float) -> float:
        """Share of features that fire at more than a share of the positions."""
        return float((self.frequency > frequency).double().mean())

    @property
    def alive(self) -> float:
        return self.share_above(0)

    @property
    def dead(self) -> float:
        return 1 - self.alive

    @property
    def dense(self) -> float:
        return self.share_above(DENSE)


class FeatureCounter:
    """Adds up FeatureCounts; memory is that of three numbers a feature."""

    def __init__(self, features: int) -> None:
        self._tokens = 0
        self._fires, self._rows = torch.zeros(2, features, dtype=torch.int64)
        self._maxima = torch.full((features,), -math.inf)

    def add(self, f: Float[Tensor, "n f"], on: Bool[Tensor, "n f"], rows: Sequence[int]) -> None:
        """Features at the positions of whole rows, and where they are not zero; `rows`: positions of each row."""
        self._tokens += len(f)
        if not len(f):
            return
        self._fires += on.sum(0).cpu()
        self._rows += torch.stack([part.any(0) for part in on.split(list(rows))]).sum(0).cpu()
        self._maxima = torch.maximum(self._maxima, f.amax(0).float().cpu())

    def counts(self) -> FeatureCounts:
        return FeatureCounts(self._tokens, self._fires, self._rows, self._maxima)


@dataclass(frozen=True)
class Histogram:
    """Numbers of features between successive edges, and those that no bin can hold."""

    edges: Float[np.ndarray, " edges"]
    counts: Int[np.ndarray, " bins"]
    outside: int

    def to_json(self) -> dict[str, Any]:
        return {"edges": self.edges.tolist(), "counts": self.counts.tolist(), "outside": self.outside}


def frequency_histogram(counts: FeatureCounts) -> Histogram:
    """Of log10 of the frequency, four bins a decade from one position of the sample up to 1; `outside` are dead."""
    decades = math.ceil(math.log10(max(counts.tokens, 2)))
    edges = np.linspace(-decades, 0, decades * _BINS_PER_DECADE + 1)
    frequency = counts.frequency.numpy()
    alive = frequency[frequency > 0]
    return Histogram(edges, np.histogram(np.log10(alive), edges)[0], len(frequency) - len(alive))


def cosine_histogram(cosines: Float[Tensor, " f"]) -> Histogram:
    """Of largest absolute cosines, twenty bins from 0 to 1."""
    edges = np.linspace(0, 1, _COSINE_BINS + 1)
    return Histogram(edges, np.histogram(cosines.clamp(0, 1).cpu().numpy(), edges)[0], 0)


@dataclass(frozen=True)
class NearestRows:
    """The largest cosine of each row with another row, and the largest absolute one."""

    signed: Float[Tensor, " f"]
    absolute: Float[Tensor, " f"]


@torch.no_grad()
def nearest_rows(rows: Float[Tensor, "f d"], block_elements: int = 1 << 24) -> NearestRows:
    """Cosines are made a block of rows at a time, at most `block_elements` (or F) of them; zero rows have cosine 0.

    A single row has no other: both are 0.
    """
    unit = torch.nn.functional.normalize(rows.float(), dim=1)
    if len(unit) < 2:
        return NearestRows(unit.new_zeros(len(unit)).cpu(), unit.new_zeros(len(unit)).cpu())
    signed, absolute = [], []
    size = max(1, block_elements // len(unit))
    for start in range(0, len(unit), size):
        cosines = unit[start : start + size] @ unit.T
        itself = torch.arange(len(cosines), device=cosines.device)
        cosines[itself, start + itself] = -math.inf
        largest = cosines.amax(1)
        cosines[itself, start + itself] = math.inf
        signed.append(largest)
        absolute.append(torch.maximum(largest, -cosines.amin(1)))
    return NearestRows(*(torch.cat(parts).clamp(-1, 1).cpu() for parts in (signed, absolute)))


def plot_histograms(series: Mapping[str, Histogram], path: Path | str, label: str, outside: str | None = None) -> None:
    """One outline a series over the same kind of axis; `outside`: what to call the features that no bin holds."""
    from matplotlib.figure import Figure  # a figure of its own: no window, no global state

    figure = Figure(figsize=(6.4, 4.2), layout="constrained")
    axes = figure.add_subplot()
    for name, histogram in series.items():
        share = histogram.outside / max(1, histogram.outside + int(histogram.counts.sum()))
        text = name if outside is None else f"{name} ({share:.1%} {outside})"
        axes.stairs(histogram.counts, histogram.edges, label=text)
    axes.set_xlabel(label)
    axes.set_ylabel("features")
    axes.grid(alpha=0.3)
    if len(series) <= 16:  # more would cover the plot
        axes.legend(fontsize=7)
    save_figure(figure, path)
