"""A tokenizer of whole words, and corpora whose documents are known."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = [f"w{i}" for i in range(90)]


def word_tokenizer(bos: bool = True) -> PreTrainedTokenizerFast:
    """ids: <unk> 0, <bos> 1, w0 2, w1 3, ...; fewer than the 97 of the tiny models."""
    vocabulary = {word: i for i, word in enumerate(["<unk>", "<bos>", *WORDS])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<bos>" if bos else None)


def texts(count: int, first: int = 0) -> list[str]:
    """Documents of 0 to 12 words; every seventh is empty."""
    return [" ".join(WORDS[(7 * i + j * j) % 90] for j in range(i % 7 and (5 * i) % 13)) for i in range(first, count)]


def ids(text: str) -> list[int]:
    return [2 + int(word[1:]) for word in text.split()]
