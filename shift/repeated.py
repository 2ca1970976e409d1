"""The same prompts read again and again with other edits: blocks before the first edited site run only once.

The residual stream of the first pass is kept, as far as memory allows, and a later pass enters at the last stream site
that no edit comes before. What comes out is the same to the bit: the blocks that run are given the same input.
"""

from collections.abc import Mapping
from contextlib import ExitStack

import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from circuits.suffix import skipping, stream_sites
from saes.families import site_names
from saes.sites import Edit, Site, capture, intervene
from shift.reading import Reading

KEPT_BYTES = 1 << 30
"""of residual streams, by default"""


class RepeatedReading:
    """What a classifier sees of some prompts under any edits, as shift.probe.readout gives it."""

    def __init__(
        self,
        model: PreTrainedModel,
        reading: Reading,
        tokens: Int[Tensor, "examples length"],
        position: Int[Tensor, " examples"],
        *,
        batch_size: int = 256,
        kept_bytes: int = KEPT_BYTES,
    ) -> None:
        self._model, self._reading = model, reading
        order = site_names(model)
        self._order = {name: i for i, name in enumerate(order)}
        behind = self._order.get(reading.site.name, len(order))
        self._streams = [s for s in stream_sites(model) if self._order[s.name] <= behind]
        by_length = position.argsort(stable=True)
        self._back = by_length.argsort()
        self._batches = []
        for chosen in by_length.split(batch_size):
            at = position[chosen]
            self._batches.append((tokens[chosen, : int(at.max()) + 1], at))
        width = model.get_input_embeddings().weight.shape[1]  # type: ignore[union-attr]
        size = sum(t.numel() for t, _ in self._batches) * width * model.dtype.itemsize * len(self._streams)
        self._kept: list[dict[Site, Tensor]] | None = [] if size <= kept_bytes else None
        self.unedited = self._first()

    @torch.no_grad()
    def read(self, edits: Mapping[Site, Edit] | None = None) -> Float[Tensor, "examples d"]:
        """With the model edited, on the CPU."""
        if not edits:
            return self.unedited
        first = min(self._order.get(site.name, 0) for site in edits)  # a site of no circuit: nothing is left out
        before = [i for i, s in enumerate(self._streams) if self._order[s.name] <= first]
        enter = before[-1] if before and self._kept is not None else 0
        return torch.cat([self._run(i, enter, edits) for i in range(len(self._batches))])[self._back]

    def _run(self, number: int, enter: int, edits: Mapping[Site, Edit]) -> Float[Tensor, "batch d"]:
        """One batch, with the first `enter` blocks left out."""
        tokens, position = self._batches[number]
        given = dict(edits)
        with ExitStack() as stack:
            if enter and self._kept is not None:
                site = self._streams[enter]
                stream = self._kept[number][site]
                edit = edits.get(site)
                given[site] = lambda _: stream if edit is None else edit(stream)
                stack.enter_context(skipping(self._model, enter))
            stack.enter_context(intervene(self._model, given))
            values = stack.enter_context(capture(self._model, [self._reading.site]))
            self._model(input_ids=tokens.to(self._model.device), use_cache=False)
        return self._reading.kept(values[self._reading.site], position)

    @torch.no_grad()
    def _first(self) -> Float[Tensor, "examples d"]:
        rows, site = [], self._reading.site
        wanted = list(dict.fromkeys([*(self._streams[1:] if self._kept is not None else ()), site]))
        for tokens, position in self._batches:
            with capture(self._model, wanted) as values:
                self._model(input_ids=tokens.to(self._model.device), use_cache=False)
            if self._kept is not None:
                self._kept.append({s: values[s] for s in self._streams[1:]})
            rows.append(self._reading.kept(values[site], position))
        return torch.cat(rows)[self._back]
