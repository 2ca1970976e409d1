"""Addresses inside repositories of the Hugging Face hub, and the files that one dictionary needs from there.

    owner/name                                       a repository that is one dictionary
    owner/name:folder/in/it                          a folder of it
    google/gemma-scope-2b-pt-res:layer_20/width_16k/average_l0_71@main     the same at a branch, tag or commit

Only the files that are asked for are fetched, into huggingface_hub's own cache, and read there; HF_HOME, HF_HUB_CACHE,
HF_HUB_OFFLINE, HF_ENDPOINT and HF_TOKEN mean what they mean to huggingface_hub.
"""

import glob
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path, PurePosixPath

from huggingface_hub import HfApi, constants, snapshot_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)

from saes.files import FileError

SYNTAX = "owner/name[:folder/in/it][@revision]"
_ADDRESS = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(?::(?P<path>[^@]*))?(?:@(?P<revision>.+))?")


@dataclass(frozen=True)
class HubAddress:
    """A folder or file in a repository; `path` is "" for the whole repository."""

    repo: str
    path: str = ""
    revision: str | None = None

    def __str__(self) -> str:
        return self.repo + (f":{self.path}" if self.path else "") + (f"@{self.revision}" if self.revision else "")

    def at(self, path: str) -> "HubAddress":
        """Another path of the same repository and revision."""
        return HubAddress(self.repo, path, self.revision)


def parse_address(source: str) -> HubAddress | None:
    """The address that a string spells; None if it spells none. FileError for a path that leaves the repository."""
    match = _ADDRESS.fullmatch(source)
    if match is None or source.startswith(("./", "../", "~")):
        return None
    path = (match["path"] or "").strip("/")
    if ".." in PurePosixPath(path).parts:
        raise FileError(f"{source}: the path leaves the repository; write {SYNTAX}")
    return HubAddress(match["repo"], "" if path == "." else path, match["revision"])


def fetch(address: HubAddress, files: Sequence[str]) -> Path:
    """The local copy of a folder, with those of `files` (names in it) that the repository has; it may have none.

    FileError, in one sentence, if the repository, its revision or the hub cannot be had.
    """
    inside = f"{glob.escape(address.path)}/" if address.path else ""  # huggingface_hub takes patterns
    return _snapshot(address, [inside + name for name in files]) / address.path


def _snapshot(address: HubAddress, patterns: list[str]) -> Path:
    try:
        return Path(snapshot_download(address.repo, revision=address.revision, allow_patterns=patterns))
    except GatedRepoError:
        reason = "the repository is gated: accept its terms on the hub and log in with `hf auth login`"
    except RepositoryNotFoundError:
        reason = f"no such folder here, and the hub has no repository {address.repo!r} that you may read"
    except RevisionNotFoundError:
        reason = f"the repository has no branch, tag or commit {address.revision!r}"
    except LocalEntryNotFoundError as error:  # covers an incomplete copy, and a hub that does not answer
        if constants.HF_HUB_OFFLINE:
            reason = "no such folder here, HF_HUB_OFFLINE is set, and the cache lacks it; unset it, or fetch it before"
        else:
            reason = (
                "no such folder here, the cache lacks it and the hub cannot be reached; try again when it can "
                f"({_first_line(error)})"
            )
    except HFValidationError as error:
        reason = f"no such folder here, and not a name on the hub ({_first_line(error)}); write {SYNTAX}"
    except (HfHubHTTPError, OSError) as error:
        reason = f"could not be fetched from the hub; try again later ({type(error).__name__}: {_first_line(error)})"
    raise FileError(f"{address}: {reason}") from None


def _first_line(error: Exception) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)[:200]


def files_of(address: HubAddress) -> list[str]:
    """Paths of all files in the repository; those of the cached copy if the hub cannot be reached."""
    try:
        return HfApi().list_repo_files(address.repo, revision=address.revision)
    except (HfHubHTTPError, OSError):  # offline, or not reachable
        root = _snapshot(address, [])
        return [path.relative_to(root).as_posix() for path in root.rglob("*") if path.is_file()]


def nearest(wanted: str, names: Iterable[str], count: int = 4) -> list[str]:
    """The names most like `wanted`: those that begin as it does first."""
    pool = sorted(set(names))
    parts = PurePosixPath(wanted).parts
    for depth in range(len(parts), 0, -1):
        start = "/".join(parts[:depth])
        if below := [name for name in pool if name == start or name.startswith(f"{start}/")]:
            return get_close_matches(wanted, below, n=count, cutoff=0.0)
    return get_close_matches(wanted, pool, n=count, cutoff=0.0)
