"""SHIFT without a probe: a language model was fine-tuned on play with a planted rule, and is to forget the rule.

The classifier is the model itself: the log-odds of the move against the other legal moves, where the rule forbids it
(boardgames/othello/planted_rule.py). What causes it is known by construction. It is trimmed of the features that depend
on the cue and not on the move's own lines; success is that the move comes back where the cue is the opponent's, towards
a model that was fine-tuned without the rule, while legality elsewhere holds.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import UInt8
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.matching import match_features
from boardgames.othello.legality import legal_tokens
from boardgames.othello.planted_rule import Group, PlantedRule, RuleScore, move_log_odds, rule_score
from boardgames.othello.rules import random_games, replay, square_index
from boardgames.othello.streams import Use, stream
from boardgames.othello.transcript import CONTEXT, TOKEN_OF_SQUARE, to_tokens
from boardgames.report import Positions
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.metrics import OfLogits
from saes.sites import Edit, Site, intervene
from shift.candidates import Candidate, Effects, chosen_features, metric_effects
from shift.cards import bare
from shift.concept_oracle import ConceptOracle, outside_share, rule_dependence
from shift.tasks.questions import depends
from shift.trim import Features, random_features, trimming_edits

_BLOCK = 512  # games drawn at a time


class InjectedError(ValueError):
    """A rule or sizes that give nothing to study."""


@dataclass(frozen=True)
class InjectedScale:
    """Sizes of the study; games are of the player who follows the rule, and of a stream of their own for each use."""

    examples: int = 100
    """positions where the rule forbids the move, from different games, that effects are averaged over"""
    candidates: int = 60
    steps: int = 10
    """of integrated gradients"""
    named: int = 400
    """games that features are named on"""
    scored: int = 1000
    """games that models are scored on"""
    random_draws: int = 3
    minimum_f1: float = 0.3
    """of the concept oracle"""
    seed: int = 0


@dataclass(frozen=True)
class InjectedStudy:
    """What the oracle trimmed, and how the models and edits compare."""

    rule: PlantedRule
    scale: InjectedScale
    verdicts: Mapping[str, int]
    trimmed: Features
    error_share: float
    outside_share: float
    scores: Mapping[str, RuleScore]
    """masked (as it was fine-tuned), trimmed, random 0 ..., in the way (as many features as trimmed, those whose
    removal raises the log-odds most: what effects alone would trim), unmasked (the control)"""

    def recovered(self, name: str) -> float:
        """Share of the way from the masked to the unmasked model that P(move) goes back where the rule forbids it."""
        masked, found, unmasked = (self.scores[n].groups["theirs"].probability for n in ("masked", name, "unmasked"))
        return (found - masked) / (unmasked - masked)

    def to_json(self) -> dict[str, Any]:
        values = asdict(self)
        return {**values, "recovered": {name: self.recovered(name) for name in self.scores}}


def rule_games(rule: PlantedRule, count: int, use: Use, seed: int) -> UInt8[np.ndarray, "games 60"]:
    """Games of a player who follows the rule."""
    return random_games(count, stream(use, seed), rule.shunned)


def rule_examples(rule: PlantedRule, count: int, seed: int = 0, group: Group = "theirs") -> Examples:
    """One position of each of `count` games where the move is legal and the cue as `group` says; field legal [n, V]."""
    found: list[tuple[Tensor, Tensor, Tensor]] = []
    block = 0
    while sum(len(at) for _, at, _ in found) < count:
        rng = stream("injected_ambiguous", seed, block)
        games = replay(random_games(_BLOCK, rng, rule.shunned))
        there = rule.groups(games)[group]
        rows = np.flatnonzero(there.any(1))
        if not len(rows):
            raise InjectedError(f"{rule.move} is never legal with {rule.cue} {group} in {_BLOCK} games")
        ply = (there * rng.random(there.shape)).argmax(1)[rows]
        tokens = torch.from_numpy(to_tokens(games.moves[rows, :CONTEXT]))
        found.append((tokens, torch.from_numpy(ply), legal_tokens(games)[rows, ply].bool()))
        block += 1
    tokens, position, legal = (torch.cat(parts)[:count] for parts in zip(*found, strict=True))
    length = int(position.max()) + 1
    tokens = torch.where(torch.arange(length) <= position[:, None], tokens[:, :length], 0)
    return Examples(tokens, None, position, {"legal": legal}, position + 1)


def rule_metric(rule: PlantedRule) -> OfLogits:
    """Log-odds of the move against the other legal moves; examples have the field legal."""
    answer = int(TOKEN_OF_SQUARE[square_index(rule.move)])
    return OfLogits(lambda logits, examples: move_log_odds(logits, examples.fields["legal"].to(logits.device), answer))


def edited_score(
    model: PreTrainedModel,
    moves: UInt8[np.ndarray, "games 60"],
    rule: PlantedRule,
    edits: Mapping[Site, Edit] | None = None,
) -> RuleScore:
    """rule_score of a model with edits."""
    with intervene(model, edits or {}):
        return rule_score(model, moves, rule)


def injected_study(
    masked: PreTrainedModel,
    unmasked: PreTrainedModel,
    dictionaries: Dictionaries,
    rule: PlantedRule | None = None,
    scale: InjectedScale | None = None,
    progress: bool = True,
) -> InjectedStudy:
    """Candidates, verdicts of the concept oracle, and scores; `dictionaries` are those of the masked model."""
    rule, scale = rule or PlantedRule(), scale or InjectedScale()
    examples = rule_examples(rule, scale.examples, scale.seed)
    effects = metric_effects(masked, dictionaries, rule_metric(rule), examples, steps=scale.steps, progress=progress)
    candidates = effects.strongest(scale.candidates)
    verdicts, trimmed, outside = _judged(masked, dictionaries, rule, scale, candidates)
    games = rule_games(rule, scale.scored, "injected_scoring", scale.seed)
    scores = {"masked": edited_score(masked, games, rule)}
    for name, features in _trims(effects, trimmed, scale).items():
        scores[name] = edited_score(masked, games, rule, trimming_edits(dictionaries, features))
    scores["unmasked"] = edited_score(unmasked, games, rule)
    return InjectedStudy(rule, scale, verdicts, trimmed, effects.error_share(), outside, scores)


def _judged(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    rule: PlantedRule,
    scale: InjectedScale,
    candidates: list[Candidate],
) -> tuple[dict[str, int], dict[str, list[int]], float]:
    """How often each verdict was given, what is to be trimmed, and the share of the effect outside both."""
    positions = Positions(rule_games(rule, scale.named, "injected_names", scale.seed))
    matches = match_features(model, dictionaries, chosen_features(candidates), positions)
    rows = positions.replay.at(positions.mask)
    sets = rule_dependence(rows)
    lines, cue = depends("othello", f"legal {rule.move}"), frozenset({rule.cue})
    oracle = ConceptOracle(matches, sets, lines, cue, scale.minimum_f1)
    verdicts: dict[str, int] = {}
    trimmed: dict[str, list[int]] = {}
    for candidate in candidates:
        verdict = oracle(bare((candidate,))).verdict
        verdicts[verdict] = verdicts.get(verdict, 0) + 1
        if verdict == "trim":
            trimmed.setdefault(candidate.site.name, []).append(candidate.feature)
    return verdicts, trimmed, outside_share(candidates, matches, sets, lines, cue)


def _trims(effects: Effects, trimmed: Features, scale: InjectedScale) -> dict[str, Features]:
    """What is trimmed in each variant: by the oracle, at random at the same sites, and what stands most in the way."""
    rng = np.random.default_rng(scale.seed)
    strongest = chosen_features(effects.most_in_the_way(sum(map(len, trimmed.values()))))
    return {
        "trimmed": trimmed,
        **{f"random {n}": random_features(trimmed, effects.features, rng) for n in range(scale.random_draws)},
        "in the way": {site.name: index.tolist() for site, index in strongest.items()},
    }
