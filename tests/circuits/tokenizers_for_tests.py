"""Small tokenizers of the kinds that real models have: whole words, GPT-2's bytes, SentencePiece's pieces."""

from collections.abc import Iterable

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

WORDS = ["The", "boy", "boys", "girl", "girls", "near", "that", "the", "car", "cars", "behind", "is", "are", "big"]


def word_tokenizer(bos: bool = True, words: Iterable[str] = WORDS) -> PreTrainedTokenizerFast:
    """ids: <unk> 0, <bos> 1, then the words; spaces belong to no token."""
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", "<bos>", *words])}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<bos>" if bos else None)


def byte_tokenizer(texts: Iterable[str] = (), size: int = 2000) -> PreTrainedTokenizerFast:
    """GPT-2's kind: a space belongs to the token behind it; each word of `texts`, with its space if any, is a token."""
    inner = Tokenizer(models.BPE())
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        min_frequency=1,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        special_tokens=["<|endoftext|>"],
        show_progress=False,
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, bos_token="<|endoftext|>")


def sentencepiece_tokenizer(texts: Iterable[str]) -> PreTrainedTokenizerFast:
    """Llama's kind: every text gets a space in front, and a space is part of the piece behind it."""
    inner = Tokenizer(models.BPE(unk_token="<unk>"))
    inner.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    inner.pre_tokenizer = pre_tokenizers.Split("▁", "merged_with_next")
    inner.decoder = decoders.Metaspace()
    trainer = trainers.BpeTrainer(
        vocab_size=2000, min_frequency=1, special_tokens=["<unk>", "<s>"], show_progress=False
    )
    inner.train_from_iterator(texts, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<s>")
