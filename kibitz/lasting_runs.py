"""Run folders that grow: a run is written where it will stay, by one process at a time, and gone on with after a kill.

Holds config.yaml, manifest.json (versions, when it was begun) and what the run writes; `lock` is held by the process
that writes, and freed by the system whatever ends it.
"""

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kibitz.runs import FORMAT, RunError, check_replaceable, plain, versions
from saes.files import read_json, write_json, write_text

LASTING = "kibitz-lasting-run-1"


@contextmanager
def lasting_run(out: Path, config: Any, ignored: Sequence[str] = ()) -> Iterator[Path]:
    """The folder of a run with these settings, begun or gone on with; RunError if it is another run or in use.

    `ignored`: settings that may change between calls, because they change no result.
    """
    out = Path(os.path.abspath(out))
    manifest = out / "manifest.json"
    if out.exists() and not (manifest.is_file() and read_json(manifest).get("format") == LASTING):
        if manifest.is_file() and read_json(manifest).get("format") == FORMAT:
            raise RunError(f"{out}: holds another kind of run; choose another folder")
        check_replaceable(out)
    out.mkdir(parents=True, exist_ok=True)
    with _locked(out):
        settings = {name: value for name, value in plain(config).items() if name not in ignored}
        if manifest.is_file():
            _check_same(out, read_json(manifest)["settings"], settings)
        else:
            write_text(out / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
            began = datetime.now(UTC).isoformat(timespec="seconds")
            write_json(manifest, {"format": LASTING, "created": began, "versions": versions(), "settings": settings})
        yield out


@contextmanager
def _locked(out: Path) -> Iterator[None]:
    """The folder for this process alone."""
    with open(out / "lock", "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise RunError(f"{out}: process {lock.read().strip() or 'unknown'} is training in this folder") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    different = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    if different:
        first = sorted(different)[0]
        raise RunError(
            f"{out}: holds a run with other settings ({first} is {before.get(first)} there and {now.get(first)} here); "
            "choose another folder, or give the same settings to go on with it"
        )
