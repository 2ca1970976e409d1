"""Any number of dictionaries of one model, scored on the same labelled rows: one pass of the model for all sites.

What is scored may be games or any tokens with labels; boardgames/game_scoreboard.py adds what needs a board.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.baselines import principal_components, random_dictionary, signed_neurons
from boardgames.firing import SparseActivations
from boardgames.group_scores import GroupScore
from boardgames.labelled_rows import LabelledRows
from boardgames.linear_probe import fit_probe
from boardgames.scoring import RESAMPLES, Referee, Truth
from saes.dictionary import Dictionary
from saes.harvest import harvest
from saes.passes import side_by_side
from saes.sites import Site

_ROWS = 8192  # that are encoded at a time


def harvest_rows(
    model: PreTrainedModel,
    sites: Sequence[Site],
    tokens: Int[Tensor, "rows length"],
    masks: Sequence[Bool[Tensor, "rows length"]],
    batch_rows: int = 64,
) -> list[dict[Site, Float[Tensor, "positions d"]]]:
    """For each mask the activations at all sites of the positions that it allows, row by row, on the CPU."""
    parts: list[dict[Site, list[Tensor]]] = [{site: [] for site in sites} for _ in masks]
    start = 0
    for values in harvest(model, tokens, list(sites), batch_rows):
        for mask, part in zip(masks, parts, strict=True):
            rows = mask[start : start + batch_rows]
            for site in sites:
                part[site].append(values[site][rows.to(values[site].device)].float().cpu())
        start += batch_rows
    return [{site: torch.cat(some) for site, some in part.items()} for part in parts]


def encode_rows(dictionary: Dictionary, x: Float[Tensor, "rows d"]) -> SparseActivations:
    """The features of every row, some rows at a time, on the dictionary's device."""
    dictionary.check_width(x.shape[-1])
    device = dictionary.W_dec.device
    with torch.no_grad():
        return SparseActivations.of(dictionary.encode(rows.to(device)) for rows in x.split(_ROWS))


@dataclass(frozen=True)
class Half:
    """One split: its labelled rows and their activations at all sites."""

    rows: LabelledRows
    activations: dict[Site, Float[Tensor, "positions d"]]

    def read_by(self, dictionary: Dictionary) -> Float[Tensor, "positions d"]:
        """What a dictionary reads; a crosscoder's sites stand side by side."""
        return side_by_side(dictionary.reads, self.activations)


class Encoded(NamedTuple):
    """What fires on the two splits."""

    selection: SparseActivations
    scoring: SparseActivations


class Scoreboard:
    """Two splits of labelled rows, as one model sees them at some sites."""

    def __init__(
        self,
        model: PreTrainedModel,
        sites: Sequence[Site],
        selection: LabelledRows,
        scoring: LabelledRows,
        *,
        resampled: int = RESAMPLES,
        each_property: bool = False,
        seed: int = 0,
        batch_rows: int = 64,
    ) -> None:
        """`sites`: all that dictionaries read, and those of the neurons beside them; the rest is the Referee's."""
        self._model, self._batch_rows, self._seed = model, batch_rows, seed
        self.sites = list(dict.fromkeys(sites))
        if selection.tokens is scoring.tokens:  # rows that hold positions of both
            found = harvest_rows(model, self.sites, scoring.tokens, [selection.mask, scoring.mask], batch_rows)
        else:
            found = [
                harvest_rows(model, self.sites, rows.tokens, [rows.mask], batch_rows)[0]
                for rows in (selection, scoring)
            ]
        self.selection, self.scoring = Half(selection, found[0]), Half(scoring, found[1])
        truths = (Truth(rows.labels, rows.groups, seed) for rows in (selection, scoring))
        self.referee = Referee(
            *truths, resampled=resampled, each_property=each_property, seed=seed, device=model.device
        )

    def features(self, dictionary: Dictionary) -> Encoded:
        """Encoding takes long: scores, L0 and drawings of one dictionary share it."""
        return Encoded(*(encode_rows(dictionary, half.read_by(dictionary)) for half in (self.selection, self.scoring)))

    def score(self, dictionary: Dictionary) -> dict[str, GroupScore]:
        """Chosen on the one split, scored on the other; by the names of the groups."""
        return self.referee.score(*self.features(dictionary))

    def baselines(self, site: Site, neurons: Site | None, features: int, l0: float) -> dict[str, dict[str, GroupScore]]:
        """What as many features reach that nobody has trained a dictionary for; `neurons`: their site, if any."""
        x = self.selection.activations[site]
        sets = {
            "frozen random dictionary": random_dictionary(site, x, features, l0, self._seed),
            "principal components, both signs": principal_components(site, x, features),
        }
        if neurons is not None:
            n = self.selection.activations[neurons]
            sets["neurons, both signs"] = signed_neurons(neurons, n, features)
        return {name: self.score(dictionary) for name, dictionary in sets.items()}

    def probe(self, site: Site) -> dict[str, GroupScore]:
        """The supervised ceiling: a linear probe of every property, fitted on the one split."""
        probe = fit_probe(self.selection.activations[site], self.selection.rows.labels.matrix, seed=self._seed)
        return self.referee.score_predictions(probe.predict(self.scoring.activations[site]))
