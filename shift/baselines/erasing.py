"""What the oracle judge's labels buy without features: the spurious property erased linearly from what is read.

LEACE (Belrose et al. 2023) fitted on labelled prompts that are not the task's, the four combinations of labels equally
often, so that what tells the intended property is not erased with it.
"""

from collections.abc import Callable, Sequence

from shift.baselines.leace import Eraser, fit_eraser
from shift.contest import Contest
from shift.methods import Method
from shift.probe import fit_head, predict
from shift.trim import Cells


def erased(contest: Contest, erase: Eraser, *, retrained: bool) -> Sequence[Cells]:
    """The head on erased readouts, as it is or fitted again on those of the ambiguous prompts."""
    head = fit_head(erase(contest.seen), contest.task.train.label) if retrained else contest.prepared.head
    return [contest.answered(predict(head, erase(contest.seen_test)))]


def spurious_eraser(contest: Contest) -> Eraser:
    """Of the spurious label."""
    rows = contest.known.equal_rows(contest.seed)
    return fit_eraser(contest.seen_labelled[rows], contest.known.spurious[rows, None])


def leace(*, retrained: bool) -> Callable[[Contest], Sequence[Cells]]:
    return lambda contest: erased(contest, spurious_eraser(contest), retrained=retrained)


METHODS: tuple[Method, ...] = (
    Method("leace", "Spurious property erased (LEACE)", "labelled", leace(retrained=False)),
    Method("leace_retrained", "Spurious property erased (LEACE), head retrained", "labelled", leace(retrained=True)),
)
