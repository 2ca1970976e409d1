"""Rows of prompts out of a file: JSON, JSON Lines or CSV, told by what is in it, since JSON Lines are often `.json`."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saes.files import FileError


@dataclass(frozen=True)
class Record:
    """A row, and where it stands, for messages."""

    where: str
    row: Mapping[str, Any]


def read_records(file: Path | str) -> tuple[Mapping[str, Any], list[Record]]:
    """What a file says once (everything but `prompts` of a JSON object that has them), and its rows.

    JSON: an object with a list `prompts`, or a list of objects. JSON Lines: an object a line. Anything else is read as
    CSV, or as tab-separated values if its first line has more tabs than commas. FileError names file and line.
    """
    try:
        text = Path(file).read_text(encoding="utf-8-sig")
    except FileNotFoundError:
        raise FileError(f"{file}: no such file") from None
    except (OSError, ValueError) as error:
        raise FileError(f"{file}: not readable as text ({error})") from None
    if not text.strip():
        raise FileError(f"{file}: is empty")
    header, records = _of_json(file, text) if text.lstrip()[0] in "{[" else ({}, _of_csv(file, text))
    if not records:
        raise FileError(f"{file}: holds no prompt")
    return header, records


def _of_json(file: Path | str, text: str) -> tuple[Mapping[str, Any], list[Record]]:
    try:
        whole = json.loads(text)
    except (ValueError, RecursionError) as error:
        if not (_is_json(text.lstrip().splitlines()[0])):
            raise FileError(f"{file}: neither JSON nor JSON Lines ({error})") from None
        return {}, _of_lines(file, text)
    if isinstance(whole, dict) and "prompts" not in whole:
        return {}, [Record(f"{file}, line 1", whole)]
    header = {k: v for k, v in whole.items() if k != "prompts"} if isinstance(whole, dict) else {}
    rows = whole["prompts"] if isinstance(whole, dict) else whole
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FileError(f"{file}: the prompts are to be a list of objects")
    return header, [Record(f"{file}, prompt {i}", row) for i, row in enumerate(rows, 1)]


def _of_lines(file: Path | str, text: str) -> list[Record]:
    records = []
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except (ValueError, RecursionError) as error:
            raise FileError(f"{file}, line {number}: not JSON ({error})") from None
        if not isinstance(row, dict):
            raise FileError(f"{file}, line {number}: {type(row).__name__}, not an object")
        records.append(Record(f"{file}, line {number}", row))
    return records


def _of_csv(file: Path | str, text: str) -> list[Record]:
    first = text.lstrip().splitlines()[0]
    delimiter = "\t" if first.count("\t") > first.count(",") else ","
    table = csv.DictReader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
    records = []
    try:
        for row in table:
            where = f"{file}, line {table.line_num}"
            if None in row or None in row.values():
                found = len(row) - 1 + len(row[None]) if None in row else sum(v is not None for v in row.values())
                raise FileError(f"{where}: {found} columns, but the first line has {len(table.fieldnames or [])}")
            records.append(Record(where, row))
    except csv.Error as error:
        raise FileError(f"{file}: damaged behind line {table.line_num} ({error})") from None
    return records


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True
