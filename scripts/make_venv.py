"""The set-up behind `make`: a virtual environment with the pinned dependencies and this clone, installed editable.

The stamp FOLDER/.ready is written last, and whatever lacks it is made again from nothing: pip takes a half-copied
package for an installed one. Only one set-up runs at a time, for a killed `make` may leave its pip alive. Standard
library only, and nothing that an older Python 3 could not read, so that it can say that it is too old.
"""

import fcntl
import shutil
import signal
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
INPUTS = [ROOT / "pyproject.toml", ROOT / "constraints.txt"]


def is_ready(stamp: Path) -> bool:
    """Whether the set-up was finished after the last change of what it installs."""
    return stamp.is_file() and all(stamp.stat().st_mtime >= path.stat().st_mtime for path in INPUTS)


def make_venv(folder: Path) -> None:
    """Make the environment, unless another process has just done so; stops with one sentence if it cannot."""
    stamp = folder / ".ready"
    with INPUTS[1].open() as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print("waiting for another set-up of this clone to end", flush=True)
            fcntl.flock(lock, fcntl.LOCK_EX)
        if is_ready(stamp):
            return
        unfinished = folder / ".unfinished"
        if folder.exists():
            ours = folder == ROOT / ".venv" or stamp.exists() or unfinished.exists()
            if not folder.is_dir() or (any(folder.iterdir()) and not ours):
                sys.exit(f"VENV={folder}: something else is here; name a new folder, or remove this one")
            shutil.rmtree(folder)
        print(f"installing the pinned dependencies into {folder}; this takes a few minutes the first time", flush=True)
        folder.mkdir(parents=True)
        unfinished.touch()
        python = str(folder / "bin" / "python")
        quiet = [] if sys.stdout.isatty() else ["--quiet"]
        install = [python, "-m", "pip", "install", *quiet, "--disable-pip-version-check", "-c", str(INPUTS[1])]
        for command in (
            [sys.executable, "-m", "venv", str(folder)],
            [*install, "hatchling"],  # pinned like everything else, which pip's own build environments are not
            [*install, "--no-build-isolation", "--editable", str(ROOT) + "[dev]"],
        ):
            # the lock goes to the child as well: it is held until the last of them has gone
            if subprocess.run(command, pass_fds=[lock.fileno()]).returncode:
                sys.exit("the set-up failed, for the reason above; `make setup` tries again")
        unfinished.rename(stamp)


def main() -> None:
    if sys.version_info < (3, 11):  # noqa: UP036 - whoever starts this may have an older one
        sys.exit(
            f"kibitz needs Python 3.11 or newer and {sys.executable} is {sys.version.split()[0]}; "
            "name another one: make PYTHON=/path/to/python"
        )
    # so that pip ends with us when make passes on a TERM
    signal.signal(signal.SIGTERM, lambda *_: sys.exit("the set-up was stopped; `make setup` starts again"))
    if len(sys.argv) != 2 or sys.argv[1].startswith("-"):
        sys.exit("usage: make_venv.py FOLDER, the environment to make")
    try:
        make_venv(Path(sys.argv[1]).absolute())
    except KeyboardInterrupt:
        sys.exit("the set-up was stopped; `make setup` starts again")


if __name__ == "__main__":
    main()
