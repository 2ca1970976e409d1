"""Text for the dictionaries of a small language model: the sentences of a few public files.

One sentence is one document, so that a row begins as the prompts of subject-verb agreement do.
"""

import csv
import json
import random
import re
from collections.abc import Iterator
from pathlib import Path

from saes.files import FileError, read_json, write_text

HELD_OUT = 2000
"""sentences"""
WORDS = range(4, 41)
"""of a sentence"""
_BREAK = re.compile(r"(?<=[.!?])[\"']?\s+")
_SPACED = ((" @-@ ", "-"), (" @,@ ", ","), (" @.@ ", "."), (" 's", "'s"), (" n't", "n't"), ("( ", "("), (" )", ")"))


def public_sentences(folder: Path) -> list[str]:
    """The sentences of WikiText-2, TinyStories, GAP and BOLD, as far as they are there, each once."""
    texts = [text for name, read in _FILES.items() if (path := folder / name).is_file() for text in read(path)]
    if not texts:
        raise FileError(f"{folder}: none of {', '.join(_FILES)} is there")
    found = (" ".join(part.split()) for text in texts for part in _BREAK.split(text))
    return list(dict.fromkeys(s for s in found if len(s.split()) in WORDS and "<unk>" not in s))


def _wikitext(path: Path) -> Iterator[str]:
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip() and not line.strip().startswith("="):
            for spaced, plain in _SPACED:
                line = line.replace(spaced, plain)
            yield re.sub(r" ([.,;:!?])", r"\1", line)


def _stories(path: Path) -> Iterator[str]:
    yield from json.loads(path.read_text(encoding="utf-8"))


def _gap(path: Path) -> Iterator[str]:
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE):
            yield row["Text"].replace("``", '"').replace("''", '"')


def _bold(path: Path) -> Iterator[str]:
    for group in json.loads(path.read_text(encoding="utf-8")).values():
        for sentences in group.values():
            yield from sentences


_FILES = {
    "wikitext2_valid.txt": _wikitext,
    "wikitext2_test.txt": _wikitext,
    "tinystories_1000.json": _stories,
    "gap-development.tsv": _gap,
    "gap-test.tsv": _gap,
    "gap-validation.tsv": _gap,
    "bold_profession_wiki.json": _bold,
}


def write_sentences(folder: Path, seed: int, out: Path, held_out: Path) -> None:
    """A text file of shuffled sentences, one a line, and the last HELD_OUT of them in a file of their own."""
    sentences = public_sentences(folder)
    random.Random(seed).shuffle(sentences)
    write_text(held_out, "\n".join(sentences[-HELD_OUT:]) + "\n")
    write_text(out, "\n".join(sentences) + "\n")


def check_unread(activations: Path, sentences: Path) -> None:
    """FileError if a folder of activations read the sentences that are held out, which stand last."""
    read = read_json(activations / "index.json")["shards"][-1]["end"]["source"]["document"]
    there = len(sentences.read_text(encoding="utf-8").splitlines())
    if read > there - HELD_OUT:
        raise FileError(f"{activations}: {read} of {there} sentences were read, and the last {HELD_OUT} are held out")
