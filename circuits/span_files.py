"""Spans that a file gives: in the rows of its pairs, as lists or as a start column each, and the file `spans.json`.

`spans.json` is a file of pairs (circuits/pairs.py reads it) whose prompts carry their spans:

    {"format": "kibitz-spans", "version": 1, "unit": "characters", "bos": true, "names": ["bos", "the", "subject"],
     "prompts": [{"clean": "The dogs", "patch": "The dog", "clean_answer": [" are"], "patch_answer": [" is"],
                  "spans": [["the", 0, 3], ["subject", 3, 8]], "patch_spans": [["the", 0, 3], ["subject", 3, 7]]}]}
"""

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from circuits.pair_set import Pairs
from circuits.pairs import ROLES
from circuits.prompts import Prompt
from circuits.spans import BOS, Schema, Span, SpanError, Unit
from saes.files import FileError, write_json

FORMAT, VERSION = "kibitz-spans", 1
_NO_SPANS = ("prompt_id", "pair_id", "id")  # columns of numbers that PEAP has in front of the first span


def given_spans(pairs: Pairs, columns: Sequence[str] | None = None) -> Schema:
    """The schema that the file of the pairs has: `spans` of every row, or a start column for each span.

    `columns` are the names of those columns in order; by default the whole numbers in front of the column `length`,
    back to the one that is at the beginning in all rows. As in PEAP they count a BOS token; if they do not,
    they start at 0 and `length` is one less.
    """
    if pairs.header.get("format", FORMAT) != FORMAT or pairs.header.get("version", VERSION) != VERSION:
        raise FileError(
            f"{pairs.source}: {pairs.header.get('format')} of version {pairs.header.get('version')}, and this reads "
            f"{FORMAT} of version {VERSION}"
        )
    if columns is None and any("spans" in pair.row for pair in pairs.pairs):
        return _of_lists(pairs)
    columns = _start_columns(pairs) if columns is None else columns
    clean = [_of_columns(p.where, p.row, columns, p.clean) for p in pairs.pairs]
    if not all(p.patch_row is not None and "length" in p.patch_row for p in pairs.pairs):
        return pairs.schema(clean, names=columns)
    patch = [_of_columns(p.where, p.patch_row or {}, columns, p.patch or p.clean) for p in pairs.pairs]
    return pairs.schema(clean, patch, names=columns)


def write_spans(path: Path | str, pairs: Pairs, schema: Schema, unit: Unit | None = None) -> None:
    """Write pairs with their spans, atomically; by default in characters, which other tokenizers can read too.

    Where a token has no characters of its own (token ids, parts of one letter) the default is tokens.
    """
    if schema.lengths.tolist() != [len(prompt) for prompt in pairs.clean]:
        raise SpanError(f"the schema is of {len(schema)} other prompts than these {len(pairs)}: lengths differ")
    spans = None if unit == "tokens" else _in_characters(pairs, schema)
    if spans is None and unit == "characters":
        raise SpanError("these spans cannot be told in characters: write them in tokens")
    every_side = [[[*span] for span in schema.spans(i)] for i in range(len(schema))] if spans is None else None
    prompts = []
    for i, pair in enumerate(pairs.pairs):
        row: dict[str, Any] = {k: v for k, v in pair.row.items() if k not in _ours()}
        for name, prompt, answers in zip(("clean", "patch"), pair.prompts, pair.asked, strict=False):
            row[name] = prompt.text if prompt.text is not None else list(prompt.tokens)
            if answers:
                row[f"{name}_answer"] = list(answers)
        if every_side is not None:
            row["spans"] = every_side[i]
        else:
            assert spans is not None
            row |= {name: [[*s] for s in side[i]] for name, side in zip(("spans", "patch_spans"), spans, strict=False)}
        prompts.append(row)
    header = {"format": FORMAT, "version": VERSION, "unit": "tokens" if spans is None else "characters"}
    header |= {"bos": any(p.bos for p in pairs.clean), "names": list(schema.names)}
    write_json(path, {**header, "prompts": prompts})


def _ours() -> set[str]:
    """Columns that write_spans gives a meaning."""
    return {name for names in ROLES.values() for name in names} | {"spans", "patch_spans"}


def _of_lists(pairs: Pairs) -> Schema:
    unit, names = pairs.header.get("unit", "tokens"), pairs.header.get("names")
    if unit not in ("tokens", "characters"):
        raise FileError(f"{pairs.source}: the unit of spans is {unit!r}: choose tokens or characters")
    if names is not None and not (isinstance(names, list) and all(isinstance(name, str) for name in names)):
        raise FileError(f"{pairs.source}: the names of spans are {names!r}, not a list of texts")
    clean = [_spans(pair.where, "spans", pair.row.get("spans")) for pair in pairs.pairs]
    if not any("patch_spans" in pair.row for pair in pairs.pairs):
        return pairs.schema(clean, names=names, unit=unit)
    patch = [_spans(pair.where, "patch_spans", pair.row.get("patch_spans")) for pair in pairs.pairs]
    return pairs.schema(clean, patch, names=names, unit=unit)


def _spans(where: str, column: str, value: Any) -> list[Span]:
    """Lists of [name, start, end]."""
    if not isinstance(value, list):
        raise FileError(f"{where}: {column} is {value!r}, not a list of [name, start, end]")
    for each in value:
        whole = isinstance(each, list) and len(each) == 3 and isinstance(each[0], str)
        if not whole or not all(type(number) is int for number in each[1:]):
            raise FileError(f"{where}: {column} holds {each!r}, not [name, start, end]")
    return [Span(*each) for each in value]


def _start_columns(pairs: Pairs) -> list[str]:
    rows = [pair.row for pair in pairs.pairs]
    names = list(rows[0])
    if "length" not in names:
        raise SpanError(
            f"{pairs.source}: neither `spans` nor start columns with `length` behind them; "
            f"there are: {', '.join(names)}"
        )
    first = pairs.pairs[0]
    begin = _begin(first.where, first.row, first.clean)
    found: list[str] = []
    for name in reversed(names[: names.index("length")]):
        starts = {_whole(row[name]) for row in rows}
        if None in starts or name in _NO_SPANS:
            break
        found.insert(0, name)
        if starts == {begin}:
            return found
    raise SpanError(
        f"{pairs.source}: no column in front of `length` starts at token {begin} in every row: say which columns are "
        "the starts of spans"
    )


def _begin(where: str, row: Mapping[str, Any], prompt: Prompt) -> int:
    """The token at which the columns begin: 1 if they count the prompt's BOS token, else 0."""
    length = _whole(row.get("length"))
    if length not in (len(prompt), len(prompt) - prompt.bos):
        raise SpanError(
            f"{where}: `length` is {row.get('length')}, but the prompt has {len(prompt)} tokens: was it made with "
            f"another tokenizer, or {'without' if prompt.bos else 'with'} a BOS token?"
        )
    return int(prompt.bos and length == len(prompt))


def _of_columns(where: str, row: Mapping[str, Any], columns: Sequence[str], prompt: Prompt) -> list[Span]:
    starts = [_whole(row.get(name)) for name in (*columns, "length")]
    for name, start in zip((*columns, "length"), starts, strict=True):
        if start is None:
            raise SpanError(f"{where}: column {name!r} is {row.get(name)!r}, not the number of a token")
    numbers = [start for start in starts if start is not None]
    _begin(where, row, prompt)
    for (name, start), (after, then) in pairwise(zip((*columns, "length"), numbers, strict=True)):
        if start > then:
            raise SpanError(f"{where}: span {name!r} starts at token {start}, but {after!r}, behind it, is {then}")
    return [
        Span(name, *bounds) for name, bounds in zip(columns, pairwise(numbers), strict=True) if bounds[0] < bounds[1]
    ]


def _in_characters(pairs: Pairs, schema: Schema) -> list[list[list[Span]]] | None:
    """The spans of the clean and of the patch prompts in characters, or None if tokens cannot be told from them."""
    sides = [pairs.clean, pairs.patch] if pairs.patch else [pairs.clean]
    made: list[list[list[Span]]] = []
    for prompts in sides:
        spans = []
        for i, prompt in enumerate(prompts):
            text, offsets = prompt.text, prompt.offsets
            if text is None or offsets is None:
                return None
            tokens = [span for span in schema.spans(i) if span.name != BOS]
            bounds = [*(offsets[span.start][0] for span in tokens), len(text)]
            spans.append([Span(t.name, *each) for t, each in zip(tokens, pairwise(bounds), strict=True)])
        made.append(spans)
    try:
        again = pairs.schema(*made, names=schema.names, unit="characters")
    except SpanError:
        return None
    return made if torch.equal(again.starts, schema.starts) else None


def _whole(value: Any) -> int | None:
    """A whole number, also one that a table has as text, "3" or "3.0"."""
    if isinstance(value, str):
        digits = value.strip().removesuffix(".0")
        return int(digits) if digits.isdecimal() else None
    return value if type(value) is int else None
