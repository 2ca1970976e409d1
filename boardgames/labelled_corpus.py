"""A corpus and a table of labels brought together: rows of tokens, two splits of documents, and labels of each token.

Documents come to the selection or the scoring split by a hash of their number, so that both have documents of every
part of the corpus and no document is in both. Of packed rows a model reads several documents; a row then holds
positions of both splits.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from boardgames.duplicates import game_hash
from boardgames.game import Labels
from boardgames.label_tables import LabelTable, LabelTableError
from boardgames.labelled_rows import LabelledRows
from saes.samples import TokenBatch

LEAST_DOCUMENTS = 2  # of a split: intervals are over documents


@dataclass(frozen=True)
class LabelledCorpus:
    """Two splits of the labelled tokens; their rows of tokens are the same."""

    selection: LabelledRows
    scoring: LabelledRows
    tokens: int
    """tokens of the corpus that were read and count, labelled or not"""
    behind: int
    """rows of the table whose documents come behind the last that was read"""
    missing: int
    """rows of the table whose documents were read, or passed, and had no such token"""

    @property
    def said(self) -> str:
        """What they are, in a line."""
        halves = [(len(rows.labels.game), len(np.unique(rows.labels.game))) for rows in (self.selection, self.scoring)]
        (chosen, of), (scored, on) = halves
        said = f"{chosen} labelled tokens of {of} documents to choose on, {scored} of {on} to score on"
        unlabelled = self.tokens - chosen - scored
        if unlabelled:
            said += f"; {unlabelled} of {self.tokens} tokens that were read have no label"
        if self.missing:
            said += (
                f"; {self.missing} rows of the table have no token: cut off, dropped, or beyond the document's last one"
            )
        if self.behind:
            said += f"; {self.behind} rows of the table are of documents behind the last one that was read"
        return said


def join(table: LabelTable, batches: Iterable[TokenBatch], share: float = 0.5, seed: int = 0) -> LabelledCorpus:
    """Labels of the counted tokens; `share` of the documents are for selection. LabelTableError if too few match.

    Batches behind the last labelled document are not read.
    """
    kept: list[tuple[Tensor, Tensor, Tensor]] = []
    rows_of_table, last, tokens = [], -1, 0
    for batch in batches:
        documents, offsets = batch.rows.documents[batch.keep].numpy(), batch.rows.offsets[batch.keep].numpy()
        found = table.find(documents, offsets)
        scored = torch.zeros_like(batch.keep)
        scored[batch.keep] = torch.from_numpy(found >= 0)
        kept.append((batch.rows.tokens, batch.rows.mask, scored))
        rows_of_table.append(found[found >= 0])
        tokens, last = tokens + int((offsets >= 0).sum()), max(last, int(batch.rows.documents.max()))
        if last > table.document[-1]:
            break
    matched = np.concatenate(rows_of_table) if rows_of_table else np.zeros(0, np.int64)
    if not len(matched):
        raise LabelTableError(_nothing(table, kept, last))
    document, token = table.document[matched], table.token[matched]
    laid = [torch.cat(parts) for parts in zip(*kept, strict=True)]
    chosen = _chosen(document, share, seed)
    for name, number in (("choose features on", chosen), ("score on", ~chosen)):
        if (there := len(np.unique(document[number]))) < LEAST_DOCUMENTS:
            raise LabelTableError(
                f"{table.source}: {there} labelled documents to {name} of {len(np.unique(document))}: at least "
                f"{LEAST_DOCUMENTS} are needed; label more documents, or read more tokens"
            )
    halves = []
    for own in (chosen, ~chosen):
        mask = torch.zeros_like(laid[2])
        mask[laid[2]] = torch.from_numpy(own)
        squares = ("",) * len(table.columns)
        labels = Labels(table.columns, squares, table.matrix[matched[own]], document[own], token[own])
        halves.append(LabelledRows(laid[0], laid[1], mask, labels, table.groups))
    behind = int((table.document > last).sum())
    return LabelledCorpus(halves[0], halves[1], tokens, behind, len(table) - len(matched) - behind)


def _chosen(document: Int[np.ndarray, " n"], share: float, seed: int) -> Bool[np.ndarray, " n"]:
    """Which tokens are of documents for selection."""
    numbers, of = np.unique(document, return_inverse=True)
    place = np.array([game_hash(f"{seed} {number}") / 2**64 for number in numbers])
    return (place < share)[of]


def _nothing(table: LabelTable, kept: list[tuple[Tensor, Tensor, Tensor]], last: int) -> str:
    if not kept:
        return f"{table.source}: the corpus has no token to label"
    documents, tokens = (f"{number.min()} to {number.max()}" for number in (table.document, table.token))
    return (
        f"{table.source}: none of its {len(table)} rows is a token of the corpus as read (documents up to {last}, "
        f"rows of {kept[0][0].shape[1]}); the table has documents {documents} and tokens {tokens}, numbered from 0"
    )
