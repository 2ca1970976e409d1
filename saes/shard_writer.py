"""Writes activations as shards: sized before it starts, each shard whole or absent, and resumed where it was killed.

The index gets a row after every shard, with the shard's checksum and the corpus cursor behind it. Writing again with
the same plan keeps the shards that are whole, and writes the missing and the damaged ones from the cursor before them.
"""

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Float, Int8
from torch import Tensor
from transformers import PreTrainedModel

from saes.corpus import Corpus, CorpusStream, Rows
from saes.files import sha256, write_json, write_tensors
from saes.harvest import harvest, largest, typical
from saes.locks import LOCK, locked
from saes.models import DTYPES
from saes.shards import FORMAT, INDEX, LABELS, STORED, ShardError, StoredType, damage, read_index
from saes.sites import Site

_UNFINISHED = ".*.part"  # what a kill in the middle of a file leaves
_HEADER = 4096  # bytes of a shard beside its tensors, at most


@dataclass(frozen=True)
class ShardPlan:
    """What a folder of activations is to hold: sites by width, how many tokens, in which form."""

    sites: dict[Site, int]
    tokens: int
    dtype: StoredType = "fp16"
    shard_bytes: int = 256 << 20
    """of one shard, about; it is made in memory"""
    batch_rows: int = 32
    """rows of the corpus per forward pass"""
    drop_bos: bool = False
    """leave out BOS tokens, and the first token of every row: their activations are outliers in many models"""
    model: dict[str, Any] = field(default_factory=dict)
    """what tells the model from another, as plain JSON"""
    max_norm: float | None = None
    """leave out tokens whose norm at some site is more than so many times the median norm of their forward pass"""
    autocast: Literal["bfloat16", "float16"] | None = None
    """the type of the forward pass's matrix products, if not the model's own"""

    def __post_init__(self) -> None:
        for name in ("tokens", "shard_bytes", "batch_rows"):
            if getattr(self, name) < 1:
                raise ShardError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if self.max_norm is not None and not self.max_norm > 1:
            raise ShardError(f"max_norm is {self.max_norm}: choose more than 1, the median norm itself")
        if not self.sites:
            raise ShardError("no site is named: there is nothing to write")

    @property
    def torch_autocast(self) -> torch.dtype | None:
        """`autocast` as torch knows it."""
        return None if self.autocast is None else DTYPES[self.autocast]

    @property
    def bytes_per_token(self) -> int:
        """Activations, scales and labels of one token."""
        scales = 4 * len(self.sites) if self.dtype == "int8" else 0
        return (
            sum(self.sites.values()) * STORED[self.dtype].itemsize + scales + sum(t.itemsize for t in LABELS.values())
        )

    def shard_rows(self, context: int) -> int:
        """Rows of the corpus in a shard: whole forward passes, so that every run makes the same ones."""
        passes = self.shard_bytes // (self.bytes_per_token * context * self.batch_rows)
        return max(1, passes) * self.batch_rows

    def total_bytes(self, context: int) -> int:
        """Size of the finished folder, at most (but for the index), if every row is full."""
        per_shard = self.shard_rows(context) * context
        return self.tokens * self.bytes_per_token + _HEADER * -(-self.tokens // per_shard)

    def settings(self, corpus: Corpus) -> dict[str, Any]:
        """Everything that must be equal for a second run to go on with a folder."""
        return {
            "format": FORMAT,
            "sites": [{"name": s.name, "module": s.module, "end": s.end, "width": w} for s, w in self.sites.items()],
            "dtype": self.dtype,
            "tokens": self.tokens,
            "shard_rows": self.shard_rows(corpus.layout.context),
            "batch_rows": self.batch_rows,
            "drop_bos": self.drop_bos,
            "max_norm": self.max_norm,
            "autocast": self.autocast,
            "model": self.model,
            "corpus": corpus.identity(),
        }


def size_sentence(size: int) -> str:
    """A number of bytes for people."""
    for unit, factor in (("GiB", 1 << 30), ("MiB", 1 << 20)):
        if size >= factor:
            return f"{size / factor:.1f} {unit}"
    return f"{size / 1024:.1f} KiB"


def prepare(folder: Path, plan: ShardPlan, corpus: Corpus, free: int | None = None) -> dict[str, Any]:
    """The index to go on with, empty for a new folder; ShardError if the folder is another's or the disk too small.

    `free`: bytes that may be written; by default what the file system has.
    """
    settings = plan.settings(corpus)
    index = {**settings, "complete": False, "shards": []}
    if (folder / INDEX).is_file():
        index = read_index(folder)
        if other := [name for name, value in settings.items() if index.get(name) != value]:
            raise ShardError(
                f"{folder}: holds activations made with another {' and another '.join(other)}; "
                "repeat those settings to go on with it, or choose another folder"
            )
    elif folder.is_file() or (folder.is_dir() and set(folder.iterdir()) - {*folder.glob(_UNFINISHED), folder / LOCK}):
        raise ShardError(f"{folder}: is not empty and holds no activations; choose another folder")
    if free is None:
        existing = next(parent for parent in (folder.absolute(), *folder.absolute().parents) if parent.exists())
        free = shutil.disk_usage(existing).free
    written = sum((folder / s["file"]).stat().st_size for s in index["shards"] if (folder / s["file"]).is_file())
    needed = 0 if index["complete"] else plan.total_bytes(corpus.layout.context) - written
    if needed > free:
        raise ShardError(
            f"{folder}: {size_sentence(needed)} are to be written and the disk has {size_sentence(free)} left; "
            "ask for fewer tokens or sites, a smaller dtype, or another disk"
        )
    return index


def write_shards(
    folder: Path,
    model: PreTrainedModel,
    plan: ShardPlan,
    corpus: Corpus,
    *,
    free: int | None = None,
    progress: Callable[[int], object] = lambda tokens: None,
    report: Callable[[str], object] = lambda sentence: None,
) -> dict[str, Any]:
    """Write what is not there yet and return the finished index.

    `progress` is told the tokens of every pass or kept shard, `report` which shards were damaged and written again.
    LockError if another process writes to the folder.
    """
    prepare(folder, plan, corpus, free)  # whether the folder may be touched at all
    with locked(folder, "writing activations"):
        return _write_missing(folder, model, plan, corpus, prepare(folder, plan, corpus, free), progress, report)


def _write_missing(
    folder: Path,
    model: PreTrainedModel,
    plan: ShardPlan,
    corpus: Corpus,
    index: dict[str, Any],
    progress: Callable[[int], object],
    report: Callable[[str], object],
) -> dict[str, Any]:
    """The shards of the index that are absent or damaged, and those that it does not have yet."""
    for stale in folder.glob(_UNFINISHED):
        stale.unlink()
    if not index["shards"]:  # first of all: a shard alone would not say whose it is
        write_json(folder / INDEX, index)
    was_complete, shards = index["complete"], index["shards"]
    cursor, done, number = None, 0, 0
    stream: CorpusStream | None = None  # opened where the first shard to write begins, and again behind kept ones
    while done < plan.tokens and not (was_complete and number == len(shards)):
        known = shards[number] if number < len(shards) else None
        fault = damage(folder, known) if known else None
        if known is None or fault:
            if fault:
                report(f"{fault}; writing it again")
            stream = stream or corpus.stream(cursor)
            entry = _write_shard(folder / f"shard-{number:05d}.safetensors", model, plan, stream, done, progress)
            if entry is None:  # the corpus has ended
                break
            shards[number : number + 1] = [entry]
            write_json(folder / INDEX, index)
        else:
            stream = None
            progress(known["tokens"])
        cursor, done, number = shards[number]["end"], done + shards[number]["tokens"], number + 1
    index["complete"] = True
    if not was_complete:
        write_json(folder / INDEX, index)
    return index


def _write_shard(
    path: Path,
    model: PreTrainedModel,
    plan: ShardPlan,
    stream: CorpusStream,
    done: int,
    progress: Callable[[int], object],
) -> dict[str, Any] | None:
    """Write the next shard of the stream, `done` tokens being written; its row of the index, None at the end."""
    parts: dict[str, list[Tensor]] = {}
    count = taken = 0
    layout = stream.corpus.layout
    for _ in range(plan.shard_rows(layout.context) // plan.batch_rows):
        rows = stream.take(plan.batch_rows)
        tensors = _one_pass(model, plan, rows, plan.tokens - done - count, layout.bos_id) if len(rows) else {}
        for key, values in tensors.items():
            parts.setdefault(key, []).append(values)
        new = len(tensors["tokens"]) if tensors else 0
        count, taken = count + new, taken + len(rows)
        progress(new)
        if len(rows) < plan.batch_rows or done + count >= plan.tokens:
            break
    if not taken:
        return None
    write_tensors(path, {key: torch.cat(values) for key, values in parts.items()}, {"format": FORMAT})
    return {
        "file": path.name,
        "tokens": count,
        "bytes": path.stat().st_size,
        "sha256": sha256(path),
        "end": stream.cursor(),
    }


def _one_pass(model: PreTrainedModel, plan: ShardPlan, rows: Rows, limit: int, bos_id: int | None) -> dict[str, Tensor]:
    """The tensors of a few rows as they are stored: at most `limit` tokens, in the order of the corpus."""
    chosen = rows.counted(plan.drop_bos, bos_id).flatten().nonzero().squeeze(1)
    (values,) = harvest(model, rows.tokens, list(plan.sites), batch_size=len(rows), autocast=plan.torch_autocast)
    found = {site: values[site].flatten(0, 1)[chosen.to(values[site].device)].float().cpu() for site in plan.sites}
    if plan.max_norm is not None:
        keep = typical(found, plan.max_norm)
        chosen, found = chosen[keep], {site: x[keep] for site, x in found.items()}
    out = {name: getattr(rows, name).flatten()[chosen[:limit]].to(dtype) for name, dtype in LABELS.items()}
    for site in plan.sites:
        x = found[site][:limit]
        reaches = largest(site, x)
        if plan.dtype == "int8":
            out[site.name], out[f"{site.name}.scale"] = to_int8(x)
            continue
        if reaches > torch.finfo(STORED[plan.dtype]).max:
            raise ShardError(f"{site}: reaches {reaches:.3g}, more than {plan.dtype} holds: use bf16 or fp32")
        out[site.name] = x.to(STORED[plan.dtype])
    return out


def to_int8(x: Float[Tensor, "n d"]) -> tuple[Int8[Tensor, "n d"], Float[Tensor, " n"]]:
    """Rounded to 255 steps of each row's own scale: wrong by half a step, max |row| / 254, at most."""
    scale = x.abs().amax(dim=1) / 127
    steps = (x / scale.clamp_min(torch.finfo(x.dtype).tiny)[:, None]).round_().clamp_(-127, 127)
    return steps.to(torch.int8), scale
