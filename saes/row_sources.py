"""Where a buffer's rows of tokens come from: memory, permuted in each epoch, or a corpus, in its own order.

A source is endless and says of every round of rows, in plain JSON, from where it is read again.
"""

import logging
from collections.abc import Iterator
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saes.corpus import Corpus
from saes.sources import CorpusError

Place = dict[str, Any]  # plain JSON
_log = logging.getLogger(__name__)


class Round(NamedTuple):
    """The rows of one refill, of all ranks together."""

    place: Place  # where these rows are read again
    epoch: int
    row: int  # rows of this epoch before these
    tokens: Int[Tensor, "rows length"]
    keep: Bool[Tensor, "rows length"]


@runtime_checkable
class RowSource(Protocol):
    """Rows of tokens without end."""

    def rounds(self, size: int, place: Place | None = None) -> Iterator[Round]:
        """Rounds of `size` rows from that place on, by default from the start; the last of an epoch may have fewer."""
        ...


class MemoryRows:
    """`tokens` [rows, length] where `mask` is True, permuted anew in each epoch."""

    def __init__(self, tokens: Int[Tensor, "rows length"], mask: Bool[Tensor, "rows length"], seed: int = 0) -> None:
        self._tokens, self._mask, self._seed = tokens, mask, seed

    def __len__(self) -> int:
        return len(self._tokens)

    def rounds(self, size: int, place: Place | None = None) -> Iterator[Round]:
        epoch, row = (place["epoch"], place["row"]) if place else (0, 0)
        while True:
            order = torch.from_numpy(np.random.default_rng([self._seed, epoch]).permutation(len(self._tokens)))
            for start in range(row, len(order), size):
                rows = order[start : start + size]
                yield Round({"epoch": epoch, "row": start}, epoch, start, self._tokens[rows], self._mask[rows])
            epoch, row = epoch + 1, 0


class CorpusRows:
    """A corpus from `start`, a cursor of one of its streams, to its end, and from `start` again."""

    def __init__(self, corpus: Corpus, *, drop_bos: bool = False, start: dict[str, Any] | None = None) -> None:
        """`drop_bos`: leave out BOS tokens and the first token of every row."""
        self._corpus, self._drop_bos, self._start = corpus, drop_bos, start

    def rounds(self, size: int, place: Place | None = None) -> Iterator[Round]:
        """CorpusError if there is no row between the start and the end."""
        epoch, row = (place["epoch"], place["row"]) if place else (0, 0)
        stream = self._corpus.stream(place["cursor"] if place else self._start)
        while True:
            here = {"epoch": epoch, "row": row, "cursor": stream.cursor()}
            rows = stream.take(size)
            if len(rows):
                keep = rows.counted(self._drop_bos, self._corpus.layout.bos_id)
                yield Round(here, epoch, row, rows.tokens, keep)
                row += len(rows)
            elif row == 0:
                raise CorpusError("the corpus has no row left to train on")
            else:
                _log.info("the corpus has ended after %d rows and is read again", row)
                epoch, row, stream = epoch + 1, 0, self._corpus.stream(self._start)
