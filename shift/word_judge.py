"""A judge for texts whose spurious attribute is told by words: it trims what fires on the words of one list.

It knows the words, as a person would, and no label: it looks at where features fire in texts that stand in no set.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuits.feature_acts import Dictionaries
from saes.harvest import harvest_features
from shift.candidates import Candidate, chosen_features
from shift.cards import Card
from shift.judge import JudgeError, Opinion
from shift.tasks.prompts import text_start, tokenise
from shift.tasks.text_specs import TextTaskSpec
from shift.tasks.words import WordList

_REST, _NO, _YES = 0, 1, 2


@dataclass(frozen=True)
class WordActivity:
    """Mean activation of one feature on tokens of words that tell no, of words that tell yes, and on all others."""

    no: float
    yes: float
    rest: float


class WordJudge:
    """Trims a feature that is `ratio` times as active on the words of one list as on the other's and elsewhere.

    A feature active on both lists tells a word of that kind, not which; one active everywhere tells neither.
    """

    name = "words"

    def __init__(
        self,
        model: PreTrainedModel,
        dictionaries: Dictionaries,
        candidates: Sequence[Candidate],
        spec: TextTaskSpec,
        tokenizer: PreTrainedTokenizerBase,
        texts: Sequence[str],
        *,
        words: tuple[Sequence[str], Sequence[str]] | None = None,
        ratio: float = 2.0,
    ) -> None:
        """`texts`: naming_rows(spec), or others. `words`: by default those of the spec."""
        if ratio < 1:
            raise JudgeError(f"the ratio is {ratio}: at least 1")
        self._ratio = ratio
        lists = spec.attribute_words if words is None else words
        if not all(lists):
            raise JudgeError("the word judge needs words for no and words for yes; this task's attribute is a column")
        tokens, _ = tokenise(spec, tokenizer, texts)
        kind = word_tokens(spec, tokenizer, texts, lists)
        for group, listed in ((_NO, "no"), (_YES, "yes")):
            if not bool((kind == group).any()):
                raise JudgeError(f"none of the {len(texts)} texts has a word that tells {listed}")
        features = chosen_features(candidates)
        acts = harvest_features(model, {s: dictionaries[s] for s in features}, features, tokens, kind >= _REST)
        groups = kind[kind >= _REST]
        self.activity: dict[tuple[str, int], WordActivity] = {}
        """by (site name, feature)"""
        for site, index in features.items():
            rest, no, yes = (acts[site][groups == group].mean(0).tolist() for group in (_REST, _NO, _YES))
            for f, *means in zip(index.tolist(), no, yes, rest, strict=True):
                self.activity[site.name, f] = WordActivity(*means)

    def __call__(self, card: Card) -> Opinion:
        """On the strongest feature of the group; JudgeError for one that was not among the candidates."""
        if card.key not in self.activity:
            raise JudgeError(f"{card.key[0]}/{card.key[1]} is none of the candidates that this judge was made for")
        found = self.activity[card.key]
        strong, weak = max(found.no, found.yes), min(found.no, found.yes)
        if strong <= 0 and found.rest <= 0:
            return Opinion("unsure", "does not fire on the texts shown")
        reason = f"mean activation {found.no:.3g} on words for no, {found.yes:.3g} for yes, {found.rest:.3g} elsewhere"
        return Opinion("trim" if strong >= self._ratio * max(weak, found.rest) else "keep", reason)


def word_tokens(
    spec: TextTaskSpec,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    lists: tuple[Sequence[str], Sequence[str]],
) -> Int[Tensor, "texts length"]:
    """What each token of the prompts belongs to: 1 a word for no, 2 a word for yes, 0 other text, -1 no text."""
    try:
        found = tokenizer(list(texts), add_special_tokens=False, return_offsets_mapping=True, verbose=False)
    except NotImplementedError:
        raise JudgeError(f"{type(tokenizer).__name__} cannot say where in a text its tokens stand") from None
    no, yes = (WordList(words) for words in lists)
    start = text_start(spec, tokenizer)
    rows = []
    for text, offsets in zip(texts, found["offset_mapping"], strict=True):
        kept = offsets[-spec.max_length :] if spec.at else offsets[: spec.max_length]
        spans = [(_NO, s) for s in no.spans(text)] + [(_YES, s) for s in yes.spans(text)]
        rows.append(
            [-1] * start + [next((k for k, (a, b) in spans if first < b and a < last), _REST) for first, last in kept]
        )
    length = max(max(map(len, rows), default=0), start + 1)
    return torch.tensor([row + [-1] * (length - len(row)) for row in rows])
