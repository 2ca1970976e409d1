"""Activations on disk: a folder of safetensors shards and index.json, aligned by token over all sites, read by mapping.

A token is addressed by its number in the order of writing. docs/corpora.md describes the format; saes/shard_writer.py
writes it. `ShardStream` reads training batches: batch n is a pure function of (folder, seed, n).
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from saes.files import FileError, read_json, read_tensors, sha256
from saes.sites import Site
from saes.streams import Activations

FORMAT = "kibitz-activations-1"
INDEX = "index.json"
StoredType = Literal["fp32", "fp16", "bf16", "int8"]
STORED: dict[StoredType, torch.dtype] = {
    "fp32": torch.float32,
    "fp16": torch.float16,
    "bf16": torch.bfloat16,
    "int8": torch.int8,
}
LABELS = {"tokens": torch.int32, "positions": torch.int32, "documents": torch.int64, "offsets": torch.int64}


class ShardError(FileError):
    """A folder of activations that is damaged, unfinished, or not what was asked for."""


@dataclass(frozen=True)
class Labels:
    """What tokens the activations belong to; see saes.corpus.Rows."""

    tokens: Int[Tensor, " n"]
    positions: Int[Tensor, " n"]
    documents: Int[Tensor, " n"]
    offsets: Int[Tensor, " n"]


def damage(folder: Path, shard: dict[str, Any]) -> str | None:
    """What is wrong with a shard's file, compared with its row of the index; None if nothing."""
    path = folder / shard["file"]
    if not path.is_file():
        return f"{path}: no such file"
    if path.stat().st_size != shard["bytes"]:
        return f"{path}: damaged, {path.stat().st_size} bytes in place of {shard['bytes']}"
    return None if sha256(path) == shard["sha256"] else f"{path}: damaged, its checksum differs from the index"


def read_index(folder: Path) -> dict[str, Any]:
    """The index of a folder; ShardError if it is not one of activations."""
    if not (folder / INDEX).is_file():
        raise ShardError(f"{folder}: holds no {INDEX}; write activations with `kibitz harvest`")
    index = read_json(folder / INDEX)
    if not isinstance(index, dict) or index.get("format") != FORMAT:
        raise ShardError(f"{folder / INDEX}: is not an index of activations ({FORMAT})")
    return index


class ActivationShards:
    """Random access to a finished folder. Sizes are checked at once, checksums by check()."""

    def __init__(self, folder: Path | str) -> None:
        self.folder = Path(folder)
        self.index = read_index(self.folder)
        if not self.index["complete"]:
            raise ShardError(f"{self.folder}: is not finished; the same `kibitz harvest` again goes on with it")
        self.dtype: StoredType = self.index["dtype"]
        self.sites = [Site(each["name"], each["module"], each["end"]) for each in self.index["sites"]]
        self._widths = {site: each["width"] for site, each in zip(self.sites, self.index["sites"], strict=True)}
        self._files = [self.folder / shard["file"] for shard in self.index["shards"]]
        for path, shard in zip(self._files, self.index["shards"], strict=True):
            if not path.is_file() or path.stat().st_size != shard["bytes"]:
                raise ShardError(damage(self.folder, shard) or f"{path}: damaged")
        # shard k holds tokens starts[k] .. starts[k + 1] - 1
        self.starts = list(accumulate((shard["tokens"] for shard in self.index["shards"]), initial=0))
        self._mapped: dict[int, dict[str, Tensor]] = {}

    def __len__(self) -> int:
        """Number of tokens."""
        return self.starts[-1]

    def check(self) -> None:
        """Compare every shard with its checksum; ShardError names the first that differs."""
        for shard in self.index["shards"]:
            if fault := damage(self.folder, shard):
                raise ShardError(fault)

    def find(self, site: Site | str) -> Site:
        """The site as the folder knows it; ShardError if it is not there."""
        name = str(site)
        found = next((s for s in self.sites if s.name == name), None)
        if found is None:
            raise ShardError(f"{self.folder}: has no site {name!r}; there are: {', '.join(map(str, self.sites))}")
        return found

    def width(self, site: Site | str) -> int:
        """Last dimension of the activations of a site."""
        return self._widths[self.find(site)]

    def rows(
        self, site: Site | str, indices: Sequence[int] | np.ndarray | Tensor, dtype: torch.dtype = torch.float32
    ) -> Float[Tensor, "n d"]:
        """Activations of a site at tokens in any order, repeats included; only their pages are read."""
        site = self.find(site)
        out = torch.empty(np.shape(indices)[0], self._widths[site], dtype=dtype)
        for shard, where, local in self._located(indices):
            tensors = self._shard(shard)
            values = tensors[site.name][local].to(dtype)
            if self.dtype == "int8":
                values = values * tensors[f"{site.name}.scale"][local, None].to(dtype)
            out[where] = values
        return out

    def labels(self, indices: Sequence[int] | np.ndarray | Tensor) -> Labels:
        """Token ids, positions, documents and offsets at tokens in any order."""
        out = {name: torch.empty(np.shape(indices)[0], dtype=torch.int64) for name in LABELS}
        for shard, where, local in self._located(indices):
            for name, values in out.items():
                values[where] = self._shard(shard)[name][local].long()
        return Labels(**out)

    def _located(self, indices: Sequence[int] | np.ndarray | Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
        """(shard, places in `indices`, rows of the shard), rows ascending: a disk is read in one direction."""
        wanted = np.asarray(indices, dtype=np.int64)
        if len(wanted) and not (wanted.min() >= 0 and wanted.max() < len(self)):
            outside = wanted[(wanted < 0) | (wanted >= len(self))][0]
            raise ShardError(f"{self.folder}: has no token number {outside}; there are {len(self)}")
        order = np.argsort(wanted, kind="stable")
        bounds = np.searchsorted(wanted[order], self.starts)
        for shard in np.flatnonzero(np.diff(bounds)):
            where = order[bounds[shard] : bounds[shard + 1]]
            yield int(shard), torch.from_numpy(where), torch.from_numpy(wanted[where] - self.starts[shard])

    def _shard(self, number: int) -> dict[str, Tensor]:
        if number not in self._mapped:
            self._mapped[number] = read_tensors(self._files[number])  # mapped: no page is read before it is used
        return self._mapped[number]


class ShardStream:
    """Endless shuffled batches from shards, an ActivationStream: training reads it in place of a model.

    Each epoch permutes the shards; `group` of them at a time are shuffled together, so mixing is complete within a
    group and none between groups. The last tokens of a group that do not fill a batch are left out. Of `world`
    processes the one of `rank` reads its slice of each global batch, of world x batch_size tokens.
    """

    def __init__(
        self,
        shards: ActivationShards,
        sites: Sequence[Site | str] | None = None,
        *,
        batch_size: int,
        group: int = 16,
        seed: int = 0,
        rank: int = 0,
        world: int = 1,
        sample_size: int = 65_536,
        device: str | torch.device = "cpu",
    ) -> None:
        """By default of all sites; `sample_size`: tokens for initial means and norms."""
        if batch_size < 1 or group < 1:
            raise ShardError(f"batch_size {batch_size} and group {group}: choose 1 or more")
        if not 0 <= rank < world:
            raise ShardError(f"rank is {rank} of {world}: ranks are counted from 0")
        self._shards, self._group, self._seed = shards, group, seed
        self._sites = [shards.find(site) for site in sites] if sites is not None else shards.sites
        self.batch_size, self._sample, self._device = batch_size, sample_size, device
        self._rank, self._world = rank, world
        self._counts = np.diff(shards.starts)
        if not any(self._batches_in(members) for members in self._groups(0)):
            raise ShardError(
                f"{shards.folder}: its {len(shards)} tokens, {group} shards at a time, never fill a batch of "
                f"{world * batch_size}: use more tokens, larger groups or a smaller batch"
            )

    def batches(self, start: int = 0) -> Iterator[Activations]:
        """Batches number start, start + 1, ... without end; nothing before them is read."""
        skip, epoch = start, 0
        while True:
            for number, members in enumerate(self._groups(epoch)):
                count = self._batches_in(members)
                if skip >= count:
                    skip -= count
                    continue
                order = self._order(epoch, number, members)
                for i in range(skip, count):
                    start = (i * self._world + self._rank) * self.batch_size
                    yield self._read(order[start : start + self.batch_size])
                skip = 0
            epoch += 1

    def sample(self) -> Activations:
        """The first tokens of the first group's permutation, on all ranks."""
        return self._read(self._order(0, 0, self._groups(0)[0])[: self._sample])

    def _read(self, indices: np.ndarray) -> Activations:
        return {site: self._shards.rows(site, indices).to(self._device) for site in self._sites}

    def _groups(self, epoch: int) -> list[np.ndarray]:
        order = np.random.default_rng([self._seed, epoch]).permutation(len(self._counts))
        return [order[i : i + self._group] for i in range(0, len(order), self._group)]

    def _batches_in(self, members: np.ndarray) -> int:
        return int(self._counts[members].sum()) // (self._world * self.batch_size)

    def _order(self, epoch: int, group: int, members: np.ndarray) -> np.ndarray:
        tokens = np.concatenate([np.arange(self._shards.starts[k], self._shards.starts[k + 1]) for k in members])
        return np.random.default_rng([self._seed, epoch, group]).permutation(tokens)
