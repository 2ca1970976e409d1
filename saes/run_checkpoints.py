"""Checkpoints of a run: the last few states, each with a checksum, so that no kill and no damaged file loses a run.

A state is written under a new name, then entered in `index.json` with its SHA-256, then older ones are deleted, each
step atomic and durable: at any moment the index names whole states only.
"""

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from saes.files import FileError, read_json, read_state, sha256, write_json, write_state

INDEX = "index.json"


class DamagedCheckpoint(UserWarning):
    """A checkpoint whose checksum is wrong was passed over for an earlier one."""


@dataclass(frozen=True)
class Checkpoints:
    """A folder of states of one run."""

    folder: Path
    keep: int = 2
    """of the last ones"""

    def __post_init__(self) -> None:
        if self.keep < 1:
            raise ValueError(f"keep is {self.keep}: keep at least one checkpoint")

    def save(self, step: int, state: Mapping[str, Any]) -> None:
        """Write the state after `step` steps, then forget those beyond the last `keep`."""
        name = f"step-{step:09d}.pt"
        write_state(self.folder / name, state)
        sums = {n: s for n, s in self._index().items() if n < name} | {name: sha256(self.folder / name)}
        sums = dict(sorted(sums.items())[-self.keep :])
        write_json(self.folder / INDEX, sums)
        for file in self.folder.glob("step-*.pt"):
            if file.name not in sums:
                file.unlink()

    def load(self) -> dict[str, Any] | None:
        """The last whole state, None if none was ever written; a DamagedCheckpoint warning names those passed over.

        FileError if there were some and all of them are damaged.
        """
        damaged = []
        for name, checksum in sorted(self._index().items(), reverse=True):
            path = self.folder / name
            if not path.is_file():
                damaged.append(f"{path} is missing")
            elif sha256(path) != checksum:
                damaged.append(f"{path} is damaged (its checksum is wrong)")
            else:
                if damaged:
                    warnings.warn(f"{'; '.join(damaged)}; going on from {path}", DamagedCheckpoint, stacklevel=2)
                return read_state(path)
        if damaged:
            raise FileError(f"{'; '.join(damaged)}: no checkpoint is left; delete {self.folder} to start again")
        return None

    def _index(self) -> dict[str, str]:
        path = self.folder / INDEX
        return read_json(path) if path.exists() else {}
