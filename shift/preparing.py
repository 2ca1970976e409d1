"""SHIFT up to the judging (Marks et al. 2024, section 4): the classifier, and what it leans on."""

from dataclasses import dataclass

from torch import nn
from transformers import PreTrainedModel

from circuits.feature_acts import Dictionaries
from shift.candidates import Candidate, Effects, margin_effects, sites_before
from shift.probe import fit_head, predict, readout
from shift.task import ShiftTask


@dataclass(frozen=True)
class Prepared:
    """All that a judge may see: the classifier and what it leans on."""

    head: nn.Module
    effects: Effects
    candidates: list[Candidate]
    ambiguous_accuracy: float
    """on the ambiguous examples that the head was not fitted on"""


def prepare(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    task: ShiftTask,
    *,
    head: nn.Module | None = None,
    candidates: int = 60,
    examples: int = 100,
    steps: int = 10,
    batch_size: int = 20,
    progress: bool = True,
) -> Prepared:
    """Fit the head on the ambiguous set, or take the one given, and rank the features of all sites up to its own.

    `head` maps what is read, [examples, D], to logits [examples, 1]. `candidates` is the budget of features to judge,
    of both signs; effects are integrated gradients over `steps` on the first `examples` ambiguous examples.
    """
    data, reading = task.train, task.reading
    if head is None:
        head = fit_head(readout(model, reading, data.tokens, data.position), data.label)
    effects = margin_effects(
        model,
        sites_before(model, dictionaries, task.site),
        head,
        reading,
        data.tokens[:examples],
        data.position[:examples],
        data.label[:examples],
        steps=steps,
        batch_size=batch_size,
        progress=progress,
    )
    return Prepared(head, effects, effects.strongest(candidates), ambiguous_accuracy(model, task, head))


def ambiguous_accuracy(model: PreTrainedModel, task: ShiftTask, head: nn.Module) -> float:
    """Of a head, on the ambiguous examples kept aside."""
    answers = predict(head, readout(model, task.reading, task.test.tokens, task.test.position))
    return float((answers == task.test.label).float().mean())
