"""Texts as prompts: tokens with padding behind them, and the position of the last token."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from shift.task import Positions, Tokens
from shift.tasks.text_specs import TextTaskSpec
from shift.tasks.words import WordList


def text_start(spec: TextTaskSpec, tokenizer: PreTrainedTokenizerBase) -> int:
    """How many tokens stand before a text: 1 if it begins with a BOS token, else 0."""
    bos = tokenizer.bos_token_id
    if spec.bos is None:
        return int(bos is not None and tokenizer("a")["input_ids"][:1] == [bos])
    if spec.bos and bos is None:
        raise ValueError("bos is true, and this tokenizer has no beginning-of-text token")
    return int(spec.bos)


def tokenise(spec: TextTaskSpec, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str]) -> tuple[Tokens, Positions]:
    """(tokens, position of the last one). A text longer than the spec allows loses its end, or with `at` its start."""
    start = text_start(spec, tokenizer)
    ids = tokenizer(list(texts), add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
    cut = [each[-spec.max_length :] if spec.at else each[: spec.max_length] for each in ids]
    bos: Any = tokenizer.bos_token_id
    return _padded([[bos] * start + list(each) for each in cut], start, padding(tokenizer))


def padding(tokenizer: PreTrainedTokenizerBase) -> int:
    """A token to stand behind a text, where a causal model does not look: which one makes no difference."""
    known: tuple[Any, ...] = (tokenizer.pad_token_id, tokenizer.eos_token_id, 0)
    return next(token for token in known if token is not None)


def without_words(
    spec: TextTaskSpec, tokenizer: PreTrainedTokenizerBase, words: Sequence[str]
) -> Callable[[Tokens, Positions], tuple[Tokens, Positions]]:
    """Prompts in, the same prompts without the words of a list out: what deleting a cue by hand can do.

    Prompts that hold none of the words keep their tokens; the others are decoded and tokenised again. A text of nothing
    but such words becomes one token of padding.
    """
    listed, start = WordList(words), text_start(spec, tokenizer)

    def deleted(tokens: Tokens, position: Positions) -> tuple[Int[Tensor, "examples fewer"], Positions]:
        rows = []
        for row, last in zip(tokens.tolist(), position.tolist(), strict=True):
            kept = row[: last + 1]
            text = str(tokenizer.decode(kept[start:]))
            if listed.within(text):
                ids = tokenizer(listed.removed(text), add_special_tokens=False, verbose=False)["input_ids"]
                kept = kept[:start] + list(ids)
            rows.append(kept)
        return _padded(rows, start, padding(tokenizer))

    return deleted


def _padded(rows: Sequence[list[int]], start: int, pad: int) -> tuple[Tokens, Positions]:
    """Rows of tokens, at least one of them text, as a table with padding behind, and the last token of each."""
    rows = [row if len(row) > start else [*row, pad] for row in rows]
    length = max(map(len, rows), default=0)
    tokens = torch.tensor([row + [pad] * (length - len(row)) for row in rows], dtype=torch.long)
    return tokens.reshape(len(rows), length), torch.tensor([len(row) - 1 for row in rows], dtype=torch.long)
