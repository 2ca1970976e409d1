"""Shuffled batches of activations of fixed size, a pure function of (tokens, seed, batch number).

Each epoch permutes the rows of tokens; a refill harvests the next few rows at all sites in one pass and shuffles
their positions together. Mixing is complete within a refill and none between refills; the last positions of a
refill that do not fill a batch are left out. Batch n is the same whether or not the batches before it were drawn.
"""

from collections.abc import Iterator, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from saes.harvest import harvest
from saes.sites import Site

Activations = dict[Site, Float[Tensor, "batch d"]]


@runtime_checkable
class ActivationStream(Protocol):
    """Where a training loop's batches come from."""

    def batches(self, start: int = 0) -> Iterator[Activations]:
        """Batches number start, start + 1, ... without end."""
        ...

    def sample(self) -> Activations:
        """Activations for initial means and norms."""
        ...


class ActivationBuffer:
    """Endless batches of `batch_size` positions from `tokens` [rows, length] where `mask` is True."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        tokens: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        *,
        batch_size: int,
        rows_per_refill: int = 2048,
        seed: int = 0,
    ) -> None:
        self._model, self._sites, self._tokens, self._mask = model, list(sites), tokens, mask
        self.batch_size, self._rows, self._seed = batch_size, min(rows_per_refill, len(tokens)), seed
        if not any(self._batches_in(rows) for rows in self._refills(0)):
            raise ValueError(
                f"{int(mask.sum())} positions in refills of {self._rows} rows never fill a batch of {batch_size}: "
                "use more tokens or a smaller batch"
            )

    def batches(self, start: int = 0) -> Iterator[Activations]:
        """Batches number start, start + 1, ... without end; refills before `start` are not harvested."""
        skip, epoch = start, 0
        while True:
            for refill, rows in enumerate(self._refills(epoch)):
                count = self._batches_in(rows)
                if skip >= count:
                    skip -= count
                    continue
                order = np.random.default_rng([self._seed, epoch, refill]).permutation(int(self._mask[rows].sum()))
                values = self._harvest(rows)
                for i in range(skip, count):
                    chosen = torch.from_numpy(order[i * self.batch_size : (i + 1) * self.batch_size])
                    yield {site: x[chosen.to(x.device)] for site, x in values.items()}
                skip = 0
            epoch += 1

    def sample(self) -> Activations:
        """All positions of the first refill, for initial means and norms."""
        return self._harvest(self._refills(0)[0])

    def _refills(self, epoch: int) -> list[Tensor]:
        order = torch.from_numpy(np.random.default_rng([self._seed, epoch]).permutation(len(self._tokens)))
        return list(order.split(self._rows))

    def _batches_in(self, rows: Tensor) -> int:
        return int(self._mask[rows].sum()) // self.batch_size

    def _harvest(self, rows: Tensor) -> Activations:
        mask = self._mask[rows].flatten()
        parts: dict[Site, list[Tensor]] = {site: [] for site in self._sites}
        for values in harvest(self._model, self._tokens[rows], self._sites):
            for site in self._sites:
                parts[site].append(values[site].flatten(0, 1))
        return {site: torch.cat(x)[mask] for site, x in parts.items()}
