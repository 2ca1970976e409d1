"""Each kernel of the sparse step against a plain dense formula, in both precisions, for one member and a stack."""

import importlib
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from types import ModuleType

import numba
import numpy as np
import pytest
import torch
from torch import Tensor

from saes.kernels import cpu

REAL = [torch.float64, torch.float32]
TOLERANCE = {torch.float64: 1e-12, torch.float32: 2e-6}
SHAPES = [(1, 7, 37, 5), (3, 5, 64, 8), (3, 4, 75, 33), (1, 3, 1, 1)]  # N, B, F, D


def close(ours: Tensor, expected: Tensor) -> None:
    """Equal within rounding of the sums' own size."""
    assert ours.shape == expected.shape and ours.dtype == expected.dtype
    error = (ours - expected).norm() / expected.norm().clamp_min(1e-30)
    assert error <= TOLERANCE[ours.dtype], error


def dense(entries: cpu.Entries, pre: Tensor) -> Tensor:
    """The entries written into a zero [N, B, F], after a check of their order."""
    members, batch, features = pre.shape
    rows = torch.repeat_interleave(torch.arange(members * batch), entries.starts.diff())
    assert entries.starts[0] == 0 and entries.starts[-1] == len(entries.columns) == len(entries.values)
    place = rows * members * features + entries.columns
    assert (place.diff() > 0).all()  # ascending in each row
    assert (entries.columns // features == rows // batch).all()  # each member in its own columns
    found = torch.zeros(members * batch, features, dtype=pre.dtype)
    found[rows, entries.columns.long() % features] = entries.values
    return found.reshape(pre.shape)


def pre_activations(shape: tuple[int, int, int, int], dtype: torch.dtype) -> Tensor:
    """Normal numbers with an empty row, ties, zeros, and a row that is active throughout."""
    pre = torch.randn(shape[:3], dtype=dtype)
    pre[:, 0] = -pre[:, 0].abs()
    pre[:, 1] = pre[:, 1].abs() + 0.5
    pre[:, 2, ::2] = 0.25
    pre[:, 2, 1::3] = 0.0
    return pre


def top_k(rows: Tensor, k: int) -> Tensor:
    """Of each row the k largest positive values, of equals the first; by a stable sort."""
    order = rows.sort(stable=True, dim=-1, descending=True).indices[..., :k]
    kept = torch.zeros_like(rows).scatter(-1, order, 1.0)
    return torch.where((rows > 0) & (kept > 0), rows, 0.0)


@pytest.fixture(params=[1, 2], ids=["one thread", "two threads"])
def threads(request: pytest.FixtureRequest) -> Iterator[int]:
    before = torch.get_num_threads()
    torch.set_num_threads(request.param)
    yield request.param
    torch.set_num_threads(before)


class Problem:
    """A small sparse step: weights, inputs, and the active entries both ways."""

    def __init__(self, shape: tuple[int, int, int, int], dtype: torch.dtype) -> None:
        self.members, self.batch, self.features, self.width = members, batch, features, width = shape
        self.pre = pre_activations(shape, dtype)
        self.W_dec = torch.randn(members * features, width, dtype=dtype)
        self.bias = torch.randn(members, width, dtype=dtype)
        self.x = torch.randn(batch, width, dtype=dtype)
        self.base = torch.randn(members * batch, width, dtype=dtype)
        self.starts, self.columns, self.values = self.entries = cpu.compact(self.pre, 0.0)
        self.active = self.pre.clamp_min(0)

    def rows(self) -> Tensor:
        return torch.repeat_interleave(torch.arange(len(self.starts) - 1), self.starts.diff())

    def reconstruction(self) -> Tensor:
        decoder = self.W_dec.reshape(self.members, self.features, self.width)
        return (self.active @ decoder + self.bias[:, None]).reshape(-1, self.width)

    def scattered(self, weights: Tensor) -> Tensor:
        """Entry weights as a dense [R, N·F]."""
        full = torch.zeros(len(self.starts) - 1, len(self.W_dec), dtype=weights.dtype)
        full[self.rows(), self.columns.long()] = weights
        return full


@pytest.fixture(params=REAL, ids=["float64", "float32"])
def dtype(request: pytest.FixtureRequest) -> torch.dtype:
    return request.param


@pytest.fixture(params=SHAPES, ids=str)
def problem(request: pytest.FixtureRequest, dtype: torch.dtype, threads: int) -> Problem:
    return Problem(request.param, dtype)


@pytest.mark.parametrize("cut", [0.0, 0.25, -1e9, 1e9])
def test_compact(problem: Problem, cut: float) -> None:
    pre = problem.pre
    found = cpu.compact(pre, cut)
    assert len(found.values) == (pre > cut).sum()
    torch.testing.assert_close(dense(found, pre), torch.where(pre > cut, pre, 0.0), rtol=0, atol=0)


def test_compact_with_cuts_of_their_own(problem: Problem) -> None:
    pre = problem.pre
    by_row = torch.randn(pre.shape[:2], dtype=pre.dtype)
    by_feature = torch.randn(pre.shape[0], pre.shape[2], dtype=pre.dtype)
    found = dense(cpu.compact_by_row(pre, by_row), pre)
    assert torch.equal(found, torch.where(pre > by_row[:, :, None], pre, 0.0))
    found = dense(cpu.compact_by_feature(pre, by_feature), pre)
    assert torch.equal(found, torch.where(pre > by_feature[:, None], pre, 0.0))


@pytest.mark.parametrize("k", [0, 1, 3, 40, 1000])
def test_top_k(problem: Problem, k: int) -> None:
    wanted = torch.tensor([k + n for n in range(problem.members)])
    found = dense(cpu.compact_top_k(problem.pre, wanted), problem.pre)
    for member, pre, count in zip(found, problem.pre, wanted.tolist(), strict=True):
        assert torch.equal(member, top_k(pre, count))


@pytest.mark.parametrize("k", [0, 1, 3, 40, 1000])
def test_batch_top_k(problem: Problem, k: int) -> None:
    wanted = torch.tensor([k + n for n in range(problem.members)])
    found = dense(cpu.compact_batch_top_k(problem.pre, wanted), problem.pre)
    for member, pre, count in zip(found, problem.pre, wanted.tolist(), strict=True):
        assert torch.equal(member.flatten(), top_k(pre.flatten(), count * problem.batch))


@pytest.mark.parametrize("select", [cpu.compact_top_k, cpu.compact_batch_top_k])
def test_selection_with_few_different_values(select: Callable[..., cpu.Entries], dtype: torch.dtype) -> None:
    """Thousands of ties across the k-th place, and winners that all fall into one lane of maxima."""
    for pre in [torch.randint(-2, 3, (2, 9, 1000)).to(dtype), -torch.rand(2, 9, 1000, dtype=dtype)]:
        pre[:, 3, ::64] = 7.0
        pre[:, 5, 4] = torch.nan
        found = dense(select(pre, torch.tensor([5, 8])), pre)
        usable = pre.nan_to_num(-1.0)
        for n, k in enumerate([5, 8]):
            flat = top_k(usable[n].flatten(), 9 * k).reshape(9, 1000)
            assert torch.equal(found[n], flat if select is cpu.compact_batch_top_k else top_k(usable[n], k))


@numba.njit
def leave_in_freed_memory(bits, size):
    """numba's allocator hands the same memory to the next array of this size."""
    scratch = np.full(size, bits)
    return scratch.copy()


@pytest.mark.parametrize("bits", [-1, 0x7FEFFFFF7F7FFFFF])  # a negative NaN; the largest finite numbers
def test_scratch_memory_does_not_matter(dtype: torch.dtype, bits: int) -> None:
    pre, k = pre_activations((2, 6, 50, 1), dtype), torch.tensor([2, 3])
    for size in [1, 2, 32, 50] * 3:
        leave_in_freed_memory(bits, size)
        rows = dense(cpu.compact_top_k(pre, k), pre)
        leave_in_freed_memory(bits, size)
        flat = dense(cpu.compact_batch_top_k(pre, k), pre)
        for n, count in enumerate(k.tolist()):
            assert torch.equal(rows[n], top_k(pre[n], count))
            assert torch.equal(flat[n].flatten(), top_k(pre[n].flatten(), 6 * count))


def test_nothing_active(dtype: torch.dtype) -> None:
    pre = torch.zeros(2, 3, 40, dtype=dtype)
    k = torch.tensor([4, 4])
    for found in [cpu.compact(pre, 0.0), cpu.compact_top_k(pre, k), cpu.compact_batch_top_k(pre, k)]:
        assert len(found.columns) == len(found.values) == 0 and found.starts.tolist() == [0] * 7
    error, slope = cpu.decode_error(
        found.values, found.starts, found.columns, pre.new_ones(80, 5), pre.new_ones(2, 5), pre.new_ones(3, 5)
    )
    assert not error.any() and len(slope) == 0
    by_column = cpu.transpose(found.starts, found.columns, 80)
    gradient = cpu.weight_gradient(slope, *by_column, error, out=pre.new_ones(80, 5))
    assert not gradient.any() and not cpu.column_sums(slope, by_column.feature_starts, by_column.order).any()


def test_decode(problem: Problem) -> None:
    close(cpu.decode(problem.values, problem.starts, problem.columns, problem.W_dec, problem.bias),
          problem.reconstruction())  # fmt: skip


@pytest.mark.parametrize("with_base", [False, True])
def test_decode_error_and_slopes(problem: Problem, with_base: bool) -> None:
    base = problem.base if with_base else None
    parts = (problem.starts, problem.columns, problem.W_dec)
    error, slope = cpu.decode_error(problem.values, *parts, problem.bias, problem.x, base)
    expected = problem.reconstruction() - problem.x.repeat(problem.members, 1)
    expected = expected + problem.base if with_base else expected
    close(error, expected)
    expected_slope = (expected @ problem.W_dec.T)[problem.rows(), problem.columns.long()]
    close(slope, expected_slope)
    close(cpu.slopes(expected, *parts), expected_slope)


def test_transpose(problem: Problem) -> None:
    feature_starts, rows, order = cpu.transpose(problem.starts, problem.columns, len(problem.W_dec))
    expected = problem.columns.argsort(stable=True)
    assert torch.equal(order.long(), expected)
    assert torch.equal(rows.long(), problem.rows()[expected])
    assert torch.equal(feature_starts.diff(), problem.columns.long().bincount(minlength=len(problem.W_dec)))


def test_weight_gradients(problem: Problem) -> None:
    by_column = cpu.transpose(problem.starts, problem.columns, len(problem.W_dec))
    weights = torch.randn_like(problem.values)
    full = problem.scattered(weights)
    close(cpu.weight_gradient(weights, *by_column, problem.base), full.T @ problem.base)
    out = torch.full_like(problem.W_dec, torch.nan)
    assert cpu.weight_gradient(weights, *by_column, problem.x, out=out) is out
    close(out, full.T @ problem.x.repeat(problem.members, 1))
    close(cpu.column_sums(weights, by_column.feature_starts, by_column.order), full.sum(0))


@pytest.mark.parametrize("unit_rows", [False, True])
def test_adam_is_torchs(problem: Problem, unit_rows: bool) -> None:
    """Five steps with a learning rate and a clipping coefficient per member, against torch's Adam and projection."""
    members = problem.members
    start = torch.nn.functional.normalize(problem.W_dec, dim=1)
    ours, m, v = start.clone(), torch.zeros_like(start), torch.zeros_like(start)
    lr, scale = torch.linspace(1e-3, 1e-2, members), torch.linspace(0.5, 1.0, members)
    theirs = list(start.clone().chunk(members))
    optimisers = [
        torch.optim.Adam([w], lr=rate, betas=(0.8, 0.99), eps=1e-6) for w, rate in zip(theirs, lr.tolist(), strict=True)
    ]
    for step in range(1, 6):
        gradient = torch.randn_like(start)
        before = gradient.clone()
        cpu.adam(ours, gradient, m, v, lr=lr, beta1=0.8, beta2=0.99, eps=1e-6, step=step, scale=scale,
                 unit_rows=unit_rows)  # fmt: skip
        assert torch.equal(gradient, before)
        for w, optimiser, part, factor in zip(theirs, optimisers, gradient.chunk(members), scale, strict=True):
            along = (part * w).sum(1, keepdim=True) * w if unit_rows else 0.0
            w.grad = (part - along) * factor
            optimiser.step()
            if unit_rows:
                w /= w.norm(dim=1, keepdim=True)
    error = (ours - torch.cat(theirs)).abs().max()
    assert error < (1e-12 if start.dtype == torch.float64 else 2e-5), error  # one ulp of a tiny v is much of a step


def test_sum_of_squares(problem: Problem) -> None:
    unit = torch.nn.functional.normalize(problem.W_dec, dim=1).reshape(problem.members, -1, problem.width)
    gradient = torch.randn_like(unit)
    projected = gradient - (gradient * unit).sum(-1, keepdim=True) * unit
    for ours, expected in [
        (cpu.sum_of_squares(gradient, problem.members), gradient),
        (cpu.sum_of_squares(gradient, problem.members, unit), projected),
    ]:
        expected = expected.double().square().sum((1, 2))
        torch.testing.assert_close(ours, expected, rtol=10 * TOLERANCE[unit.dtype], atol=1e-12)


def results(problem: Problem) -> list[Tensor]:
    """What every kernel answers."""
    k = torch.tensor([9, 20])
    parts = (problem.starts, problem.columns, problem.W_dec)
    by_column = cpu.transpose(problem.starts, problem.columns, 600)
    error, slope = cpu.decode_error(problem.values, *parts, problem.bias, problem.x)
    gradient = cpu.weight_gradient(slope, *by_column, error)
    w, m, v = problem.W_dec.clone(), torch.zeros_like(gradient), torch.zeros_like(gradient)
    cpu.adam(w, gradient, m, v, lr=1e-3, beta1=0.9, beta2=0.999, eps=1e-8, step=1, unit_rows=True)
    return [
        *cpu.compact(problem.pre, 0.1), *cpu.compact_top_k(problem.pre, k), *cpu.compact_batch_top_k(problem.pre, k),
        *by_column, error, slope, gradient, cpu.column_sums(slope, by_column.feature_starts, by_column.order),
        cpu.sum_of_squares(gradient, 2), w, m, v,
    ]  # fmt: skip


def test_threads_change_no_bit(dtype: torch.dtype) -> None:
    problem = Problem((2, 70, 300, 19), dtype)
    torch.set_num_threads(1)
    alone = results(problem)
    for threads in [2, 7]:
        torch.set_num_threads(threads)
        assert all(map(torch.equal, alone, results(problem)))


def test_several_callers_at_once() -> None:
    """As a backward pass and an evaluation beside it would be."""
    problem, found = Problem((2, 70, 300, 19), torch.float32), []
    expected = results(problem)
    callers = [threading.Thread(target=lambda: found.append(results(problem))) for _ in range(3)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    assert len(found) == 3 and all(all(map(torch.equal, expected, each)) for each in found)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="this system forks no processes")
def test_forked_child_makes_threads_of_its_own() -> None:
    """A forked child (of a data loader, say) has a pool of threads only in name."""
    pre = torch.ones(1, 100, 10)
    cpu.compact(pre, 0.0)
    child = os.fork()
    if child == 0:
        os._exit(0 if len(cpu.compact(pre, 0.0).values) == 1000 else 1)
    for _ in range(1000):
        ended, status = os.waitpid(child, os.WNOHANG)
        if ended:
            break
        time.sleep(0.01)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0


def test_import_of_the_package_needs_no_compiler() -> None:
    """numba is imported by the kernels alone, and they by whoever runs them."""
    code = "import sys, saes, saes.kernels; sys.exit(any('numba' in m or 'kernels.' in m for m in sys.modules))"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_no_folder_for_compiled_code() -> None:
    """Kernels compile where nothing can be written, and only then keep nothing."""
    code = (
        "import sys, numba.core.caching as c; c.CacheImpl._locator_classes = []\n"
        "import torch; from saes.kernels import cpu; torch.set_num_threads(1)\n"
        "sys.exit(len(cpu.compact(torch.ones(1, 3, 40), 0.0).values) != 120)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_wrong_tensors_are_refused() -> None:
    with pytest.raises(ValueError, match="contiguous"):
        cpu.compact(torch.zeros(1, 6, 8).transpose(1, 2), 0.0)


TRITON_HERE = torch.cuda.is_available() or os.environ.get("TRITON_INTERPRET") == "1"


@pytest.mark.slow
@pytest.mark.skipif(TRITON_HERE, reason="TestTriton runs in this process")
def test_triton_in_its_interpreter() -> None:
    """TestTriton in a process of its own: the interpreter must be chosen before anything (even torch) loads Triton."""
    pytest.importorskip("triton", reason="triton is not installed")
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__, "-k", "TestTriton"]
    done = subprocess.run(command, env={**os.environ, "TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and "6 passed" in done.stdout, done.stdout[-3000:] + done.stderr[-1000:]


class TestTriton:
    """The GPU's kernels: on a GPU where there is one, otherwise in Triton's interpreter."""

    __test__ = TRITON_HERE

    @pytest.fixture
    def gpu(self) -> ModuleType:
        pytest.importorskip("triton", reason="triton is not installed")
        return importlib.import_module("saes.kernels.gpu")

    @pytest.fixture
    def problem(self, dtype: torch.dtype) -> Problem:
        return Problem((2, 3, 21, 5), dtype)

    @pytest.fixture
    def on(self) -> Callable[[Tensor], Tensor]:
        device = "cuda" if torch.cuda.is_available() else "cpu"
        return lambda tensor: tensor.to(device)

    def test_compaction(self, gpu: ModuleType, on: Callable[[Tensor], Tensor], problem: Problem) -> None:
        pre, capacity = problem.pre, 24
        by_feature = torch.randn(pre.shape[0], pre.shape[2], dtype=pre.dtype)
        by_row = torch.randn(pre.shape[:2], dtype=pre.dtype)
        for found, expected in [
            (gpu.compact(on(pre), 0.0, capacity), cpu.compact(pre, 0.0)),
            (gpu.compact_by_feature(on(pre), on(by_feature), capacity), cpu.compact_by_feature(pre, by_feature)),
            (gpu.compact_by_row(on(pre), on(by_row), capacity), cpu.compact_by_row(pre, by_row)),
        ]:
            filled = torch.arange(capacity) < found.counts.cpu()[:, None]
            assert not found.overflow and torch.equal(found.counts.cpu().long(), expected.starts.diff())
            assert torch.equal(found.columns.cpu()[filled], expected.columns)
            assert torch.equal(found.values.cpu()[filled], expected.values)
            assert not found.values.cpu()[~filled].any()
        short = gpu.compact(on(pre), 0.0, 3)
        assert short.overflow and torch.equal(short.counts.cpu().long(), problem.starts.diff())
        every = torch.arange(3) < short.counts.cpu()[:, None]
        whole = gpu.compact(on(pre), 0.0, capacity)
        assert torch.equal(short.columns.cpu()[every], whole.columns[:, :3].cpu()[every])

    def test_step(self, gpu: ModuleType, on: Callable[[Tensor], Tensor], problem: Problem) -> None:
        found = gpu.compact(on(problem.pre), 0.0, 24)
        filled = torch.arange(24) < found.counts.cpu()[:, None]
        W_dec, x = on(problem.W_dec), on(problem.x)
        parts = (problem.starts, problem.columns, problem.W_dec)
        for base in [None, problem.base]:
            error, slope = gpu.decode_error(
                found.values,
                found.columns,
                found.counts,
                W_dec,
                on(problem.bias),
                x,
                None if base is None else on(base),
            )
            expected, expected_slope = cpu.decode_error(problem.values, *parts, problem.bias, problem.x, base)
            close(error.cpu(), expected)
            close(slope.cpu()[filled], expected_slope)
            assert not slope.cpu()[~filled].any()
        close(gpu.slopes(error, found.columns, found.counts, W_dec).cpu()[filled], expected_slope)
        ours = gpu.transpose(found.columns, found.counts, len(W_dec))
        theirs = cpu.transpose(problem.starts, problem.columns, len(W_dec))
        assert torch.equal(ours.feature_starts.cpu(), theirs.feature_starts)
        close(gpu.weight_gradient(slope, *ours, x).cpu(), cpu.weight_gradient(expected_slope, *theirs, problem.x))
        close(gpu.weight_gradient(slope, *ours, error).cpu(), cpu.weight_gradient(expected_slope, *theirs, expected))
        sums = cpu.column_sums(expected_slope, theirs.feature_starts, theirs.order)
        close(gpu.column_sums(slope, *ours).cpu(), sums)

    def test_adam(self, gpu: ModuleType, on: Callable[[Tensor], Tensor], dtype: torch.dtype) -> None:
        start = torch.nn.functional.normalize(torch.randn(6, 5, dtype=dtype), dim=1)
        lr, scale = torch.linspace(1e-3, 1e-2, 2), torch.linspace(0.5, 1.0, 2)
        for unit_rows in [False, True]:
            theirs = [start.clone(), torch.zeros_like(start), torch.zeros_like(start)]
            ours = [on(part.clone()) for part in theirs]
            options = {"beta1": 0.8, "beta2": 0.99, "eps": 1e-6, "unit_rows": unit_rows}
            for step in [1, 2]:
                g = torch.randn_like(start)
                squares = gpu.sum_of_squares(on(g), 2, ours[0] if unit_rows else None)
                expected = cpu.sum_of_squares(g, 2, theirs[0] if unit_rows else None)
                torch.testing.assert_close(squares.cpu().double(), expected, rtol=10 * TOLERANCE[dtype], atol=1e-12)
                gpu.adam(ours[0], on(g), *ours[1:], lr=on(lr), scale=on(scale), step=step, **options)
                cpu.adam(theirs[0], g, *theirs[1:], lr=lr, scale=scale, step=step, **options)
            for mine, other in zip(ours, theirs, strict=True):
                close(mine.cpu(), other)
