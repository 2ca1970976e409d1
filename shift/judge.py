"""Judges: they see a card and say whether the task should depend on what the feature detects."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from time import monotonic
from typing import Protocol, runtime_checkable

from tqdm import tqdm

from shift.cards import Card, bare
from shift.judgements import JudgementLog
from shift.queue import Group, Item, to_judge
from shift.verdicts import Judgement, Verdict


class JudgeError(ValueError):
    """A judge that lacks what it needs to judge."""


@dataclass(frozen=True)
class Opinion:
    """What a judge says about one card."""

    verdict: Verdict
    reason: str
    confidence: float | None = None


@runtime_checkable
class Judge(Protocol):
    """A rater; `name` is what the judgement file calls it."""

    name: str

    def __call__(self, card: Card) -> Opinion: ...


def run_judge(
    judge: Judge,
    items: Sequence[Item],
    log: JudgementLog,
    cards: Callable[[Group], Card] = bare,
    clock: Callable[[], float] = monotonic,
    progress: bool = False,
) -> None:
    """Have every item judged that the judge has not judged yet; a verdict on a group is written for each member."""
    left = to_judge(items, log.standing(), judge.name)
    for item in tqdm(left, desc=judge.name, unit="item", disable=not progress):
        card, start = cards(item.group), clock()
        opinion = judge(card)
        log.add(*verdicts_on(item, opinion, judge.name, clock() - start))


def verdicts_on(item: Item, opinion: Opinion, rater: str, seconds: float | None = None) -> list[Judgement]:
    """One judgement for each feature of the item."""
    return [
        Judgement(
            site=c.site.name,
            feature=c.feature,
            effect=c.effect,
            verdict=opinion.verdict,
            reason=opinion.reason,
            rater=rater,
            confidence=opinion.confidence,
            seconds=None if seconds is None else round(seconds, 3),
            item=item.name,
            role=item.role,
        )
        for c in item.group
    ]
