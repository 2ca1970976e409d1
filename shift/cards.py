"""What a judge sees of a feature: where it fires most, where it may fire, how often, and what its removal does.

A card holds what any game or text can show; `text` draws it for judges that read. The name of the property that a
feature matches stays away from it unless it is put in (`match`): without it the judging is blind.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from boardgames.matching import Match
from shift.candidates import Candidate
from shift.card_facts import Facts, facts_json
from shift.queue import Group

Kind = Literal["othello", "chess", "text"]


@dataclass(frozen=True)
class Showing:
    """One position, and the feature's activation there."""

    activation: float
    text: str
    """a board, or a context with the token in question marked"""
    squares: Mapping[str, str]
    """what is on each square; empty for text"""
    drawn: Mapping[str, Any] = field(default_factory=dict)
    """the same for a page, in plain values: docs/cards.md"""
    quantile: float | None = None
    """share of the positions where the feature fires that are weaker; None where it was not chosen by that"""


@dataclass(frozen=True)
class Card:
    """One thing to judge: a feature, or a group of features that detect the same."""

    group: Group
    top: tuple[Showing, ...] = ()
    """where the group's strongest feature fires most, the strongest first"""
    random: tuple[Showing, ...] = ()
    """positions drawn at random, wherever it fires or not"""
    density: float | None = None
    """share of positions where it fires"""
    match: Match | None = None
    """the best-matching property; None in blind mode, and where there is none"""
    quantiles: tuple[Showing, ...] = ()
    """positions at even shares of where it fires, the strongest first"""
    facts: Facts | None = None
    """what is measured of the group's strongest feature"""
    kind: Kind | None = None
    """how positions are drawn; None on a card without any"""

    @property
    def leader(self) -> Candidate:
        """The strongest feature of the group."""
        return self.group[0]

    @property
    def key(self) -> tuple[str, int]:
        """(site name, feature) of the leader."""
        return self.leader.site.name, self.leader.feature

    def text(self, showings: int = 6, *, blind: bool = False) -> str:
        """The card in plain text, with so many positions of each kind; `blind`: without effect and property."""
        lines = [f"Found at: {', '.join(sorted({c.site.name for c in self.group}))}"]
        if not blind:
            effect = sum(c.effect for c in self.group)
            lines.append(f"Effect of its removal on the classifier's margin: {effect:+.3g}")
        if self.density is not None:
            lines.append(f"It fires on {100 * self.density:.2f} % of positions.")
        if self.match is not None and not blind:
            lines.append(f"Best-matching property: {self.match.column} (F1 {self.match.f1:.2f})")
        for title, chosen in (("Where it fires most", self.top), ("Positions at random", self.random)):
            if chosen:
                lines += [f"\n{title}:"]
                lines += [f"activation {s.activation:.3g}\n{s.text}\n" for s in chosen[:showings]]
        return "\n".join(lines)


def card_json(card: Card) -> dict[str, Any]:
    """The whole card in plain values, as docs/cards.md has them; `shown_json` is what a rater may see of it."""
    match = card.match
    kinds = {"top": card.top, "quantiles": card.quantiles, "random": card.random}
    return {
        "kind": card.kind,
        "features": [{"site": c.site.name, "feature": c.feature, "effect": c.effect} for c in card.group],
        "density": card.density,
        "property": match
        and {"name": match.column, "f1": match.f1, "precision": match.precision, "recall": match.recall},
        "showings": {name: [_showing_json(s) for s in showings] for name, showings in kinds.items()},
        **({} if card.facts is None else facts_json(card.facts)),
    }


def shown_json(card: Mapping[str, Any], blind: bool) -> dict[str, Any]:
    """A copy of a card's plain values with the entries that docs/cards.md names, and none that anybody put beside them.

    `blind`: without properties, the neighbours' too, and without effects, which would give the controls away.
    """
    shown = {name: card[name] for name in _ENTRIES if name in card}
    if blind:
        shown["property"] = None
        shown["neighbours"] = [{**n, "property": None} for n in card.get("neighbours", ())]
    hidden = ("effect",) if blind else ()
    shown["features"] = [
        {name: feature[name] for name in ("site", "feature", "effect") if name in feature and name not in hidden}
        for feature in card["features"]
    ]
    return shown


_ENTRIES = (
    "kind",
    "features",
    "density",
    "property",
    "showings",
    "positions",
    "histogram",
    "heat",
    "logits",
    "neighbours",
)


def _showing_json(showing: Showing) -> dict[str, Any]:
    return {"activation": showing.activation, "quantile": showing.quantile, **showing.drawn}


def bare(group: Group) -> Card:
    """A card that shows the candidate and nothing else, for judges that know their verdict beforehand."""
    return Card(group)
