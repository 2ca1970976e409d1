"""Where numbers go while something trains: nowhere, JSON lines, a table, wandb. A recorder never touches a weight."""

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable
from uuid import uuid4

from tqdm import tqdm

from saes.files import FileError, full_disk, read_json, write_json

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
        with full_disk(path), path.open("ab+") as stream:  # a kill may have cut the last line short
            if stream.tell():
                stream.seek(-1, os.SEEK_END)
                if stream.read(1) != b"\n":
                    stream.write(b"\n")

    def record(self, step: int, values: Values) -> None:
        with full_disk(self._path), self._path.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps({"step": step, **values}) + "\n")


def read_records(path: Path) -> list[dict[str, Any]]:
    """The numbers of each step, site and member, from all whole lines of a JSONLines file.

    Of a number recorded twice (before a kill and after) the later one.
    """
    records: dict[tuple[int, str, int], dict[str, Any]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except ValueError:  # the line that a kill cut short
            continue
        key = record["step"], str(record.get("site", "")), int(record.get("member", 0))
        records[key] = {**records.get(key, {}), **record}
    return list(records.values())


class Several:
    """Passes everything on to several recorders, in their order."""

    def __init__(self, *recorders: Recorder) -> None:
        self._recorders = recorders

    def record(self, step: int, values: Values) -> None:
        for recorder in self._recorders:
            recorder.record(step, values)


class Console:
    """A table that grows by a line a record, above a progress bar or in a log file; headers come again and again."""

    _EVERY = 40  # lines between headers

    def __init__(self, write: Callable[[str], object] = tqdm.write) -> None:
        self._write, self._columns, self._lines = write, (), 0

    def record(self, step: int, values: Values) -> None:
        row = {"step": step, **values}
        if tuple(row) != self._columns or self._lines % self._EVERY == 0:
            self._columns, self._lines = tuple(row), 0
            self._write("  ".join(name.rjust(self._width(name)) for name in row))
        self._lines += 1
        cells = {name: f"{v:.4g}" if isinstance(v, float) else str(v) for name, v in row.items()}
        self._write("  ".join(cell.rjust(self._width(name)) for name, cell in cells.items()))

    @staticmethod
    def _width(column: str) -> int:
        return max(len(column), 10)


class WandB:
    """A run of Weights & Biases, found again by the id in `folder`, a run's folder.

    The mode is the environment's: WANDB_MODE=offline needs no network and no account. A step that an earlier process
    has sent is not sent again, so steps rise also after a resume.
    """

    def __init__(self, project: str, folder: Path, config: Mapping[str, Any]) -> None:
        """FileError where the package is missing or does not start a run."""
        try:
            import wandb
        except ImportError:
            raise FileError("wandb is not installed: pip install 'kibitz[wandb]'") from None
        self._state = folder / "wandb.json"
        if not self._state.exists():
            write_json(self._state, {"id": uuid4().hex[:8], "step": -1})
        known = read_json(self._state)
        self._sent, self._step = known["step"], known["step"]
        self._id = known["id"]
        quiet = wandb.Settings(console="off", silent=True)
        options: dict[str, Any] = {"id": self._id, "resume": "allow", "dir": str(folder), "settings": quiet}
        try:
            self._run = wandb.init(project=project, name=folder.name, config=dict(config), **options)
        except wandb.Error as error:
            raise FileError(f"wandb: {' '.join(str(error).split())}; WANDB_MODE=offline needs no account") from None

    def record(self, step: int, values: Values) -> None:
        if step <= self._sent:
            return
        if step != self._step:
            self._whole()
            self._step = step
        under = "/".join(str(values[name]) for name in ("site", "member") if name in values)
        numbers = {f"{under}/{name}": v for name, v in values.items() if name not in ("site", "member")}
        self._run.log(numbers, step=step)

    def close(self, failed: bool = False) -> None:
        """Send what is left."""
        self._whole()
        self._run.finish(exit_code=int(failed))

    def _whole(self) -> None:
        """The step at hand is complete: remember it."""
        write_json(self._state, {"id": self._id, "step": self._step})
