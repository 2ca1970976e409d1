"""Who computes what when several processes train one dictionary: rows split over data ranks, features over others.

A thin layer over torch.distributed; `ALONE` is the one process of an ordinary run, for which everything here does
nothing. Sums whose result every rank goes on with have the identity as their gradient: each rank differentiates the
same loss through its own rows and features, and the trainer adds up what the ranks found (Shoeybi et al. 2019,
Megatron-LM, section 3, calls the pair g and f).
"""

import os
import signal
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh

_DIGIT = 8  # bits of a value that one exchange settles
_CHUNK = 1 << 22  # values that are looked at together
_OF_THE_NETWORK = ("gloo", "NCCL", "Connection", "Broken pipe")  # in the plain RuntimeErrors that collectives raise


class RanksError(ValueError):
    """A division of work among processes that cannot be made."""


class Ranks:
    """This process's place in a mesh of data ranks times feature ranks.

    Ranks that differ in their feature rank alone stand next to each other, see the same batch and hold other features;
    ranks that differ in their data rank see other rows and hold the same features.
    """

    def __init__(self, mesh: DeviceMesh | None = None) -> None:
        """`mesh`: of dimensions `data` and `features`; none for the one process of an ordinary run."""
        self._groups: dict[str, Any] = {name: mesh.get_group(name) if mesh else None for name in ("data", "features")}
        self._everyone = dist.group.WORLD if mesh else None
        self.size, self.rank = (dist.get_world_size(), dist.get_rank()) if mesh else (1, 0)
        self.data_size, self.feature_size = (mesh.size(0), mesh.size(1)) if mesh else (1, 1)
        self.data_rank, self.feature_rank = divmod(self.rank, self.feature_size)

    def wait(self) -> None:
        """For all other processes to come to this line."""
        if self.size > 1:
            dist.barrier()

    @property
    def leads(self) -> bool:
        """Whether this process writes files and talks to the user."""
        return self.rank == 0

    def sum_rows(self, t: Tensor) -> Tensor:
        """The sum over data ranks, for all of them to go on with."""
        return t if self.data_size == 1 else _Sum.apply(t, self._groups["data"])  # type: ignore[return-value]

    def mean_rows(self, t: Tensor) -> Tensor:
        """The mean over all rows, from each rank's mean over its own: ranks have equally many."""
        return t if self.data_size == 1 else self.sum_rows(t) / self.data_size

    def sum_features(self, t: Tensor) -> Tensor:
        """The sum over feature ranks, for all of them to go on with."""
        return t if self.feature_size == 1 else _Sum.apply(t, self._groups["features"])  # type: ignore[return-value]

    def to_features(self, t: Tensor) -> Tensor:
        """The same tensor, whose gradient the feature ranks find in parts: it is their sum."""
        return t if self.feature_size == 1 else _Copy.apply(t, self._groups["features"])  # type: ignore[return-value]

    def any_row(self, flags: Tensor) -> Tensor:
        """Whether a flag is set on some data rank."""
        return self._any(flags, "data")

    def any_feature(self, flags: Tensor) -> Tensor:
        """Whether a flag is set on some feature rank."""
        return self._any(flags, "features")

    def smallest(self, t: Tensor, *, over_rows: bool) -> Tensor:
        """The minimum over feature ranks, and over data ranks too if asked."""
        t = t.detach().clone()
        for name in ("features", "data") if over_rows else ("features",):
            self._reduce(t, dist.ReduceOp.MIN, name)
        return t

    def largest(self, t: Tensor) -> Tensor:
        """The maximum over all ranks."""
        t = t.detach().clone()
        for name in ("features", "data"):
            self._reduce(t, dist.ReduceOp.MAX, name)
        return t

    def rows_of_features(self, t: Float[Tensor, "batch *rest"]) -> Tensor:
        """The rows that the feature ranks of one data rank drew, one after another: the batch of them all."""
        return self._gathered(t, "features", 0)

    def all_rows(self, t: Float[Tensor, "batch *rest"]) -> Tensor:
        """The rows of all data ranks, in their order."""
        return self._gathered(t, "data", 0)

    def all_features(self, t: Tensor, axis: int) -> Tensor:
        """The parts of all feature ranks, in their order, on each of them."""
        return self._gathered(t, "features", axis)

    def add_gradients(self, parameters: Sequence[Tensor]) -> None:
        """Make every gradient the sum over the data ranks'."""
        if self.data_size == 1:
            return
        group = self._groups["data"]
        gradients = [p.grad for p in parameters if p.grad is not None]
        for work in [dist.all_reduce(g, group=group, async_op=True) for g in gradients]:
            assert work is not None  # only of a process that is not in the group
            work.wait()

    def from_first(self, t: Tensor) -> Tensor:
        """The tensor of rank 0, on all ranks."""
        if self.size > 1:
            t = t.contiguous()
            dist.broadcast(t, 0)
        return t

    def part(self, t: Tensor, axis: int = 1) -> Tensor:
        """This rank's features of a whole tensor: a copy, unless it holds all."""
        if self.feature_size == 1:
            return t
        return t.chunk(self.feature_size, axis)[self.feature_rank].clone(memory_format=torch.contiguous_format)

    def whole(self, t: Tensor, axis: int = 1) -> Tensor:
        """On rank 0 the whole tensor, in the host's memory where it was split; elsewhere the part that was given.

        All feature ranks must call it. Parts travel through the host, for the whole may be larger than a GPU.
        """
        if self.feature_size == 1 or self.data_rank > 0:
            return t
        part = t.detach().cpu().contiguous()
        parts = [torch.empty_like(part) for _ in range(self.feature_size)] if self.leads else None
        dist.gather(part, parts, group=self._groups["features"], group_dst=0)
        return t if parts is None else torch.cat(parts, axis)

    @torch.no_grad()
    def kth_largest(self, values: Float[Tensor, "member n"], k: Sequence[int]) -> Float[Tensor, " member"]:
        """The k[n]-th largest of the positive values of all ranks, exactly; 0 if there are fewer.

        Bit patterns of positive floats are in the order of the floats: every round counts the next eight bits of those
        values that agree with the answer so far, and adds the counts of the ranks.
        """
        real, kind, bits = torch.float32, torch.int32, 32
        if values.dtype == torch.float64:
            real, kind, bits = torch.float64, torch.int64, 64
        left = torch.tensor(k, device=values.device)
        found = torch.zeros(len(values), dtype=kind, device=values.device)
        enough = torch.ones_like(found, dtype=torch.bool)
        for shift in range(bits - _DIGIT, -1, -_DIGIT):
            counts = torch.zeros(len(values), 1 << _DIGIT, dtype=torch.int64, device=values.device)
            for some in values.split(max(1, _CHUNK // len(values)), 1):
                part = some.to(real).relu().contiguous().view(kind)
                agrees = (
                    (part > 0) if shift == bits - _DIGIT else (part > 0) & (part >> shift + _DIGIT == found[:, None])
                )
                counts.scatter_add_(1, (part >> shift & (1 << _DIGIT) - 1).long(), agrees.long())
            if self._everyone is not None:
                dist.all_reduce(counts, group=self._everyone)
            above = counts.flip(1).cumsum(1).flip(1)  # with this digit or a larger one
            enough &= above[:, 0] >= left
            digit = ((above >= left[:, None]).sum(1) - 1).clamp_min(0)
            left = left - (above - counts).gather(1, digit[:, None])[:, 0]
            found = found << _DIGIT | digit.to(kind)
        return torch.where(enough, found.view(real), 0.0)

    def _any(self, flags: Tensor, over: str) -> Tensor:
        if self._alone(over):
            return flags
        counted = flags.to(torch.uint8)
        self._reduce(counted, dist.ReduceOp.MAX, over)
        return counted.bool()

    def _alone(self, over: str) -> bool:
        return (self.data_size if over == "data" else self.feature_size) == 1

    def _reduce(self, t: Tensor, how: Any, over: str) -> None:
        if not self._alone(over):
            dist.all_reduce(t, how, group=self._groups[over])

    def _gathered(self, t: Tensor, over: str, axis: int) -> Tensor:
        if self._alone(over):
            return t
        parts = [torch.empty_like(t, memory_format=torch.contiguous_format) for _ in range(self._count(over))]
        dist.all_gather(parts, t.detach().contiguous(), group=self._groups[over])
        return torch.cat(parts, axis)

    def _count(self, over: str) -> int:
        return self.data_size if over == "data" else self.feature_size


ALONE = Ranks()


def launched() -> bool:
    """Whether torchrun started this process as one of several."""
    return int(os.environ.get("WORLD_SIZE", "1")) > 1


def join(feature_ranks: int = 1, device: str = "cpu") -> Ranks:
    """Meet the other processes that torchrun started; RanksError if they cannot be divided so. `device` may be auto.

    On a GPU each process takes the one of its local rank.
    """
    if not launched():
        if feature_ranks != 1:
            raise RanksError(f"feature_ranks is {feature_ranks} and there is one process: start it with torchrun")
        return ALONE
    size = int(os.environ["WORLD_SIZE"])
    if feature_ranks < 1 or size % feature_ranks:
        raise RanksError(f"{size} processes cannot be divided into groups of {feature_ranks} (feature_ranks)")
    if device == "auto":
        device = "cuda" if torch.cuda.is_available() else "cpu"
    kind = torch.device(device).type
    if kind == "cuda":
        local = int(os.environ["LOCAL_RANK"])
        if local >= torch.cuda.device_count():
            raise RanksError(f"there are {torch.cuda.device_count()} GPUs: start no more processes on this machine")
        torch.cuda.set_device(local)
    if not dist.is_initialized():
        dist.init_process_group("cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo")
    return Ranks(init_device_mesh(kind, (size // feature_ranks, feature_ranks), mesh_dim_names=("data", "features")))


@contextmanager
def joined(feature_ranks: int = 1, device: str = "cpu") -> Iterator[Ranks]:
    """join(), and leave at the end of the block; RanksError, one sentence, where another process was lost meanwhile."""
    ranks = join(feature_ranks, device)
    if ranks.size == 1:
        yield ranks
        return
    goes_on = "the same command goes on from the last checkpoint"

    def ended(_signal: int, _frame: Any) -> None:
        raise RanksError(f"ended by torchrun, as it does when another process was lost; {goes_on}")

    before = signal.signal(signal.SIGTERM, ended)
    try:
        yield ranks
    except KeyboardInterrupt as interrupt:
        raise KeyboardInterrupt(str(interrupt) or f"interrupted; {goes_on}") from None
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and not any(name in str(error) for name in _OF_THE_NETWORK):
            raise
        raise RanksError(f"another process was lost ({str(error).splitlines()[0]}); {goes_on}") from None
    else:
        dist.destroy_process_group()
    finally:
        signal.signal(signal.SIGTERM, before)


class _Sum(torch.autograd.Function):
    """Sum over a group; every rank goes on with the same sum, so its own part has the sum's gradient."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, group: Any) -> Tensor:
        total = t.detach().clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=group)
        return total

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0], None


class _Copy(torch.autograd.Function):
    """The same tensor on every rank of a group, each of which uses it for something of its own."""

    @staticmethod
    def forward(ctx: Any, t: Tensor, group: Any) -> Tensor:
        ctx.group = group
        return t.view_as(t)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        total = gradients[0].clone(memory_format=torch.contiguous_format)
        dist.all_reduce(total, group=ctx.group)
        return total, None
