"""The record of what was judged: append-only JSON lines, frozen by a last line that fixes the hash of all before it."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

Verdict = Literal["keep", "trim", "unsure"]


class JudgementError(ValueError):
    """A judgement file that is frozen, tampered with, or not yet frozen."""


@dataclass(frozen=True)
class Judgement:
    """One rater's verdict on one feature."""

    site: str
    feature: int
    effect: float
    verdict: Verdict
    reason: str
    rater: str


class JudgementLog:
    """A file of judgements for one task."""

    def __init__(self, path: Path, task: str) -> None:
        self.path, self.task = path, task
        if path.exists():
            self._check_open()
        else:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._append({"kind": "task", "task": task})

    def add(self, judgement: Judgement) -> None:
        """Append one verdict; JudgementError once frozen."""
        self._check_open()
        self._append({"kind": "judgement", **asdict(judgement)})

    def freeze(self) -> "Frozen":
        """Close the file: no verdict can be added, and changing an earlier line is noticed."""
        self._check_open()
        digest = hashlib.sha256(self.path.read_bytes()).hexdigest()
        self._append({"kind": "freeze", "sha256": digest})
        return Frozen.read(self.path)

    def _check_open(self) -> None:
        lines = _read(self.path)
        if lines[0].get("task") != self.task:
            raise JudgementError(f"{self.path}: holds task {lines[0].get('task')!r}, not {self.task!r}")
        if any(line["kind"] == "freeze" for line in lines):
            raise JudgementError(f"{self.path}: the judgements are frozen; start a new file to judge again")

    def _append(self, line: Mapping[str, Any]) -> None:
        _append(self.path, line)


@dataclass(frozen=True)
class Frozen:
    """Judgements that can no longer change; made by JudgementLog.freeze or read back from its file."""

    path: Path
    task: str
    judgements: tuple[Judgement, ...]
    sha256: str

    @classmethod
    def read(cls, path: Path) -> "Frozen":
        """Check the hash and read; JudgementError if the file is not frozen or was changed after the freeze."""
        raw = path.read_bytes().splitlines(keepends=True)
        lines = _read(path)
        at = next((i for i, line in enumerate(lines) if line["kind"] == "freeze"), None)
        if at is None:
            raise JudgementError(f"{path}: the judgements are not frozen yet")
        if hashlib.sha256(b"".join(raw[:at])).hexdigest() != lines[at]["sha256"]:
            raise JudgementError(f"{path}: lines before the freeze were changed after it")
        judged = [
            Judgement(**{k: v for k, v in line.items() if k not in ("kind", "time")})
            for line in lines[:at]
            if line["kind"] == "judgement"
        ]
        latest = {(j.rater, j.site, j.feature): j for j in judged}  # a later verdict of the same rater replaces it
        return cls(path, lines[0]["task"], tuple(latest.values()), lines[at]["sha256"])

    def trimmed(self) -> dict[str, list[int]]:
        """Features judged irrelevant, by site name."""
        chosen: dict[str, list[int]] = {}
        for j in self.judgements:
            if j.verdict == "trim":
                chosen.setdefault(j.site, []).append(j.feature)
        return chosen

    def record_opening(self, reason: str) -> None:
        """Note in the file that sealed data was opened."""
        _append(self.path, {"kind": "unsealed", "reason": reason})


def _append(path: Path, line: Mapping[str, Any]) -> None:
    with path.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps({**line, "time": datetime.now(UTC).isoformat(timespec="seconds")}) + "\n")


def _read(path: Path) -> Sequence[dict[str, Any]]:
    try:
        lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    except (OSError, ValueError) as error:
        raise JudgementError(f"{path}: not a readable judgement file ({error})") from None
    if not lines or lines[0].get("kind") != "task":
        raise JudgementError(f"{path}: does not begin with the task it judges")
    return lines
