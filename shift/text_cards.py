"""Contexts of a model of text as cards draw them: the tokens around a position, each with its activation."""

from collections.abc import Callable, Hashable

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from shift.cards import Kind, Showing


class TextContexts:
    """Positions of `mask` in rows of tokens. `spell` gives a token as people read it."""

    kind: Kind = "text"

    def __init__(
        self,
        tokens: Int[Tensor, "rows length"],
        mask: Bool[Tensor, "rows length"],
        spell: Callable[[int], str],
        window: int = 16,
    ) -> None:
        self.tokens, self.mask, self._spell, self._window = tokens, mask, spell, window
        self._places = mask.nonzero()
        self._row_of = torch.full(mask.shape, -1)
        self._row_of[mask] = torch.arange(len(self._places))

    def showing(self, row: int, activations: Float[Tensor, " positions"]) -> Showing:
        line, at = self._places[row].tolist()
        first = max(at - self._window, 0)
        rows = self._row_of[line, first : at + self._window + 1].tolist()
        words = [self._spell(t) for t in self.tokens[line, first : at + self._window + 1].tolist()]
        values = [float(activations[r]) if r >= 0 else 0.0 for r in rows]
        here = at - first
        text = "".join(f"[[{word}]]" if i == here else word for i, word in enumerate(words))
        drawn = {"tokens": words, "activations": values, "at": here, "caption": ""}
        return Showing(float(activations[row]), text, {}, drawn)

    def same(self, row: int) -> Hashable:
        """The tokens up to the position, within the window: what comes behind does not reach it."""
        line, at = self._places[row].tolist()
        return tuple(self.tokens[line, max(at - self._window, 0) : at + 1].tolist())

    def heat(self, activations: Float[Tensor, "positions chosen"]) -> list[dict[str, tuple[float | None, ...]]]:
        return []

    def spell(self, token: int) -> str:
        return self._spell(token)

    def square_of(self, token: int) -> int | None:
        return None


def speller(tokenizer: PreTrainedTokenizerBase) -> Callable[[int], str]:
    """Each token with the space before it, which SentencePiece leaves out where a token stands alone."""

    def spell(token: int) -> str:
        text, piece = str(tokenizer.decode([token])), tokenizer.convert_ids_to_tokens(token)
        begins = isinstance(piece, str) and piece.startswith("▁") and not text.startswith(" ")
        return f" {text}" if begins else text

    return spell
