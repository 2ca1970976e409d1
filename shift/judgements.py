"""The record of what was judged: append-only JSON lines, frozen by a last line that fixes the hash of all before it.

docs/judgements.md has the format. A later verdict of the same rater on the same feature replaces the earlier one, and
an undo gives the earlier one back; both stay in the file. Several raters may write one file, also at once.
"""

import hashlib
import json
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, fields, replace
from datetime import UTC, datetime
from importlib import resources
from pathlib import Path
from typing import Any

from shift.append_log import Line, Lines, LogError, Writer, read_lines, writing
from shift.verdicts import Judgement, JudgementError, Policy, trimmed

_FIELDS = tuple(f.name for f in fields(Judgement))


class JudgementLog:
    """A file of judgements for one task, open for verdicts until it is frozen."""

    def __init__(self, path: Path, task: str) -> None:
        self.path, self.task = path, task
        path.parent.mkdir(parents=True, exist_ok=True)
        with _writing(path) as file:
            if file.lines.whole:
                _check_open(path, file.lines, task)
            else:
                file.append([{"kind": "task", "task": task, "time": _now()}])

    def add(self, *judgements: Judgement) -> None:
        """Append verdicts, those of a group together; they are on disk when this returns. JudgementError if frozen."""
        now = _now()
        lines = [_as_line(j if j.time is not None else replace(j, time=now)) for j in judgements]
        with _writing(self.path) as file:
            _check_open(self.path, file.lines, self.task)
            file.append(lines)

    def undo(self, rater: str) -> list[Judgement]:
        """Take back what this rater judged last, a group as a whole; what was said before counts again."""
        with _writing(self.path) as file:
            _check_open(self.path, file.lines, self.task)
            last = _last_item(_not_undone(self.path, file.lines), rater)
            if not last:
                raise JudgementError(f"{self.path}: {rater!r} has no verdict to take back")
            file.append([{"kind": "undo", "rater": rater, "lines": [number for number, _ in last], "time": _now()}])
        return [judgement for _, judgement in last]

    def standing(self) -> tuple[Judgement, ...]:
        """The verdicts that count now: neither undone nor replaced."""
        return _standing(self.path, _read(self.path))

    def notes(self) -> tuple[str, ...]:
        """What a kill left in the file, one sentence for each piece."""
        return _read(self.path).notes

    def freeze(self) -> "Frozen":
        """Close the file: no verdict can be added, and changing an earlier line is noticed."""
        with _writing(self.path) as file:
            _check_open(self.path, file.lines, self.task)
            digest = hashlib.sha256(file.content()).hexdigest()
            file.append([{"kind": "freeze", "sha256": digest, "time": _now()}])
        return Frozen.read(self.path)


@dataclass(frozen=True)
class Frozen:
    """Judgements that can no longer change; made by JudgementLog.freeze or read back from its file."""

    path: Path
    task: str
    judgements: tuple[Judgement, ...]
    sha256: str
    notes: tuple[str, ...] = field(default=(), compare=False)
    """what a kill left in the file"""

    @classmethod
    def read(cls, path: Path) -> "Frozen":
        """Check the hash and read; JudgementError if the file is not frozen or was changed after the freeze."""
        lines = _read(path)
        at = next((i for i, line in enumerate(lines.whole) if line.value["kind"] == "freeze"), None)
        if at is None:
            raise JudgementError(f"{path}: the judgements are not frozen yet")
        freeze = lines.whole[at]
        if hashlib.sha256(path.read_bytes()[: freeze.start]).hexdigest() != freeze.value.get("sha256"):
            raise JudgementError(f"{path}: lines before the freeze were changed after it")
        after = [line for line in lines.whole[at + 1 :] if line.value["kind"] != "unsealed"]
        if after:
            kind, number = after[0].value["kind"], after[0].number
            raise JudgementError(f"{path}: line {number} ({kind!r}) was added after the freeze; only openings may be")
        judged = _standing(path, Lines(lines.whole[:at], (), None))
        return cls(path, lines.whole[0].value["task"], judged, freeze.value["sha256"], lines.notes)

    def trimmed(self, policy: Policy | None = None, raters: Iterable[str] | None = None) -> dict[str, list[int]]:
        """Features judged irrelevant, in ascending order, by site name."""
        chosen: dict[str, list[int]] = {}
        for site, feature in sorted(trimmed(self.judgements, policy, raters)):
            chosen.setdefault(site, []).append(feature)
        return chosen

    def record_opening(self, reason: str) -> None:
        """Note in the file that sealed data was opened."""
        with _writing(self.path) as file:
            file.append([{"kind": "unsealed", "reason": reason, "time": _now()}])


def is_frozen(path: Path) -> bool:
    """Whether the file is there and closed; JudgementError if it cannot be read. Frozen.read checks its hash."""
    return path.exists() and any(line.value["kind"] == "freeze" for line in _read(path).whole)


def merge(sources: Sequence[Path], path: Path, task: str) -> JudgementLog:
    """A new file with the standing verdicts of several, by time; each source is named with its hash, and untouched.

    JudgementError if the file is there already, if a source judges another task, or if a rater judged the same feature
    in two of them.
    """
    if path.exists():
        raise JudgementError(f"{path}: is there already; merge into a new file")
    sourced: list[dict[str, Any]] = []
    judged: dict[tuple[object, ...], Judgement] = {}
    for source in sources:
        lines = _read(source)
        _check_task(source, lines, task)
        for judgement in _standing(source, lines):
            if judgement.slot in judged:
                site, feature = judgement.key
                raise JudgementError(f"{source}: {judgement.rater!r} judged {site}/{feature} in another file as well")
            judged[judgement.slot] = judgement
        digest = hashlib.sha256(source.read_bytes()).hexdigest()
        sourced.append({"kind": "source", "file": source.name, "sha256": digest, "time": _now()})
    log = JudgementLog(path, task)
    with _writing(path) as file:
        file.append([*sourced, *map(_as_line, sorted(judged.values(), key=lambda j: j.time or ""))])
    return log


def read_schema() -> dict[str, Any]:
    """The JSON Schema of one line."""
    return json.loads(resources.files("shift").joinpath("schemas/judgement_line.schema.json").read_text("utf-8"))


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _as_line(judgement: Judgement) -> dict[str, Any]:
    given = {name: value for name, value in asdict(judgement).items() if value is not None}
    if not judgement.item:
        del given["item"]
    return {"kind": "judgement", **given}


@contextmanager
def _writing(path: Path) -> Iterator[Writer]:
    try:
        with writing(path) as file:
            yield file
    except LogError as error:
        raise JudgementError(f"not a readable judgement file: {error}") from None


def _read(path: Path) -> Lines:
    try:
        lines = read_lines(path)
    except LogError as error:
        raise JudgementError(f"not a readable judgement file: {error}") from None
    _check_form(path, lines)
    return lines


def _check_form(path: Path, lines: Lines) -> None:
    if not lines.whole or lines.whole[0].value.get("kind") != "task" or "task" not in lines.whole[0].value:
        raise JudgementError(f"{path}: does not begin with the task it judges")
    known = ("judgement", "undo", "source", "freeze", "unsealed")
    for line in lines.whole[1:]:
        if line.value.get("kind") not in known:
            raise JudgementError(
                f"{path}: line {line.number} is of the kind {line.value.get('kind')!r}; known are {', '.join(known)}"
            )


def _check_task(path: Path, lines: Lines, task: str) -> None:
    found = lines.whole[0].value["task"]
    if found != task:
        raise JudgementError(f"{path}: holds task {found!r}, not {task!r}")


def _check_open(path: Path, lines: Lines, task: str) -> None:
    _check_form(path, lines)
    _check_task(path, lines, task)
    if any(line.value["kind"] == "freeze" for line in lines.whole):
        raise JudgementError(f"{path}: the judgements are frozen; start a new file to judge again")


def _not_undone(path: Path, lines: Lines) -> dict[int, Judgement]:
    """Verdicts by the number of their line, in order."""
    found: dict[int, Judgement] = {}
    for line in lines.whole:
        if line.value["kind"] == "judgement":
            found[line.number] = _judgement(path, line)
        elif line.value["kind"] == "undo":
            taken_back = line.value.get("lines")
            if not isinstance(taken_back, list) or any(type(n) is not int or n not in found for n in taken_back):
                raise JudgementError(f"{path}: line {line.number} takes back {taken_back}, which are no verdicts")
            for number in taken_back:
                del found[number]
    return found


def _standing(path: Path, lines: Lines) -> tuple[Judgement, ...]:
    return tuple({j.slot: j for j in _not_undone(path, lines).values()}.values())


def _last_item(judged: dict[int, Judgement], rater: str) -> list[tuple[int, Judgement]]:
    """The rater's last line with those before it that were shown with it, in order."""
    found: list[tuple[int, Judgement]] = []
    for number, judgement in reversed(judged.items()):
        if judgement.rater != rater:
            continue
        if found:
            last = found[0][1]
            together = last.item and (last.item, last.role) == (judgement.item, judgement.role)
            if not together or any(judgement.key == j.key for _, j in found):  # or judged twice in a row
                break
        found.insert(0, (number, judgement))
    return found


def _judgement(path: Path, line: Line) -> Judgement:
    given = {name: value for name, value in line.value.items() if name != "kind"}
    try:
        if extra := sorted(given.keys() - set(_FIELDS)):
            raise JudgementError(f"unknown fields {', '.join(extra)}")
        for name in ("site", "reason", "rater"):
            if not isinstance(given.get(name), str):
                raise JudgementError(f"{name} is {given.get(name)!r}, which is no text")
        if type(given.get("feature")) is not int:
            raise JudgementError(f"feature is {given.get('feature')!r}, which is no whole number")
        return Judgement(**given)
    except (TypeError, JudgementError) as error:
        raise JudgementError(f"{path}: line {line.number} is no judgement ({error})") from None
