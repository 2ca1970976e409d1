"""The tokens that dictionaries are measured on: rows of a corpus up to a number of counted positions, in batches.

A position counts unless it is padding or, with `drop_bos`, a BOS token or the first token of a row.
"""

from collections.abc import Iterator
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saes.corpus import Corpus, Rows


class TokenBatch(NamedTuple):
    """Rows of tokens, and the positions that count among those that `rows.mask` allows."""

    rows: Rows
    keep: Bool[Tensor, "rows context"]

    def cut(self, tokens: int) -> "TokenBatch":
        """The first rows, up to the one in which the number of counted positions reaches `tokens`."""
        before = self.keep.sum(1).cumsum(0) - self.keep.sum(1)
        count = int((before < tokens).sum())
        return TokenBatch(self.rows[:count], self.keep[:count])


class Sample:
    """The first rows of a corpus that hold `tokens` counted positions, whole, or all rows of a smaller corpus.

    It can be iterated again, which reads the corpus again: nothing is kept. The rows do not depend on `batch_rows`.
    """

    def __init__(self, corpus: Corpus, tokens: int, *, batch_rows: int = 32, drop_bos: bool = False) -> None:
        if tokens < 1 or batch_rows < 1:
            raise ValueError(f"tokens is {tokens} and batch_rows {batch_rows}: choose 1 or more")
        self.corpus, self.tokens, self._batch_rows, self._drop_bos = corpus, tokens, batch_rows, drop_bos

    def __iter__(self) -> Iterator[TokenBatch]:
        stream, left = self.corpus.stream(), self.tokens
        while left > 0 and len(rows := stream.take(self._batch_rows)):
            batch = TokenBatch(rows, rows.counted(self._drop_bos, self.corpus.layout.bos_id)).cut(left)
            left -= int(batch.keep.sum())
            yield batch


def in_batches(
    tokens: Int[Tensor, "rows context"], mask: Bool[Tensor, "rows context"], batch_rows: int = 256
) -> list[TokenBatch]:
    """Tokens in memory, each row a document; every position that `mask` allows counts."""
    positions = torch.arange(tokens.shape[1]).expand(tokens.shape)
    documents = torch.arange(len(tokens))[:, None].expand(tokens.shape)
    offsets = positions
    parts = (tokens, mask, positions, documents.where(mask.cpu(), -1), offsets.where(mask.cpu(), -1))
    return [
        TokenBatch(Rows(*each), each[1]) for each in zip(*(part.cpu().split(batch_rows) for part in parts), strict=True)
    ]
