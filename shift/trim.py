"""Classify with the judged features ablated, and score the four cells of the balanced set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.ablation import ablate_features
from circuits.feature_acts import Dictionaries, FeatureActs, States, states_of
from saes.sites import Edit, Site
from shift.probe import predict, readout
from shift.reading import Reading
from shift.task import Ambiguous, Balanced

_RESAMPLES = 1000


@dataclass(frozen=True)
class Cells:
    """Accuracy at the intended label in each cell, [intended 0/1][spurious 0/1], of so many examples each."""

    accuracy: Float[np.ndarray, "2 2"]
    spurious_accuracy: float  # accuracy of the same answers at the spurious label
    examples: Int[np.ndarray, "2 2"]

    @classmethod
    def of(
        cls,
        answers: Bool[Tensor, " examples"],
        intended: Bool[Tensor, " examples"],
        spurious: Bool[Tensor, " examples"],
    ) -> "Cells":
        """Of a classifier's answers; NaN in a cell without examples."""
        right = (answers == intended).numpy()
        members = [[((intended == a) & (spurious == b)).numpy() for b in (False, True)] for a in (False, True)]
        examples = np.array([[m.sum() for m in row] for row in members])
        hits = np.array([[right[m].sum() for m in row] for row in members])
        accuracy = np.divide(hits, examples, out=np.full((2, 2), np.nan), where=examples > 0)
        return cls(accuracy, float((answers == spurious).float().mean()), examples)

    @property
    def worst_group(self) -> float:
        return float(self.accuracy.min())

    @property
    def intended_accuracy(self) -> float:
        """Mean over the four cells, however large each is."""
        return float(self.accuracy.mean())

    def worst_group_draws(self, seed: int = 0) -> Float[np.ndarray, " resamples"]:
        """The worst group in resamples of the examples within each cell (a cell's hits are binomial when resampled)."""
        drawn = np.random.default_rng(seed).binomial(self.examples, self.accuracy, (_RESAMPLES, 2, 2)) / self.examples
        return drawn.min((1, 2))


Features = Mapping[str, Sequence[int]]  # by site name


def trimming_edits(
    dictionaries: Dictionaries, features: Features, reading: Reading | None = None, values: States | None = None
) -> dict[Site, Edit]:
    """Set the named features to zero, or to `values`, errors kept; only their sites are touched.

    In the whole text of a reading; everywhere where nothing is read.
    """
    edits = ablate_features(
        dictionaries,
        {site: torch.tensor(sorted(features[site.name])) for site in dictionaries if features.get(site.name)},
        values,
    )
    return edits if reading is None else {site: reading.within(edit) for site, edit in edits.items()}


@torch.no_grad()
def mean_features(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    reading: Reading,
    data: Ambiguous,
    prompts: int = 512,
    batch_size: int = 128,
) -> States:
    """Mean of every feature over the text of ambiguous prompts, up to the position read: acts [F], error zero [D]."""
    sums = {site: d.W_dec.new_zeros(d.features) for site, d in dictionaries.items()}
    count = 0
    for tokens, position in zip(
        data.tokens[:prompts].split(batch_size), data.position[:prompts].split(batch_size), strict=True
    ):
        read = reading.text(position, tokens.shape[1])
        for site, state in states_of(model, dictionaries, tokens).items():
            sums[site] += state.acts[read].sum(0)
        count += int(read.sum())
    return {site: FeatureActs(s / count, s.new_zeros(dictionaries[site].width)) for site, s in sums.items()}


def score(
    model: PreTrainedModel,
    head: nn.Module,
    reading: Reading,
    data: Balanced,
    edits: Mapping[Site, Edit] | None = None,
) -> Cells:
    """The head's four cells, with the model edited."""
    answers = predict(head, readout(model, reading, data.tokens, data.position, edits))
    return Cells.of(answers, data.intended, data.spurious)


def random_features(
    like: Features, effects: Mapping[Site, Float[Tensor, " f"]], rng: np.random.Generator
) -> dict[str, list[int]]:
    """As many features at each site as in `like`, drawn from those that have any effect."""
    by_name = {site.name: values for site, values in effects.items()}
    return {
        name: rng.choice(by_name[name].nonzero().flatten().numpy(), len(index), replace=False).tolist()
        for name, index in like.items()
    }
