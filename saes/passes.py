"""Passes of a language model over a batch of tokens: up to some sites, whole, and with sites replaced.

What a pass is compared by: the loss of every predicted token, and the divergence of the next-token distributions from
those of the clean pass, both in nats and summed over each row.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor
from transformers import PreTrainedModel

from saes.samples import TokenBatch
from saes.sites import Edit, Site, SiteError, capture, intervene

_CHUNK = 1 << 25  # log-probabilities that are worked on at once


def clean_activations(
    model: PreTrainedModel, sites: Sequence[Site], batches: Iterable[TokenBatch]
) -> Iterator[tuple[TokenBatch, dict[Site, Tensor]]]:
    """Every batch with its activations [rows, length, D] at the sites; the passes stop after the deepest."""
    for batch in batches:
        with torch.no_grad(), capture(model, sites) as values:
            model(input_ids=batch.rows.tokens.to(model.device), use_cache=False)
        for site in sites:
            if site not in values:
                raise SiteError(f"{site}: {site.module!r} does not run in a forward pass")
        yield batch, values


def side_by_side(sites: Sequence[Site], values: Mapping[Site, Tensor]) -> Tensor:
    """The tensors that a dictionary reads or writes, [*, D of all]."""
    return values[sites[0]] if len(sites) == 1 else torch.cat([values[site] for site in sites], dim=-1)


class Passes:
    """The passes of the language model over one batch; losses and KL as sums over each row."""

    def __init__(self, model: PreTrainedModel, batch: TokenBatch) -> None:
        self._model, self._tokens = model, batch.rows.tokens.to(model.device)
        self._keep = batch.keep.to(model.device)
        self._predicts = self._keep[:, :-1] & batch.rows.mask[:, 1:].to(model.device)
        self._targets = self._tokens[:, 1:][self._predicts]
        self.original: dict[str, Tensor] = {}

    def clean(self, sites: Sequence[Site]) -> dict[Site, Tensor]:
        """Activations of the sites, whole; sets `original`: the loss, and the number of predictions, of each row."""
        with capture(self._model, sites, stop_after=False) as values:
            logits = self._logits()
        self._log_p = torch.cat([part.float().log_softmax(-1) for part in _chunks(logits)] or [logits])
        loss = -self._log_p.gather(1, self._targets[:, None])[:, 0]
        self.original = {"loss_original": self._by_row(loss), "predictions": self._predicts.sum(1)}
        return values

    def replaced(self, parts: Mapping[Site, Tensor]) -> dict[str, Tensor]:
        """`loss` and `kl` of each row with sites set to `parts` [n, D], [D] or [] at the n counted positions."""
        with intervene(self._model, {site: self._edit(part) for site, part in parts.items()}):
            logits = self._logits()
        losses, divergences = [], []
        for log_p, z, target in zip(_chunks(self._log_p), _chunks(logits), self._split_targets(logits), strict=True):
            log_q = z.float().log_softmax(-1)
            losses.append(-log_q.gather(1, target[:, None])[:, 0])
            divergences.append((log_p.exp() * (log_p - log_q)).sum(1))
        return {"loss": self._by_row(_joined(losses)), "kl": self._by_row(_joined(divergences))}

    def _logits(self) -> Tensor:
        return self._model(input_ids=self._tokens, use_cache=False).logits[:, :-1][self._predicts]

    def _split_targets(self, logits: Tensor) -> list[Tensor]:
        return list(self._targets.split([len(part) for part in _chunks(logits)])) if len(logits) else []

    def _edit(self, part: Tensor) -> Edit:
        def edit(value: Tensor) -> Tensor:
            value = value.clone()
            value[self._keep] = part.to(value)
            return value

        return edit

    def _by_row(self, numbers: Float[Tensor, " predictions"]) -> Float[Tensor, " rows"]:
        return by_row(numbers, self._predicts.sum(1))


def by_row(numbers: Num[Tensor, " n"], lengths: Int[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """Sums over the positions of each row, in float64, from those of all rows in order."""
    numbers, lengths = numbers.double(), lengths.to(numbers.device)
    row = torch.repeat_interleave(torch.arange(len(lengths), device=numbers.device), lengths)
    return numbers.new_zeros(len(lengths)).index_add_(0, row, numbers)


def _chunks(table: Float[Tensor, "n v"]) -> tuple[Tensor, ...]:
    return table.split(max(1, _CHUNK // table.shape[1])) if len(table) else ()


def _joined(parts: Sequence[Tensor]) -> Tensor:
    return torch.cat(list(parts)) if parts else torch.zeros(0)
