"""Run folders: config.yaml, manifest.json (versions, seed, hashes of inputs), metrics.jsonl and the outputs.

A run is staged beside its folder and takes its place only when it is complete, so a run that fails, is interrupted or
is killed leaves the folder as it was.
"""

import os
import platform
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, is_dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from saes.files import read_json, sha256, write_json, write_text

FORMAT = "kibitz-run-1"
_PACKAGES = ("kibitz", "torch", "transformers", "numpy", "scipy", "safetensors")


class RunError(ValueError):
    """A run folder that cannot be used."""


def versions() -> dict[str, str]:
    """Versions of what numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in _PACKAGES}}


@contextmanager
def run_folder(out: Path, config: Any, seed: int, inputs: Mapping[str, Path]) -> Iterator[Path]:
    """A staging folder with config and manifest in place; it becomes `out` if the block ends without an error.

    An earlier run at `out` is replaced then. RunError if `out` holds anything that is not a run.
    """
    out = Path(os.path.abspath(out))
    check_replaceable(out)
    out.parent.mkdir(parents=True, exist_ok=True)
    prefix = f".{out.name}.part-"
    for stale in out.parent.glob(f"{prefix}*"):  # of a run that was killed
        if not _alive(stale):
            shutil.rmtree(stale, ignore_errors=True)
    stage = Path(tempfile.mkdtemp(prefix=f"{prefix}{os.getpid()}-", dir=out.parent))
    try:
        stage.chmod(0o755)
        write_text(stage / "config.yaml", yaml.safe_dump(plain(config), sort_keys=False))
        write_json(
            stage / "manifest.json",
            {
                "format": FORMAT,
                "created": datetime.now(UTC).isoformat(timespec="seconds"),
                "seed": seed,
                "versions": versions(),
                "inputs": {name: {"path": str(path), "sha256": sha256(path)} for name, path in inputs.items()},
            },
        )
        yield stage
        if out.exists():
            old = Path(tempfile.mkdtemp(prefix=prefix, dir=out.parent))
            os.replace(out, old / "old")
            os.replace(stage, out)
            shutil.rmtree(old)
        else:
            os.replace(stage, out)
    finally:
        shutil.rmtree(stage, ignore_errors=True)


def check_replaceable(out: Path) -> None:
    """RunError unless `out` is absent, empty, or an earlier run."""
    if not out.exists():
        return
    if not out.is_dir():
        raise RunError(f"{out}: is a file; choose a folder for the run")
    if any(out.iterdir()):
        manifest = out / "manifest.json"
        if not manifest.is_file() or read_json(manifest).get("format") != FORMAT:
            raise RunError(f"{out}: is not empty and not a run of kibitz; choose another folder")


def _alive(stage: Path) -> bool:
    """Whether the process that made a staging folder still runs."""
    pid = stage.name.rsplit(".part-", 1)[1].split("-")[0]
    if not pid.isdigit():
        return False
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def plain(value: Any) -> Any:
    """Dataclasses and paths as what YAML can hold."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
