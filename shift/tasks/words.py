"""Lists of words in texts: whole words, in any case; a term such as "african american" is a word here, too."""

import re
from collections.abc import Sequence


class WordList:
    """Finds and removes the words of a list. A word stands alone: "he" is not found in "the"."""

    def __init__(self, words: Sequence[str]) -> None:
        self.words = tuple(dict.fromkeys(words))
        # the longest first, or else "middle" would be found in place of "middle aged"
        some = "|".join(re.escape(w) for w in sorted(self.words, key=lambda w: (-len(w), w)))
        self._pattern = re.compile(rf"(?<!\w)(?:{some})(?!\w)" if some else r"(?!)", re.IGNORECASE)

    def within(self, text: str) -> bool:
        """Whether the text holds a word of the list."""
        return self._pattern.search(text) is not None

    def spans(self, text: str) -> list[tuple[int, int]]:
        """First character of each word of the list, and the one behind it."""
        return [found.span() for found in self._pattern.finditer(text)]

    def removed(self, text: str) -> str:
        """The text without the words of the list, with single spaces where they stood."""
        if not self.within(text):
            return text
        return re.sub(r"\s+([.,;:!?])", r"\1", re.sub(r"[^\S\n]{2,}", " ", self._pattern.sub(" ", text))).strip()
