"""What every way of repairing a classifier is given, once the balanced set is open: the same data, the same budget."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from jaxtyping import Float
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.feature_acts import Dictionaries, States
from saes.sites import Edit, Site
from shift.candidates import chosen_features, margin_effects
from shift.judge import JudgeError
from shift.labelled import Labelled
from shift.preparing import Prepared
from shift.probe import fit_head, predict, readout
from shift.repeated import RepeatedReading
from shift.task import Ambiguous, Balanced, BalancedSplits, ShiftTask
from shift.trim import Cells, Features, trimming_edits

Prompts = Ambiguous | Balanced | Labelled


@dataclass(frozen=True)
class Contest:
    """One classifier to repair, and all that a method may use; each method says which labels it does use."""

    model: PreTrainedModel
    dictionaries: Dictionaries
    """of the sites up to the one that is read, in forward order"""
    task: ShiftTask
    prepared: Prepared
    trimmed: Features
    """what was judged irrelevant; `budget` of them"""
    opened: BalancedSplits
    labelled: Labelled | None = None
    """labelled prompts that are not the task's; None where nobody has any, as for most texts"""
    values: States | None = None
    """what trimmed features are set to: zero, or these means"""
    concepts: Float[Tensor, "concepts d"] | None = None
    """directions of named concepts where the classifier reads, less their mean or another class's; None: no names"""
    seed: int = 0
    examples: int = 100
    """prompts that effects are averaged over"""
    steps: int = 10
    progress: bool = True

    @property
    def budget(self) -> int:
        """How many features were trimmed; the baselines get as many."""
        return sum(len(index) for index in self.trimmed.values())

    @property
    def rng(self) -> np.random.Generator:
        """A fresh stream of random numbers, the same for every method."""
        return np.random.default_rng(self.seed)

    def edits(self, features: Features) -> dict[Site, Edit]:
        """Ablate features in the whole text."""
        return trimming_edits(self.dictionaries, features, self.task.reading, self.values)

    @cached_property
    def seen(self) -> Float[Tensor, "examples d"]:
        """What the classifier reads of the ambiguous prompts that it is fitted on."""
        return self.read(self.task.train)

    @cached_property
    def seen_test(self) -> Float[Tensor, "examples d"]:
        """What the classifier reads of the balanced test prompts."""
        return self._test.unedited

    @cached_property
    def _test(self) -> RepeatedReading:
        test = self.opened.test
        return RepeatedReading(self.model, self.task.reading, test.tokens, test.position)

    @cached_property
    def seen_labelled(self) -> Float[Tensor, "examples d"]:
        """What the classifier reads of the labelled prompts; JudgeError where there are none."""
        return self.read(self.known)

    @property
    def known(self) -> Labelled:
        """The labelled prompts; JudgeError where there are none."""
        if self.labelled is None:
            raise JudgeError("this contest has no labelled prompts: give open_contest(labelled=...)")
        return self.labelled

    def read(self, data: Prompts, edits: Mapping[Site, Edit] | None = None) -> Float[Tensor, "examples d"]:
        """What the classifier reads of some prompts, with the model edited."""
        return readout(self.model, self.task.reading, data.tokens, data.position, edits)

    def scored(self, head: nn.Module | None = None, edits: Mapping[Site, Edit] | None = None) -> Cells:
        """A head, by default the one to repair, on the balanced test prompts with the model edited."""
        x = self._test.read(edits)
        return self.answered(predict(self.prepared.head if head is None else head, x))

    def most_relied_on(self, dictionaries: Dictionaries, data: Balanced | Labelled) -> Features:
        """As many features as were trimmed: those on which the head's margin of the *spurious* labels relies most."""
        spread = slice(None, None, max(1, len(data.tokens) // self.examples))  # the cells lie one after the other
        effects = margin_effects(
            self.model,
            dictionaries,
            self.prepared.head,
            self.task.reading,
            data.tokens[spread],
            data.position[spread],
            data.spurious[spread],
            steps=self.steps,
            progress=False,  # the methods have a bar
        )
        best = chosen_features(effects.most_relied_on(self.budget))
        return {site.name: index.tolist() for site, index in best.items()}

    def answered(self, answers: Tensor) -> Cells:
        """The cells of any answers to the balanced test prompts."""
        return Cells.of(answers, self.opened.test.intended, self.opened.test.spurious)

    def refitted(self, edits: Mapping[Site, Edit]) -> nn.Linear:
        """A head fitted again on the ambiguous prompts, with the model edited."""
        return fit_head(self.read(self.task.train, edits) if edits else self.seen, self.task.train.label)
