"""The rows of a table of texts, and which of them stand in which set.

Which rows may become ambiguous is fixed by a hash of the text. The others are for the balanced sets, together with all
rows on which label and attribute disagree. No text stands in two sets.
"""

import hashlib
import json
import random
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from boardgames.duplicates import game_hash
from saes.sources import CorpusError
from saes.text import READERS, kind_of, local_files
from shift.tasks.draws import CELLS
from shift.tasks.text_specs import SAME, TextTaskSpec, plain, plain_values
from shift.tasks.words import WordList


class TableError(ValueError):
    """A table that cannot be read, lacks a column, or has too few rows."""


class Row(NamedTuple):
    """One text with both properties known."""

    text: str
    label: bool
    attribute: bool

    @property
    def agrees(self) -> bool:
        return self.label == self.attribute


@dataclass(frozen=True)
class Tables:
    """All that a spec reads: two tables where test sets have a split of their own, else one twice."""

    train: list[Row]
    test: list[Row]
    balanced_train: list[Row]
    balanced_test: list[Row]
    others: list[str]
    """texts of rows that belong to no set, whatever is drawn"""
    digest: str
    """of every row that was used, in order: the same digest, the same sets"""


def read_tables(spec: TextTaskSpec, *, others: bool = False) -> Tables:
    """Read everything, the balanced rows included: let nothing of them outlive the caller before the freeze.

    `others`: also keep the texts of rows whose label or attribute is neither no nor yes.
    """
    reader = _Reader(spec, others)
    own = spec.balanced == SAME
    train = reader.rows(spec.path, spec.split, assume_agreement=not own)
    test = reader.rows(spec.path, spec.test_split, assume_agreement=not own) if spec.test_split else train
    balanced_train, balanced_test = train, test
    if not own:
        balanced_train = balanced_test = reader.rows(spec.balanced, spec.split) if spec.balanced else []
        if spec.balanced and spec.test_split:
            balanced_test = reader.rows(spec.balanced, spec.test_split)
    return Tables(train, test, balanced_train, balanced_test, reader.others, reader.digest())


def ambiguous_rows(spec: TextTaskSpec, tables: Tables) -> tuple[list[Row], list[Row], list[Row]]:
    """(train, test, left over) where label and attribute agree; TableError where there are too few."""
    taken: set[str] = set()
    sets: list[list[Row]] = []
    left: list[Row] = []
    for name, count, pool in (("train", spec.train, tables.train), ("test", spec.test, tables.test)):
        rows = [r for r in pool if r.agrees and r.text not in taken and _may_be_ambiguous(spec, r)]
        kinds = [_ordered(spec, [r for r in rows if r.label == label]) for label in (False, True)]
        each = min(map(len, kinds)) if count is None else count // 2
        for label, kind in zip((False, True), kinds, strict=True):
            if len(kind) < max(each, 1):
                words = f"{spec.label} and the attribute both {'yes' if label else 'no'}"
                raise TableError(
                    f"{spec.path}: {len(kind)} of {max(each, 1)} rows for {name} with {words}; ask for fewer"
                )
        chosen = [r for kind in kinds for r in kind[:each]]
        left += [r for kind in kinds for r in kind[each:]]
        if not spec.as_published:
            taken |= {r.text for r in chosen}
        sets.append(_shuffled(spec, chosen))
    return sets[0], sets[1], left


def balanced_rows(spec: TextTaskSpec, tables: Tables, *key: int) -> tuple[list[Row], list[Row]]:
    """(train, test): as many rows of each cell, one cell after the other; TableError where there are too few.

    `key` decides which rows are drawn, but for `as_published`, where the file's order does.
    """
    taken = set() if spec.as_published else {r.text for rows in ambiguous_rows(spec, tables)[:2] for r in rows}
    sets: list[list[Row]] = []
    rng = np.random.default_rng([spec.seed, *key])
    for name, pool in (("train", tables.balanced_train), ("test", tables.balanced_test)):
        rows = [r for r in pool if r.text not in taken and _may_be_balanced(spec, r)]
        cells = [[r for r in rows if (r.label, r.attribute) == cell] for cell in CELLS]
        each = min(map(len, cells)) if spec.cell is None else spec.cell
        for (label, attribute), cell in zip(CELLS, cells, strict=True):
            if len(cell) < max(each, 1):
                words = f"{spec.label} {'yes' if label else 'no'} and the attribute {'yes' if attribute else 'no'}"
                raise TableError(
                    f"{spec.balanced if spec.balanced != SAME else spec.path}: {len(cell)} of {max(each, 1)} rows "
                    f"for the balanced {name} set with {words}; ask for fewer"
                )
        if not spec.as_published:
            cells = [[cell[i] for i in rng.permutation(len(cell))] for cell in cells]
        chosen = [r for cell in cells for r in cell[:each]]
        taken |= set() if spec.as_published else {r.text for r in chosen}
        sets.append(_shuffled(spec, chosen) if spec.as_published else chosen)
    return sets[0], sets[1]


def outside_texts(spec: TextTaskSpec, tables: Tables) -> list[str]:
    """Texts that stand in no set, whatever is drawn, in an order of their own; those most like the sets' first."""
    train, test, left = ambiguous_rows(spec, tables)
    inside = {r.text for r in (*train, *test)}
    inside |= {r.text for r in (*tables.balanced_train, *tables.balanced_test) if _may_be_balanced(spec, r)}

    def order(texts: Iterable[str]) -> list[str]:
        return sorted(set(texts) - inside, key=lambda text: game_hash(f"outside {spec.seed} {text}"))

    alike = order(r.text for r in left)
    inside |= set(alike)
    return alike + order(tables.others)


def labelled_rows(spec: TextTaskSpec, tables: Tables) -> list[Row]:
    """The rows kept aside, as many as the spec asks for, in an order of their own; fewer if there are no more."""
    aside = (r for r in tables.balanced_train if _aside(spec, r))  # in another table the attribute may be assumed
    return sorted(aside, key=lambda r: game_hash(f"labelled order {spec.seed} {r.text}"))[: spec.labelled]


def _aside(spec: TextTaskSpec, row: Row) -> bool:
    return spec.labelled > 0 and game_hash(f"labelled {spec.seed} {row.text}") < 2**61


def _may_be_ambiguous(spec: TextTaskSpec, row: Row) -> bool:
    if _aside(spec, row):
        return False
    return spec.balanced != SAME or spec.as_published or _first_half(spec, row)


def _may_be_balanced(spec: TextTaskSpec, row: Row) -> bool:
    if _aside(spec, row):
        return False
    return spec.balanced != SAME or spec.as_published or not (row.agrees and _first_half(spec, row))


def _first_half(spec: TextTaskSpec, row: Row) -> bool:
    return game_hash(f"ambiguous {spec.seed} {row.text}") < 2**63


def _ordered(spec: TextTaskSpec, rows: list[Row]) -> list[Row]:
    return rows if spec.as_published else sorted(rows, key=lambda r: game_hash(f"order {spec.seed} {r.text}"))


def _shuffled(spec: TextTaskSpec, rows: list[Row]) -> list[Row]:
    if not spec.as_published:
        return [rows[i] for i in np.random.default_rng(spec.seed).permutation(len(rows))]
    order = list(range(len(rows)))
    random.Random(spec.seed).shuffle(order)
    return [rows[i] for i in order]


class _Reader:
    """Reads tables, one after the other, and remembers their digest."""

    def __init__(self, spec: TextTaskSpec, keep_others: bool) -> None:
        self._spec, self._keep, self._hash = spec, keep_others, hashlib.sha256()
        self._labels, self._attributes = (
            tuple(map(plain_values, pair)) for pair in (spec.label_values, spec.attribute_values)
        )
        self._words = tuple(WordList(words) for words in spec.attribute_words)
        self.others: list[str] = []

    def digest(self) -> str:
        return self._hash.hexdigest()

    def rows(self, where: str, split: str, *, assume_agreement: bool = False) -> list[Row]:
        """Rows with both properties known, without duplicates; `assume_agreement` where there is no attribute."""
        spec, found, seen = self._spec, [], set()
        columns = [c for c in (spec.text, spec.label, spec.attribute, spec.at) if c]
        self._hash.update(json.dumps([split, "table"]).encode())
        for number, values in enumerate(_records(where, split, spec.subset, spec.revision), 1):
            absent = [c for c in columns if c not in values]
            if assume_agreement and spec.attribute in absent:
                absent.remove(spec.attribute)
            if absent:
                raise TableError(f"{where}: has no column {absent[0]!r}; there are: {', '.join(map(str, values))}")
            text = values[spec.text]
            if not isinstance(text, str | None):
                raise TableError(f"{where}: row {number}: {spec.text} is {text!r}, which is no text")
            text = _up_to(f"{where}: row {number}", text or "", values[spec.at]) if spec.at else text or ""
            label = _answer(values[spec.label], self._labels)
            attribute = self._attribute(text, values, label if assume_agreement else None)
            if not text.strip():
                continue
            if label is None or attribute is None:
                if self._keep:
                    self.others.append(text)
            elif spec.as_published or text not in seen:
                seen.add(text)
                found.append(Row(text, label, attribute))
                self._hash.update(json.dumps([text, label, attribute]).encode())
        return found

    def _attribute(self, text: str, values: dict[str, Any], otherwise: bool | None) -> bool | None:
        if self._spec.attribute_words[0]:
            no, yes = (words.within(text) for words in self._words)
            return yes if no != yes else None
        if self._spec.attribute in values:
            return _answer(values[self._spec.attribute], self._attributes)
        return otherwise


def _answer(value: Any, no_yes: tuple[frozenset[str], ...]) -> bool | None:
    """False for one of the first, True for one of the second, None for anything else."""
    given = plain(value)
    return True if given in no_yes[1] else False if given in no_yes[0] else None


def _up_to(where: str, text: str, place: Any) -> str:
    """The text up to the end of the word that begins at a place."""
    number = plain(place)
    if not number.isdecimal() or int(number) >= len(text):
        raise TableError(f"{where}: {place!r} is not the place of a character in a text of {len(text)}")
    word = re.compile(r"\w+|.", re.DOTALL).match(text, int(number))
    assert word is not None  # the place is inside the text
    return text[: word.end()]


def _records(where: str, split: str, subset: str | None, revision: str | None) -> Iterator[dict[str, Any]]:
    """Rows by column, through `datasets`; TableError for what cannot be read."""
    try:
        import datasets
    except ImportError:
        raise TableError("reading a table of texts needs the package `datasets`: pip install 'kibitz[text]'") from None
    datasets.disable_progress_bars()
    options: dict[str, Any] = {"path": where, "name": subset, "revision": revision, "split": split}
    try:
        if not Path(where).expanduser().is_dir() and (files := local_files(where)):
            reader, settings = READERS[kind_of(files[0])]
            if reader == "text":
                raise TableError(f"{where}: a .txt file has no columns; give .csv, .tsv, .jsonl, .json or .parquet")
            if split != "train":
                raise TableError(f"{where}: a file has no part {split!r}; give a folder of `datasets`, or leave it out")
            if reader == "csv":
                settings = {**settings, "keep_default_na": False}  # "None" and "NA" are texts
            options = {"path": reader, "data_files": [str(f) for f in files], "split": "train", **settings}
        # a file is streamed, since a copy in the cache would not notice a change; a data set on the hub is downloaded
        yield from datasets.load_dataset(**options, streaming="data_files" in options)
    except (TableError, CorpusError) as error:
        raise TableError(str(error)) from None
    except Exception as error:  # datasets passes on whatever its readers raise
        raise TableError(f"{where}: cannot be read ({' '.join(f'{type(error).__name__}: {error}'.split())})") from None
