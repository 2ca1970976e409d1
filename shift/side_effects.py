"""What the trimming does to the language model itself: cross-entropy of next tokens, and of board models legal play.

A repair that wrecks the model is no repair. The edits are those that score the classifier, at every position of the
text; a site before the last leaves everything behind it to react.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor, nn
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.legality import Legality
from saes.estimates import Estimate, RowSums
from saes.passes import by_row
from saes.sites import Edit, Site, intervene

_LOGITS = 1 << 26  # that are held at once


class SideEffectError(ValueError):
    """Tokens with nothing to predict."""


@dataclass(frozen=True)
class SideEffects:
    """Nats per predicted token, with standard errors over rows of tokens, each a text or a game."""

    before: Estimate
    after: Estimate
    increase: Estimate
    """after less before, on the same tokens"""
    predictions: int


@torch.no_grad()
def side_effects(
    model: PreTrainedModel,
    edits: Mapping[Site, Edit],
    tokens: Int[Tensor, "rows length"],
    mask: Bool[Tensor, "rows length"],
    *,
    start: int = 0,
    progress: bool = True,
) -> SideEffects:
    """Cross-entropy before and after on held-out text; `mask` is False at padding.

    A token is predicted from the one before it where both are text; predictions from positions before `start` (see
    Reading.start), which no edit touches, are not counted. SideEffectError where nothing is predicted.
    """
    predicts = mask[:, :-1] & mask[:, 1:]
    predicts[:, :start] = False
    if not predicts.any():
        raise SideEffectError(
            f"no token is predicted: {tuple(tokens.shape)} tokens, {int(mask.sum())} of text, from position {start} on"
        )
    sums = RowSums(("before", "after", "count"))
    vocabulary = model.config.get_text_config().vocab_size
    size = max(1, _LOGITS // (tokens.shape[1] * vocabulary))
    parts = list(zip(tokens.split(size), predicts.split(size), strict=True))
    for some, counted in tqdm(parts, desc="side effects", disable=not progress):
        before = _losses(model, some, counted)
        with intervene(model, edits):
            after = _losses(model, some, counted)
        sums.add({"before": before, "after": after, "count": counted.sum(1)})
    return SideEffects(
        sums.estimate(lambda s: s["before"] / s["count"]),
        sums.estimate(lambda s: s["after"] / s["count"]),
        sums.estimate(lambda s: (s["after"] - s["before"]) / s["count"]),
        round(sums.total("count")),
    )


def _losses(model: PreTrainedModel, tokens: Tensor, counted: Tensor) -> Tensor:
    """Nats of each row."""
    logits = model(input_ids=tokens.to(model.device), use_cache=False).logits[:, :-1]
    losses = nn.functional.cross_entropy(
        logits[counted.to(logits.device)].float(), tokens[:, 1:][counted].to(logits.device), reduction="none"
    )
    return by_row(losses, counted.sum(1))


@dataclass(frozen=True)
class Play:
    """A board model's play before and after; rates, legal mass and their errors are Legality's."""

    before: Legality
    after: Legality

    @property
    def legal_move_rate(self) -> float:
        """Change of the share of positions at which the model's first choice is legal."""
        return self.after.legal_move_rate - self.before.legal_move_rate

    @property
    def legal_mass(self) -> float:
        """Change of the probability given to legal moves."""
        return self.after.legal_mass - self.before.legal_mass


def play_effects(
    model: PreTrainedModel, edits: Mapping[Site, Edit], measure: Callable[[PreTrainedModel], Legality]
) -> Play:
    """`measure` plays: `legality` of boardgames.othello.legality or boardgames.chess.legality, with its games given."""
    before = measure(model)
    with intervene(model, edits):
        return Play(before, measure(model))
