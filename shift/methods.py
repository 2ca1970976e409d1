"""Ways to repair a classifier, by name: SHIFT and what it is compared with; shift/baselines/ holds the other papers'.

Each gets the same Contest and gives the cells of one or more runs on the balanced test prompts. `labels` says what it
has seen: SHIFT and its honest rivals only the ambiguous prompts (and the judge); some use labelled prompts that are not
the task's; skylines and the oracle use the balanced training prompts, which nobody has before the freeze.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal

from shift.contest import Contest
from shift.probe import fit_head
from shift.trim import Cells, mean_features, random_features, trimming_edits

Labels = Literal["ambiguous", "labelled", "balanced"]
RANDOM_DRAWS = 3


def _always(contest: Contest) -> bool:
    return True


@dataclass(frozen=True)
class Method:
    """One way to repair a classifier."""

    name: str
    title: str
    labels: Labels
    run: Callable[[Contest], Sequence[Cells]]
    possible: Callable[[Contest], bool] = _always
    """whether the contest has what it needs besides labels, such as concepts or a list of words"""

    def applies(self, contest: Contest) -> bool:
        """Whether it can be run; a way that cannot is left out, and has not failed."""
        return (self.labels != "labelled" or contest.labelled is not None) and self.possible(contest)


def original(contest: Contest) -> Sequence[Cells]:
    """The classifier as it is."""
    return [contest.scored()]


def shift(contest: Contest) -> Sequence[Cells]:
    """What was judged irrelevant is ablated; the head stays."""
    return [contest.scored(edits=contest.edits(contest.trimmed))]


def shift_retrained(contest: Contest) -> Sequence[Cells]:
    """As shift, and the head is fitted again on the ambiguous prompts of the ablated model."""
    edits = contest.edits(contest.trimmed)
    return [contest.scored(contest.refitted(edits), edits)]


def shift_to_mean(contest: Contest) -> Sequence[Cells]:
    """As shift, with features set to their mean over the ambiguous prompts: zero would move the head's threshold."""
    values = mean_features(contest.model, contest.dictionaries, contest.task.reading, contest.task.train)
    edits = trimming_edits(contest.dictionaries, contest.trimmed, contest.task.reading, values)
    return [contest.scored(edits=edits)]


def random_trimmed(contest: Contest) -> Sequence[Cells]:
    """As many features of each site as were trimmed, drawn from those with any effect."""
    rng = contest.rng
    effects = contest.prepared.effects.features
    return [
        contest.scored(edits=contest.edits(random_features(contest.trimmed, effects, rng))) for _ in range(RANDOM_DRAWS)
    ]


def feature_skyline(contest: Contest) -> Sequence[Cells]:
    """As many features as were trimmed: those on which the margin of the spurious labels relies most."""
    best = contest.most_relied_on(contest.dictionaries, contest.opened.train)
    return [contest.scored(edits=contest.edits(best))]


def oracle_head(contest: Contest) -> Sequence[Cells]:
    """A head fitted on balanced prompts to the intended label: how well anything could do."""
    train = contest.opened.train
    return [contest.scored(fit_head(contest.read(train), train.intended))]


CORE: tuple[Method, ...] = (
    Method("original", "Original classifier", "ambiguous", original),
    Method("shift", "SHIFT: judged features ablated", "ambiguous", shift),
    Method("shift_mean", "SHIFT: judged features set to their mean", "ambiguous", shift_to_mean),
    Method("shift_retrained", "SHIFT, head retrained", "ambiguous", shift_retrained),
    Method("random", "Random features ablated", "ambiguous", random_trimmed),
    Method("feature_skyline", "Feature skyline (knows the spurious labels)", "balanced", feature_skyline),
    Method("oracle", "Oracle head (trained on balanced data)", "balanced", oracle_head),
)
