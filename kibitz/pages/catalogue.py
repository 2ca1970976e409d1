"""The features of a run's dictionaries, listed and drawn when they are asked for, and kept from then on."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.labelled_rows import LabelledRows
from boardgames.matching import Match, match_features
from boardgames.report import Positions
from kibitz.pages.serving import UnknownError
from saes.dictionary import Dictionary
from saes.harvest import harvest_features
from saes.sites import Site
from shift.candidates import Candidate
from shift.card_facts import direct_logits, logit_effects
from shift.cards import card_json, shown_json
from shift.feature_cards import FeatureCards, Shown

_FEATURES = 1024  # whose activations at all positions are in memory at once
_ROWS = 64  # of tokens that all features are encoded at, at once
_DIRECTIONS = 256  # whose logits are in memory at once
_TOKENS = 5
_Made = TypeVar("_Made")


@dataclass(frozen=True)
class Listed:
    """A feature in the list; what does not apply is None or empty."""

    feature: int
    density: float
    match: Match | None
    tokens: tuple[str, ...]
    """those that it makes likelier, the strongest first"""

    def to_json(self, effect: float | None) -> dict[str, Any]:
        return {
            "feature": self.feature,
            "density": self.density,
            "property": self.match and self.match.column,
            "f1": self.match and self.match.f1,
            "effect": effect,
            "tokens": list(self.tokens),
        }


class Catalogue:
    """Dictionaries of one model by name. `labelled`: the positions of `shown` with all properties, for games.

    `effects`: what is known of features by (name of their dictionary, feature), such as their effect in a circuit.
    `notes`: what a reader of all this should be told, in sentences.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        dictionaries: Mapping[str, Dictionary],
        shown: Shown,
        labelled: Positions | LabelledRows | None = None,
        effects: Mapping[tuple[str, int], float] | None = None,
        notes: tuple[str, ...] = (),
    ) -> None:
        self.notes = notes
        self._model, self._shown, self._labelled, self._effects = model, shown, labelled, effects or {}
        self._dictionaries = {f"{i}": (name, d) for i, (name, d) in enumerate(dictionaries.items())}
        self._made: dict[tuple[str, int | None], Any] = {}
        self._lock = Lock()

    def overview(self) -> list[dict[str, Any]]:
        """The dictionaries: key, name, site, features."""
        return [
            {"key": key, "name": name, "site": d.site.name, "features": d.features}
            for key, (name, d) in self._dictionaries.items()
        ]

    def features(self, key: str) -> list[dict[str, Any]]:
        """All features of one dictionary."""
        name, _ = self._dictionary(key)
        return [listed.to_json(self._effects.get((name, listed.feature))) for listed in self._listed(key)]

    def card(self, key: str, feature: int) -> dict[str, Any]:
        """A card as docs/cards.md has it; without an effect where none is known."""
        name, dictionary = self._dictionary(key)
        if not 0 <= feature < dictionary.features:
            raise UnknownError(f"feature {feature}: there are {dictionary.features}, from 0")
        listed = self._listed(key)
        effect = self._effects.get((name, feature))
        return self._once((key, feature), lambda: self._drawn(dictionary, feature, listed, effect))

    def _drawn(
        self, dictionary: Dictionary, feature: int, listed: list[Listed], effect: float | None
    ) -> dict[str, Any]:
        site = dictionary.site
        matches = {(site.name, each.feature): each.match for each in listed if each.match is not None}
        group = (Candidate(site, feature, effect or 0.0),)
        cards = FeatureCards(self._model, {site: dictionary}, group, self._shown, matches=matches)
        card = shown_json(card_json(cards(group)), blind=False)
        card["features"] = [{"site": site.name, "feature": feature, "effect": effect}]
        return card

    def _listed(self, key: str) -> list[Listed]:
        return self._once((key, None), lambda: self._list(self._dictionary(key)[1]))

    def _list(self, dictionary: Dictionary) -> list[Listed]:
        densities = self._densities(dictionary.site, dictionary).tolist()
        matches, tokens = self._matches(dictionary), self._tokens(dictionary)
        site = dictionary.site.name
        return [Listed(f, densities[f], matches.get((site, f)), tokens[f]) for f in range(dictionary.features)]

    def _densities(self, site: Site, dictionary: Dictionary) -> Float[Tensor, " f"]:
        fires, every = torch.zeros(dictionary.features), {site: torch.arange(dictionary.features)}
        tokens, mask = self._shown.tokens, self._shown.mask
        for rows, counted in zip(tokens.split(_ROWS), mask.split(_ROWS), strict=True):
            fires += (harvest_features(self._model, {site: dictionary}, every, rows, counted)[site] > 0).sum(0)
        return fires / max(int(mask.sum()), 1)

    def _matches(self, dictionary: Dictionary) -> dict[tuple[str, int], Match]:
        found: dict[tuple[str, int], Match] = {}
        if self._labelled is not None:
            for some in torch.arange(dictionary.features).split(_FEATURES):
                site = dictionary.site
                found |= match_features(self._model, {site: dictionary}, {site: some}, self._labelled)
        return found

    def _tokens(self, dictionary: Dictionary) -> list[tuple[str, ...]]:
        found: list[tuple[str, ...]] = []
        for some in torch.arange(dictionary.features).split(_DIRECTIONS):
            logits = direct_logits(self._model, dictionary, some.tolist())
            if logits is None:
                return [()] * dictionary.features
            effects = (logit_effects(row, self._shown.spell, count=_TOKENS) for row in logits)
            found += [tuple(token for token, _ in each.top) for each in effects]
        return found

    def _dictionary(self, key: str) -> tuple[str, Dictionary]:
        """Its name, and itself."""
        if key not in self._dictionaries:
            raise UnknownError(f"no dictionary has the key {key!r}")
        return self._dictionaries[key]

    def _once(self, key: tuple[str, int | None], make: Callable[[], _Made]) -> _Made:
        """One computation at a time: requests come in threads, and the model is one."""
        with self._lock:
            if key not in self._made:
                self._made[key] = make()
            return self._made[key]
