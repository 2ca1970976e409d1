"""Cards of many features of one model, from one pass over positions that are not the task's."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import replace
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.matching import Match
from circuits.feature_acts import Dictionaries
from saes.harvest import harvest_features
from saes.sites import Site
from shift.candidates import Candidate, chosen_features
from shift.card_facts import Facts, direct_logits, histogram, logit_effects, neighbours
from shift.cards import Card, Kind, Showing
from shift.queue import Group


@runtime_checkable
class Shown(Protocol):
    """Positions that a model reads, and how they are drawn; row n is the n-th position of the mask, row by row."""

    kind: Kind
    tokens: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]

    def showing(self, row: int, activations: Float[Tensor, " positions"]) -> Showing:
        """One position, given what the feature does at all of them."""
        ...

    def same(self, row: int) -> Hashable:
        """Equal for positions that look alike: one of them is enough among the strongest."""
        ...

    def heat(self, activations: Float[Tensor, "positions chosen"]) -> list[dict[str, tuple[float | None, ...]]]:
        """Mean activation by state and square, for each feature; empty where there are no squares."""
        ...

    def spell(self, token: int) -> str:
        """A token as people read it; "" for one that is never predicted."""
        ...

    def square_of(self, token: int) -> int | None:
        """The square that a token is a move to; None for others, and where tokens are no squares."""
        ...


class FeatureCards:
    """Cards of the candidates' groups.

    Memory: one number for each position and candidate, and the model's states at 256 rows.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dictionaries: Dictionaries,
        candidates: Sequence[Candidate],
        shown: Shown,
        *,
        top: int = 12,
        random: int = 12,
        quantiles: int = 6,
        matches: Mapping[tuple[str, int], Match] | None = None,
        seed: int = 0,
    ) -> None:
        self._shown, self._counts = shown, (top, quantiles)
        self._matches = matches or {}
        count = int(shown.mask.sum())
        self._drawn = np.random.default_rng(seed).choice(count, min(random, count), replace=False).tolist()
        features = chosen_features(candidates)
        acts = harvest_features(model, dictionaries, features, shown.tokens, shown.mask)
        self._cards: dict[tuple[str, int], Card] = {}
        for site, index in features.items():
            facts = self._facts(model, dictionaries, site, index.tolist(), acts[site])
            for c in candidates:
                if c.site == site:
                    place = index.tolist().index(c.feature)
                    self._cards[site.name, c.feature] = self._card(c, acts[site][:, place], facts[place])

    def __call__(self, group: Group) -> Card:
        """The card of a group: that of its strongest feature, which stands first."""
        return replace(self._cards[group[0].site.name, group[0].feature], group=group)

    def _facts(
        self, model: PreTrainedModel, dictionaries: Dictionaries, site: Site, index: list[int], acts: Tensor
    ) -> list[Facts]:
        heat = self._shown.heat(acts)
        logits = direct_logits(model, dictionaries[site], index)
        names = {feature: match.column for (name, feature), match in self._matches.items() if name == site.name}
        beside = neighbours(dictionaries[site], index, names)
        shown = self._shown
        squares: Callable[[int], int | None] | None = shown.square_of if shown.kind == "othello" else None
        return [
            Facts(
                len(acts),
                histogram(acts[:, i]),
                heat[i] if heat else {},
                None if logits is None else logit_effects(logits[i], shown.spell, squares),
                beside[i],
            )
            for i in range(len(index))
        ]

    def _card(self, candidate: Candidate, values: Float[Tensor, " positions"], facts: Facts) -> Card:
        top, quantiles = self._counts
        firing = int((values > 0).sum())
        order = values.argsort(descending=True, stable=True)[:firing].tolist()

        def showings(rows: Sequence[int]) -> tuple[Showing, ...]:
            return tuple(self._shown.showing(row, values) for row in rows)

        shares = [(i + 0.5) / quantiles for i in range(quantiles)] if firing >= quantiles else []
        at = [order[int(share * firing)] for share in shares]
        return Card(
            (candidate,),
            showings(self._different(order, top)),
            showings(self._drawn),
            firing / max(len(values), 1),
            self._matches.get((candidate.site.name, candidate.feature)),
            tuple(replace(s, quantile=1 - share) for s, share in zip(showings(at), shares, strict=True)),
            facts,
            self._shown.kind,
        )

    def _different(self, order: Sequence[int], count: int) -> list[int]:
        """The first rows that do not look alike."""
        found: dict[Hashable, int] = {}
        for row in order:
            if len(found) == count:
                break
            found.setdefault(self._shown.same(row), row)
        return list(found.values())
