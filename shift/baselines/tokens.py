"""Deleting words, the baseline that SHIFT must beat where words do not tell (Hua 2025, LessWrong, and the reply there).

On Bias in Bios ten features of the embedding do more than 45 of all other sites, and deleting gendered words is enough.
Three stand-ins. Where a task knows the words, they are deleted. Where it does not:

* SHIFT at token level: of what was judged irrelevant only what sits at the embedding or in the first block. These are
  fewer than the budget, and no judge has seen more of them; filling up with features that nobody judged would trim the
  intended property too. So a second form fills the whole budget with labels instead: the features of these sites on
  which the head's spurious margin relies most, on labelled prompts in equal groups. That is the best they can do.
* Erasing what tokens tell: a linear prediction of the spurious property from tables that every token fills by itself
  (for Othello who played where and when, with no board tracked) is erased from what the classifier reads (LEACE). Each
  half of the labelled prompts gets the prediction of the other half's fit, or an overfitted prediction would be the
  label itself; of several tables the one whose predictions are right most often counts.
"""

from collections.abc import Callable, Mapping, Sequence

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from saes.families import blocks, find_site
from saes.sites import Edit, Site
from shift.baselines.erasing import erased
from shift.baselines.leace import Eraser, fit_eraser
from shift.contest import Contest
from shift.methods import Method
from shift.probe import fit_head, predict, readout
from shift.trim import Cells, Features

_DECAY = 0.1  # of heads on tables: thousands of columns, and as few rows


def token_sites(contest: Contest) -> list[Site]:
    """The sites with dictionaries that stand before the second block: embedding, and the first block's."""
    first = blocks(contest.model)[0]
    early = {find_site(contest.model, "embed"), first.attn, first.mlp, first.resid}
    return [site for site in contest.dictionaries if site in early]


def judged_at_tokens(contest: Contest) -> Features:
    """What was judged irrelevant at those sites."""
    return {s.name: contest.trimmed[s.name] for s in token_sites(contest) if s.name in contest.trimmed}


def spurious_at_tokens(contest: Contest) -> Features:
    """As many features of those sites as were trimmed: what the head's margin on the spurious label relies on most."""
    early = {site: contest.dictionaries[site] for site in token_sites(contest)}
    return contest.most_relied_on(early, contest.known.equal_cells(contest.seed))


def _trimmed(features: Callable[[Contest], Features], *, retrained: bool) -> Callable[[Contest], Sequence[Cells]]:
    def run(contest: Contest) -> Sequence[Cells]:
        edits: Mapping[Site, Edit] = contest.edits(features(contest))
        return [contest.scored(contest.refitted(edits) if retrained else None, edits)]

    return run


def words_deleted(*, retrained: bool) -> Callable[[Contest], Sequence[Cells]]:
    """The task's words that tell the spurious property are deleted from every prompt."""

    def run(contest: Contest) -> Sequence[Cells]:
        task = contest.task
        assert task.deleted is not None
        head = contest.prepared.head
        if retrained:
            prompts = task.deleted(task.train.tokens, task.train.position)
            head = fit_head(readout(contest.model, task.reading, *prompts), task.train.label)
        prompts = task.deleted(contest.opened.test.tokens, contest.opened.test.position)
        return [contest.answered(predict(head, readout(contest.model, task.reading, *prompts)))]

    return run


def token_eraser(contest: Contest) -> Eraser:
    """Of the linear prediction of the spurious label from what tokens say by themselves."""
    assert contest.task.token_local is not None
    rows = contest.known.equal_rows(contest.seed)
    label = contest.known.spurious[rows]
    tables = contest.task.token_local(contest.known.tokens[rows], contest.known.position[rows])
    predictions = [_of_the_other_half(table, label) for table in tables]
    right = [float(((z > 0) == label).float().mean()) for z in predictions]
    best = predictions[right.index(max(right))]
    return fit_eraser(contest.seen_labelled[rows], best[:, None])


def _of_the_other_half(table: Float[Tensor, "rows columns"], label: Bool[Tensor, " rows"]) -> Float[Tensor, " rows"]:
    """The logit of each row by a head fitted on every second row, of which it is none."""
    logits = torch.empty(len(table), dtype=table.dtype)
    for fitted, asked in ((slice(0, None, 2), slice(1, None, 2)), (slice(1, None, 2), slice(0, None, 2))):
        logits[asked] = fit_head(table[fitted], label[fitted], weight_decay=_DECAY)(table[asked])[:, 0]
    return logits


def _erased(*, retrained: bool) -> Callable[[Contest], Sequence[Cells]]:
    return lambda contest: erased(contest, token_eraser(contest), retrained=retrained)


def _has_sites(contest: Contest) -> bool:
    return bool(token_sites(contest))


def _has_words(contest: Contest) -> bool:
    return contest.task.deleted is not None


def _has_tables(contest: Contest) -> bool:
    return contest.task.token_local is not None


METHODS: tuple[Method, ...] = (
    Method("words_deleted", "Words deleted", "ambiguous", words_deleted(retrained=False), _has_words),
    Method(
        "words_deleted_retrained", "Words deleted, head retrained", "ambiguous", words_deleted(retrained=True),
        _has_words,
    ),
    Method(
        "token_sites", "SHIFT at embedding and first block", "ambiguous",
        _trimmed(judged_at_tokens, retrained=False), _has_sites,
    ),
    Method(
        "token_sites_retrained", "SHIFT at embedding and first block, head retrained", "ambiguous",
        _trimmed(judged_at_tokens, retrained=True), _has_sites,
    ),
    Method(
        "token_sites_full", "Embedding and first block, full budget by labels", "labelled",
        _trimmed(spurious_at_tokens, retrained=False), _has_sites,
    ),
    Method(
        "token_sites_full_retrained", "Embedding and first block, full budget by labels, head retrained", "labelled",
        _trimmed(spurious_at_tokens, retrained=True), _has_sites,
    ),
    Method("tokens_erased", "What tokens tell is erased", "labelled", _erased(retrained=False), _has_tables),
    Method(
        "tokens_erased_retrained", "What tokens tell is erased, head retrained", "labelled", _erased(retrained=True),
        _has_tables,
    ),
)  # fmt: skip
