"""A judge whose verdicts stand in a file: a table that someone filled in, or the judgements of another run."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from shift.append_log import LogError, read_lines
from shift.cards import Card
from shift.judge import JudgeError, Opinion
from shift.judgements import Frozen
from shift.verdicts import VERDICTS, JudgementError, Verdict

_COLUMNS = ("site", "feature", "verdict", "reason", "confidence")


class FileJudge:
    """Verdicts of a `.csv` with a header, a `.jsonl` of the same names, or a frozen judgement file of one rater.

    Columns: site, feature, verdict, and if wanted reason and confidence; others are left alone. The verdict on a group
    is that on its strongest feature. What the file does not name is `missing`, or a JudgeError if that is None.
    """

    def __init__(self, path: Path, *, name: str | None = None, missing: Verdict | None = "unsure") -> None:
        self.path, self.name = path, f"file {path.name}" if name is None else name
        self._missing: Verdict | None = missing
        self._opinions: dict[tuple[str, int], Opinion] = {}
        for where, row in _rows(path):
            key, opinion = _parsed(f"{path}, {where}", row)
            if self._opinions.setdefault(key, opinion).verdict != opinion.verdict:
                raise JudgeError(
                    f"{path}, {where}: {key[0]}/{key[1]} is judged {self._opinions[key].verdict} and {opinion.verdict}"
                )

    def __call__(self, card: Card) -> Opinion:
        found = self._opinions.get(card.key)
        if found is not None:
            return found
        if self._missing is None:
            raise JudgeError(f"{self.path}: no verdict on {card.key[0]}/{card.key[1]}")
        return Opinion(self._missing, f"{self.path.name} does not name it")


def _rows(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Where each row stands, and the row."""
    match path.suffix:
        case ".csv":
            yield from _table(path)
        case ".jsonl":
            yield from _json_lines(path)
        case other:
            raise JudgeError(f"{path}: a file of verdicts ends in .csv or .jsonl, not {other!r}")


def _table(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        with path.open(newline="", encoding="utf-8-sig") as stream:  # spreadsheets begin with a byte order mark
            reader = csv.DictReader(stream, strict=True)
            if absent := [c for c in _COLUMNS[:3] if c not in (reader.fieldnames or ())]:
                raise JudgeError(f"{path}: has no column {', '.join(absent)}; its first line names the columns")
            for row in reader:
                yield f"line {reader.line_num}", row
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise JudgeError(f"{path}: cannot be read ({error})") from None


def _json_lines(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    try:
        lines = read_lines(path).whole
        if not lines or lines[0].value.get("kind") != "task":
            yield from ((f"line {line.number}", line.value) for line in lines)
            return
        judged = [j for j in Frozen.read(path).judgements if j.role == "candidate"]
    except (LogError, JudgementError) as error:
        raise JudgeError(str(error)) from None
    if len(raters := sorted({j.rater for j in judged})) > 1:
        raise JudgeError(f"{path}: holds verdicts of {', '.join(raters)}; a judge is one rater")
    yield from ((f"verdict {i}", vars(j)) for i, j in enumerate(judged, 1))


def _parsed(where: str, row: dict[str, Any]) -> tuple[tuple[str, int], Opinion]:
    site, feature, verdict, reason, confidence = (row.get(name) for name in _COLUMNS)
    if verdict not in VERDICTS:
        raise JudgeError(f"{where}: the verdict is {verdict!r}; choose one of {', '.join(VERDICTS)}")
    if not isinstance(site, str) or not site:
        raise JudgeError(f"{where}: the site is {site!r}; give a name such as resid_1")
    try:
        number = int(str(feature))
        sure = None if confidence in (None, "") else float(confidence)
    except ValueError:
        raise JudgeError(f"{where}: feature {feature!r} or confidence {confidence!r} is no number") from None
    if number < 0 or (sure is not None and not 0 <= sure <= 1):
        raise JudgeError(f"{where}: feature {number} is below 0, or confidence {sure} not between 0 and 1")
    return (site, number), Opinion(verdict, str(reason or ""), sure)
