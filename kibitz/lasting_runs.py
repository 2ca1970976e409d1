"""Run folders that grow: a run is written where it will stay, by one process at a time, and gone on with after a kill.

Holds config.yaml, manifest.json (versions, when it was begun) and what the run writes; `lock` is held by the process
that writes, and freed by the system whatever ends it.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kibitz.runs import RunError, check_replaceable, plain, versions
from saes.files import read_json, sha256, write_json, write_text

LASTING = "kibitz-lasting-run-1"


@contextmanager
def lasting_run(
    out: Path, config: Any, ignored: Sequence[str] = (), inputs: Mapping[str, Path] | None = None
) -> Iterator[Path]:
    """The folder of a run with these settings, begun or gone on with; RunError if it is another run or in use.

    `ignored`: settings that may change between calls, because they change no result. `inputs`: files that the result
    depends on, which may not. Ctrl-C says that the same command goes on.
    """
    out = Path(os.path.abspath(out))
    settings = {name: value for name, value in plain(config).items() if name not in ignored}
    settings |= {f"sha256 of {name}": sha256(path) for name, path in (inputs or {}).items()}
    if not (out / "manifest.json").is_file():
        _begin(out, config, settings)
    manifest = read_json(out / "manifest.json")
    if manifest.get("format") != LASTING:
        raise RunError(f"{out}: holds another kind of run; choose another folder")
    with _locked(out):
        _check_same(out, manifest["settings"], settings)
        try:
            yield out
        except KeyboardInterrupt:
            raise KeyboardInterrupt(f"interrupted; the same command goes on with {out}") from None


def _begin(out: Path, config: Any, settings: dict[str, Any]) -> None:
    """The folder with config and manifest in it, or none: a kill leaves nothing half-made at its place."""
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    stage = Path(tempfile.mkdtemp(prefix=f".{out.name}.part-{os.getpid()}-", dir=out.parent))
    try:
        stage.chmod(0o755)
        began = datetime.now(UTC).isoformat(timespec="seconds")
        write_text(stage / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
        record = {"format": LASTING, "created": began, "versions": versions(), "settings": settings}
        write_json(stage / "manifest.json", record)
        os.replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


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
