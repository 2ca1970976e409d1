"""A made-up table of texts in which a label and an attribute are told by words, and a tokenizer of its words."""

import csv
import itertools
import json
from pathlib import Path

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

GOOD, BAD = ("kind", "nice", "warm", "fine"), ("vile", "rude", "cold", "mean")
CATS, DOGS = ("tabby", "siamese", "persian"), ("beagle", "poodle", "collie")
NAMES = tuple(f"n{i}" for i in range(20))
ROWS = [
    {"text": f"{name} is a {mood} {pet}", "mood": "bad" if mood in BAD else "good", "dog": int(pet in DOGS)}
    for name, mood, pet in itertools.product(NAMES, GOOD + BAD, CATS + DOGS)
]
"""960 texts, 240 in each cell; no text twice"""


def write_table(path: Path, rows=ROWS) -> Path:
    """As .csv, .tsv, .jsonl or .parquet, by the ending."""
    if path.suffix == ".parquet":
        import datasets

        datasets.Dataset.from_list(list(rows)).to_parquet(str(path))
    elif path.suffix == ".jsonl":
        path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    else:
        with path.open("w", newline="", encoding="utf-8") as stream:
            writer = csv.DictWriter(stream, list(rows[0]), delimiter="\t" if path.suffix == ".tsv" else ",")
            writer.writeheader()
            writer.writerows(rows)
    return path


def tokenizer(bos: bool = False) -> PreTrainedTokenizerFast:
    """One token a word, fewer than the 97 of the tiny models."""
    words = ["<unk>", "<bos>", *NAMES, "is", "a", *GOOD, *BAD, *CATS, *DOGS, *(f"x{i}" for i in range(50))]
    inner = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    inner.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token="<unk>", bos_token="<bos>" if bos else None)
