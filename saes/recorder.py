"""Where numbers go while something trains: nowhere, or one JSON object a line. A recorder never touches a weight."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

Values = Mapping[str, float | str]  # numbers by name, and the site (and member of a sweep) that they are of


@runtime_checkable
class Recorder(Protocol):
    def record(self, step: int, values: Values) -> None:
        """Take the numbers of one logging step."""
        ...


class Silent:
    """Keeps nothing."""

    def record(self, step: int, values: Values) -> None:
        pass


class JSONLines:
    """Appends {"step": ..., name: value, ...} to a file; each line is written whole, so a kill loses at most one."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path

    def record(self, step: int, values: Values) -> None:
        with self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """All whole lines of a JSONLines file; of steps recorded twice (before a kill and after) the later one."""
    records: dict[tuple[int, str, int], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the line that a kill cut short
            continue
        records[record["step"], str(record.get("site", "")), int(record.get("member", 0))] = record
    return list(records.values())
