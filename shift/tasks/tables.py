"""A text task from its spec: ambiguous sets now, balanced ones from the table when the seal is opened.

While the task is made, balanced rows are counted and forgotten. The table is read again at the opening, and must not
have changed; which of its balanced rows are drawn follows from the frozen verdicts (`Opening.key`).
"""

import hashlib
import json

import torch
from torch import nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from saes.sites import Site
from shift.judgements import Frozen
from shift.labelled import Labelled
from shift.paper_head import fit_paper_head
from shift.probe import readout
from shift.reading import Reading
from shift.specs import SpecError
from shift.task import Ambiguous, Balanced, BalancedSplits, Opening, Sealed, SealError, ShiftTask
from shift.tasks.prompts import text_start, tokenise, without_words
from shift.tasks.rows import Row, ambiguous_rows, balanced_rows, labelled_rows, outside_texts, read_tables
from shift.tasks.text_specs import SAME, TextTaskSpec


class NothingSealed(Sealed):
    """Where a task has no balanced data: the seal that cannot be opened."""

    __slots__ = ()

    def open(self, frozen: Frozen | None, reason: str) -> BalancedSplits:
        """SealError, and nothing is logged."""
        raise SealError(f"task {self._task!r} has no balanced data, so nothing can be scored; give it as `balanced`")


def text_task(spec: TextTaskSpec, site: Site, tokenizer: PreTrainedTokenizerBase) -> ShiftTask:
    """The task; `site` is the spec's, found in the model, and `tokenizer` the model's.

    TableError for a table that cannot be read or has too few rows, balanced ones included.
    """
    if site.name != spec.site:
        raise SpecError(f"site {site.name} was given to a task that reads {spec.site}")
    tables = read_tables(spec)
    digest, name = tables.digest, _name(spec, tables.digest)
    train, test, _ = ambiguous_rows(spec, tables)
    if spec.balanced is not None:
        balanced_rows(spec, tables)  # too few rows are better known now than after the judging

    def generate(opening: Opening) -> BalancedSplits:
        key = opening.key(name)
        again = read_tables(spec)
        if again.digest != digest:
            changed = spec.path if spec.balanced == SAME else f"{spec.path} or {spec.balanced}"
            raise SealError(f"{changed}: has changed since the task was made, and stays sealed")
        return BalancedSplits(*(_balanced(spec, tokenizer, rows) for rows in balanced_rows(spec, again, key)))

    return ShiftTask(
        name,
        *spec.titles,
        Reading(site, spec.pooled, text_start(spec, tokenizer)),
        _ambiguous(spec, tokenizer, train),
        _ambiguous(spec, tokenizer, test),
        (Sealed if spec.balanced is not None else NothingSealed)(name, generate),
        without_words(spec, tokenizer, [w for words in spec.attribute_words for w in words])
        if any(spec.attribute_words)
        else None,
    )


def text_head(spec: TextTaskSpec, model: PreTrainedModel, task: ShiftTask) -> nn.Module | None:
    """What to give `prepare` as its head: the paper's, or None for prepare's own, the optimum."""
    if spec.head == "optimum":
        return None
    x = readout(model, task.reading, task.train.tokens, task.train.position)
    return fit_paper_head(
        x.float(), task.train.label, seed=spec.seed, learning_rate=spec.head_rate, batch_size=spec.head_batch
    )


def labelled_text(spec: TextTaskSpec, tokenizer: PreTrainedTokenizerBase) -> Labelled | None:
    """Texts with both properties known that stand in no set of the task; None for a spec that keeps none aside."""
    if not spec.labelled:
        return None
    found = _balanced(spec, tokenizer, labelled_rows(spec, read_tables(spec)))
    return Labelled(found.tokens, found.position, found.intended, found.spurious)


def naming_rows(spec: TextTaskSpec, count: int = 1000) -> list[str]:
    """Texts to show features on: of rows that stand in no set of the task, or else the ambiguous training texts."""
    tables = read_tables(spec, others=True)
    return (outside_texts(spec, tables) or [r.text for r in ambiguous_rows(spec, tables)[0]])[:count]


def _name(spec: TextTaskSpec, digest: str) -> str:
    """Both properties, the site, the seed, and a digest of all the rest and of the rows."""
    where = {"path": None, "balanced": spec.balanced if spec.balanced in (None, SAME) else "another table"}
    values = json.dumps([{**spec.to_json(), **where}, digest], sort_keys=True)
    intended, spurious = spec.titles
    end = hashlib.sha256(values.encode()).hexdigest()[:12]
    return f"{intended} against {spurious} at {spec.site}, seed {spec.seed} ({end})"


def _ambiguous(spec: TextTaskSpec, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> Ambiguous:
    return Ambiguous(*tokenise(spec, tokenizer, [r.text for r in rows]), torch.tensor([r.label for r in rows]))


def _balanced(spec: TextTaskSpec, tokenizer: PreTrainedTokenizerBase, rows: list[Row]) -> Balanced:
    tokens, position = tokenise(spec, tokenizer, [r.text for r in rows])
    return Balanced(tokens, position, torch.tensor([r.label for r in rows]), torch.tensor([r.attribute for r in rows]))
