"""Run folders that grow: a run is written where it will stay, by one process at a time, and gone on with after a kill.

Holds config.yaml, manifest.json (versions, when it was begun) and what the run writes; `lock` is held by the process
that writes, and freed by the system whatever ends it.
"""

import errno
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import MISSING, fields
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import yaml

from kibitz.runs import RunError, check_replaceable, plain, versions
from saes.files import read_json, write_json, write_text
from saes.locks import locked

LASTING = "kibitz-lasting-run-1"


@contextmanager
def lasting_run(
    out: Path, config: Any, ignored: Sequence[str] = (), inputs: Mapping[str, Any] | None = None
) -> Iterator[Path]:
    """The folder of a run with these settings, begun or gone on with; RunError if it is another run.

    `ignored`: settings that may change between calls, because they change no result. `inputs`: what else the result
    depends on, such as a model and a corpus, as plain JSON by name; it may not change. LockError if another process
    has the folder. Ctrl-C says that the same command goes on.
    """
    out = Path(os.path.abspath(out))
    settings = {name: value for name, value in plain(config).items() if name not in ignored}
    settings["inputs"] = dict(inputs or {})
    if not (out / "manifest.json").is_file():
        _begin(out, config, settings)
    manifest = read_json(out / "manifest.json")
    if manifest.get("format") != LASTING:
        raise RunError(f"{out}: holds another kind of run; choose another folder")
    with locked(out, "training"):
        _check_same(out, _defaults(config, ignored) | manifest["settings"], settings)
        for unfinished in out.rglob(".*.part"):  # what a kill in the middle of a file has left
            unfinished.unlink()
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
        try:
            os.replace(stage, out)
        except OSError as error:
            if error.errno not in (errno.ENOTEMPTY, errno.EEXIST):
                raise
            raise RunError(f"{out}: another process has begun a run there at the same moment") from None
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def _check_same(out: Path, before: dict[str, Any], now: dict[str, Any]) -> None:
    before, now = _flat(before), _flat(now)
    different = [name for name in before.keys() | now.keys() if before.get(name) != now.get(name)]
    if different:
        first = sorted(different)[0]
        raise RunError(
            f"{out}: holds a run with other settings ({first} is {before.get(first)} there and {now.get(first)} here); "
            "choose another folder, or give the same settings to go on with it"
        )


def _defaults(config: Any, ignored: Sequence[str]) -> dict[str, Any]:
    """What a setting counts as in a run that was begun before the setting existed."""
    given = {f.name: f.default for f in fields(config) if f.default is not MISSING and f.name not in ignored}
    return plain(given)


def _flat(settings: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Values by dotted name, so that a difference is named to the point."""
    found: dict[str, Any] = {}
    for name, value in settings.items():
        found |= _flat(value, f"{prefix}{name}.") if isinstance(value, Mapping) else {prefix + name: value}
    return found
