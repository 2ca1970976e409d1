"""How CPU kernels are compiled by numba and spread over threads.

They are compiled single-threaded without the GIL and spread over Python threads, as many as torch.get_num_threads():
numba's own pools are avoided, because the portable one ends the process when two threads call it at once (a backward
pass and an evaluation, say), and its OpenMP, a second one beside torch's, hangs after a fork.
"""

import inspect
import itertools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numba
import torch
from numba.extending import intrinsic

# Sums may be reordered into SIMD lanes and multiply-adds contracted; NaN and infinity keep their meaning.
REORDERED_SUMS = {"reassoc", "contract", "nsz"}
PIECES_PER_THREAD = 8  # handed out one by one, because cores that are shared do not run equally fast


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """Compiled at the first call of each type; kept on disk unless no folder for that can be written."""
    function = inspect.unwrap(function)  # a checker of annotations may stand around it, which numba cannot compile
    options: dict[str, Any] = {"nogil": True, "fastmath": REORDERED_SUMS, "error_model": "numpy"}
    try:
        return numba.njit(cache=True, **options)(function)
    except RuntimeError:  # numba found no writable folder
        return numba.njit(**options)(function)


def compiled_intrinsic(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function whose LLVM code is written by hand."""
    return intrinsic(inspect.unwrap(function))


_pool: ThreadPoolExecutor | None = None


def _forget_pool() -> None:
    """A forked child has none of its parent's threads."""
    global _pool
    _pool = None


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_pool)


def spread(kernel: Callable[..., None], count: int, *arguments: Any) -> None:
    """kernel(low, high, *arguments) over all of range(count), in pieces, on torch.get_num_threads() threads."""
    global _pool
    threads = min(torch.get_num_threads(), count)
    if threads <= 1:
        kernel(0, count, *arguments)
        return
    bounds = [count * i // (threads * PIECES_PER_THREAD) for i in range(threads * PIECES_PER_THREAD + 1)]
    pieces = iter([(low, high) for low, high in itertools.pairwise(bounds) if low < high])

    def work() -> None:
        for low, high in pieces:
            kernel(low, high, *arguments)

    _pool = _pool or ThreadPoolExecutor(os.cpu_count(), "kernels")
    helpers = [_pool.submit(work) for _ in range(threads - 1)]
    try:
        work()
    finally:
        for helper in helpers:
            if not helper.cancel():  # one that has not begun has nothing left to do
                helper.result()
