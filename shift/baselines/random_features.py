"""Random features ablated, and the head retrained: what retraining alone buys (the control of Marks et al. 2024)."""

from collections.abc import Sequence

from shift.contest import Contest
from shift.methods import RANDOM_DRAWS, Method
from shift.trim import Cells, random_features


def random_retrained(contest: Contest) -> Sequence[Cells]:
    """The draws of the method `random`; each time the head is fitted again."""
    rng, runs = contest.rng, []
    for _ in range(RANDOM_DRAWS):
        edits = contest.edits(random_features(contest.trimmed, contest.prepared.effects.features, rng))
        runs.append(contest.scored(contest.refitted(edits), edits))
    return runs


METHODS: tuple[Method, ...] = (
    Method("random_retrained", "Random features ablated, head retrained", "ambiguous", random_retrained),
)
