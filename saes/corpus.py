"""A corpus: rows of tokens [rows, context] with mask, positions and documents, from a stream that resumes exactly.

`pack` fills every row across the ends of documents, `document` gives each document a row of its own. After any number
of rows `cursor()` is plain JSON; a stream started from it, in any process, gives the rows that would have come next.
"""

import hashlib
import json
from collections import deque
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from saes.sources import Chunk, CorpusError, Source


@dataclass(frozen=True)
class Layout:
    """How documents become rows."""

    context: int = 128
    """tokens per row"""
    rows: Literal["pack", "document"] = "pack"
    """full rows over the ends of documents, or one document a row, cut or padded"""
    bos: Literal["document", "row", "none"] = "none"
    """a BOS token before each document, at the start of each row, or nowhere"""
    bos_id: int | None = None
    pad_id: int = 0
    """what stands where the mask is False"""

    def __post_init__(self) -> None:
        if self.context < (2 if self.bos != "none" else 1):
            raise CorpusError(f"context is {self.context}: no room for a token of the corpus")
        if self.bos != "none" and self.bos_id is None:
            raise CorpusError(f"bos is {self.bos!r} and the tokenizer has no BOS token: choose none, or give its id")

    @property
    def starts_with_bos(self) -> bool:
        """Whether every row does."""
        return self.bos == "row" or (self.bos == "document" and self.rows == "document")

    @property
    def bos_token(self) -> int:
        """The id that is put in; only where `bos` is not none."""
        assert self.bos_id is not None
        return self.bos_id

    @property
    def room(self) -> int:
        """Tokens of the corpus per row."""
        return self.context - self.starts_with_bos


@dataclass(frozen=True)
class Rows:
    """A few rows of a corpus; `mask` is False at padding alone."""

    tokens: Int[Tensor, "rows context"]
    mask: Bool[Tensor, "rows context"]
    positions: Int[Tensor, "rows context"]  # in the row, as the model counts them
    documents: Int[Tensor, "rows context"]  # -1 at padding
    offsets: Int[Tensor, "rows context"]  # place in the document; -1 at padding and at a BOS token put in by us

    def __len__(self) -> int:
        return len(self.tokens)

    def kept(self, drop_bos: bool, bos_id: int | None) -> Bool[Tensor, "rows context"]:
        """Where an activation counts: not at padding, with `drop_bos` not at BOS nor at the first token of a row."""
        if not drop_bos:
            return self.mask
        keep = self.mask & (self.positions > 0)
        return keep if bos_id is None else keep & (self.tokens != bos_id)


class Corpus:
    """A source laid out in rows for a model with `vocabulary` tokens."""

    def __init__(self, source: Source, layout: Layout, vocabulary: int | None = None) -> None:
        if vocabulary is not None and layout.bos != "none" and not 0 <= (layout.bos_id or 0) < vocabulary:
            raise CorpusError(f"the BOS token's id {layout.bos_id} is outside the model's vocabulary of {vocabulary}")
        self.source, self.layout, self.vocabulary = source, layout, vocabulary

    def identity(self) -> dict[str, Any]:
        """What must be equal for two corpora to have the same rows, as plain JSON."""
        return {"source": self.source.identity(), "layout": asdict(self.layout)}

    def stream(self, cursor: dict[str, Any] | None = None) -> "CorpusStream":
        """From the first row, or from the place of an earlier stream's cursor."""
        return CorpusStream(self, cursor)


class CorpusStream:
    """One pass over a corpus."""

    def __init__(self, corpus: Corpus, cursor: dict[str, Any] | None = None) -> None:
        self.corpus, self._layout = corpus, corpus.layout
        self._digest = hashlib.sha256(json.dumps(corpus.identity(), sort_keys=True).encode()).hexdigest()
        cursor = cursor or {"corpus": self._digest, "source": None, "used": 0, "rows": 0}
        if cursor["corpus"] != self._digest:
            raise CorpusError("the cursor belongs to another corpus, or to other settings of this one")
        # rows are cut from `_pending`, whose first chunk starts at `_state` and is used up to `_used`
        self._state, self._used, self.rows_taken = cursor["source"], cursor["used"], cursor["rows"]
        self._chunks = corpus.source.chunks(self._state)
        self._pending: deque[Chunk] = deque()

    def cursor(self) -> dict[str, Any]:
        """The place behind the rows that were taken."""
        return {"corpus": self._digest, "source": self._state, "used": self._used, "rows": self.rows_taken}

    def take(self, count: int) -> Rows:
        """The next `count` rows; fewer at the end of the corpus, none behind it. CorpusError if it holds no token."""
        room = self._layout.room
        tokens, documents, offsets = self._look(count * room + 1)
        if not len(tokens) and not self.rows_taken:
            raise CorpusError("the corpus holds no token: its documents are empty")
        if self._layout.rows == "pack":
            used = min(len(tokens), count * room)
            row, column = np.divmod(np.arange(used), room)
        else:  # at most `room` tokens a document: one more than count * room show where the last one ends
            starts = np.flatnonzero(np.diff(documents, prepend=-1))
            used = int(starts[count]) if len(starts) > count else len(tokens)
            starts = starts[:count]
            row = np.repeat(np.arange(len(starts)), np.diff(starts, append=used))
            column = np.arange(used) - starts[row] if used else row
        self._use(used)
        rows = self._lay_out(tokens[:used], documents[:used], offsets[:used], row, column)
        self.rows_taken += len(rows)
        return rows

    def _lay_out(
        self, tokens: np.ndarray, documents: np.ndarray, offsets: np.ndarray, row: np.ndarray, column: np.ndarray
    ) -> Rows:
        shape = (int(row[-1]) + 1 if len(row) else 0, self._layout.context)
        bos = int(self._layout.starts_with_bos)
        whole = [np.full(shape, fill, np.int64) for fill in (self._layout.pad_id, -1, -1)]
        for array, values in zip(whole, (tokens, documents, offsets), strict=True):
            array[row, column + bos] = values
        if bos:
            whole[0][:, 0], whole[1][:, 0] = self._layout.bos_token, whole[1][:, 1]
        laid = [torch.from_numpy(array) for array in whole]
        positions = torch.arange(shape[1]).expand(shape).contiguous()
        return Rows(laid[0], laid[1] >= 0, positions, laid[1], laid[2])

    def _look(self, count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Up to `count` tokens with documents and offsets, without using them up."""
        have = sum(len(chunk.tokens) for chunk in self._pending) - (self._used if self._pending else 0)
        while have < count and (chunk := next(self._chunks, None)) is not None:
            self._pending.append(self._prepare(chunk))
            have += len(self._pending[-1].tokens) - (self._used if len(self._pending) == 1 else 0)
        parts = [(c.tokens, c.documents, c.offsets) for c in self._pending] or [(np.zeros(0, np.int64),) * 3]
        skip = self._used if self._pending else 0
        cut: list[list[np.ndarray]] = [[], [], []]
        left = count
        for part in parts:
            for whole, array in zip(cut, part, strict=True):
                whole.append(array[skip : skip + left])
            left -= len(cut[0][-1])
            skip = 0
        tokens, documents, offsets = (np.concatenate(whole) for whole in cut)
        return tokens, documents, offsets

    def _use(self, count: int) -> None:
        """Move on; the last chunk stays, used up, for its state is what a cursor names."""
        self._used += count
        while len(self._pending) > 1 and self._used >= len(self._pending[0].tokens):
            self._used -= len(self._pending.popleft().tokens)
        if self._pending:
            self._state = self._pending[0].state

    def _prepare(self, chunk: Chunk) -> Chunk:
        """Check the ids; drop what no row has room for, or put BOS tokens in."""
        outside = chunk.tokens < 0
        if self.corpus.vocabulary is not None:
            outside |= chunk.tokens >= self.corpus.vocabulary
        if outside.any():
            i = int(outside.argmax())
            of = "" if self.corpus.vocabulary is None else f" of {self.corpus.vocabulary}"
            raise CorpusError(
                f"token id {chunk.tokens[i]} at place {chunk.offsets[i]} of document {chunk.documents[i]} "
                f"is outside the model's vocabulary{of}"
            )
        if self._layout.rows == "document":
            kept = chunk.offsets < self._layout.room
            return Chunk(chunk.tokens[kept], chunk.documents[kept], chunk.offsets[kept], chunk.state)
        if self._layout.bos == "document":
            first = np.flatnonzero(chunk.offsets == 0)
            return Chunk(
                np.insert(chunk.tokens, first, self._layout.bos_token),
                np.insert(chunk.documents, first, chunk.documents[first]),
                np.insert(chunk.offsets, first, -1),
                chunk.state,
            )
        return chunk
