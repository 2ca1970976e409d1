"""Prompts as a model reads them: token ids, the characters behind each token, and whether a BOS token is in front."""

from collections.abc import Sequence
from dataclasses import dataclass

from transformers import PreTrainedTokenizerBase


class PromptError(ValueError):
    """A prompt, or an answer to it, that cannot be read as asked."""


@dataclass(frozen=True)
class Prompt:
    """The tokens of a prompt; without a text (a board game as token ids) there are no characters to speak of."""

    tokens: tuple[int, ...]
    text: str | None = None
    offsets: tuple[tuple[int, int], ...] | None = None  # from which character up to which; (0, 0) for a BOS put in
    bos: bool = False  # whether the first token is one

    @classmethod
    def by_character(cls, text: str, tokens: Sequence[int]) -> "Prompt":
        """A text with a token for every character, as in chess transcripts."""
        if len(text) != len(tokens):
            raise PromptError(f"{len(text)} characters and {len(tokens)} tokens: give a token for every character")
        return cls(tuple(tokens), text, tuple((i, i + 1) for i in range(len(text))))

    def __len__(self) -> int:
        return len(self.tokens)


def wants_bos(tokenizer: PreTrainedTokenizerBase, bos: bool | None) -> bool:
    """Whether prompts get a BOS token: as told, else where the tokenizer has one.

    This is the rule of our corpora: dictionaries learn from documents that begin with it. GPT-2, Pythia, Llama, Gemma
    and SmolLM have one, Qwen has none. feature-circuits reads Pythia without: there `bos=False` compares.
    """
    if bos and tokenizer.bos_token_id is None:
        raise PromptError("a BOS token was asked for, but this tokenizer has none: leave `bos` out, or say False")
    return tokenizer.bos_token_id is not None if bos is None else bos


def tokenise(texts: Sequence[str], tokenizer: PreTrainedTokenizerBase, bos: bool) -> list[Prompt]:
    """Prompts of texts; with `bos`, a BOS token stands in front of those that do not begin with it."""
    if not texts:
        return []
    fast = bool(tokenizer.is_fast)  # others do not tell which characters a token has
    batch = tokenizer(
        list(texts), add_special_tokens=False, return_attention_mask=False, return_offsets_mapping=fast, verbose=False
    )
    prompts = []
    for i, (text, ids) in enumerate(zip(texts, batch["input_ids"], strict=True)):
        offsets = [tuple(each) for each in batch["offset_mapping"][i]] if fast else None
        begins = bool(ids) and ids[0] == tokenizer.bos_token_id
        if bos and not begins:
            ids = [tokenizer.bos_token_id, *ids]
            offsets = None if offsets is None else [(0, 0), *offsets]
        prompts.append(Prompt(tuple(ids), text, None if offsets is None else tuple(offsets), bos or begins))
    return prompts


def continuations(
    prompts: Sequence[Prompt], answers: Sequence[str], tokenizer: PreTrainedTokenizerBase, bos: bool
) -> list[tuple[int, ...]]:
    """The tokens of each answer behind its prompt; where they merge with the prompt's, those of the answer alone.

    Alone would be wrong for SentencePiece, which puts a space of its own in front of " is"; and behind a prompt that
    ends in a space there is no token " is", but one that has taken the space from the prompt.
    """
    joined = tokenise([f"{p.text}{answer}" for p, answer in zip(prompts, answers, strict=True)], tokenizer, bos)
    different = list(dict.fromkeys(answers))
    alone = dict(zip(different, tokenise(different, tokenizer, False), strict=True))
    return [
        whole.tokens[len(p) :] if whole.tokens[: len(p)] == p.tokens and len(whole) > len(p) else alone[answer].tokens
        for p, answer, whole in zip(prompts, answers, joined, strict=True)
    ]
