"""A folder for one process alone: an advisory lock that the system frees whatever ends the process."""

import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from saes.files import FileError

LOCK = "lock"


class LockError(FileError):
    """Another process is writing to the folder."""


@contextmanager
def locked(folder: Path, doing: str) -> Iterator[None]:
    """Hold `folder`, made if absent, through the file `lock` in it; LockError names the process that is `doing` it."""
    folder.mkdir(parents=True, exist_ok=True)
    with open(folder / LOCK, "a+", encoding="utf-8") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise LockError(f"{folder}: process {lock.read().strip() or 'unknown'} is {doing} in this folder") from None
        lock.truncate(0)
        lock.write(str(os.getpid()))
        lock.flush()
        yield
