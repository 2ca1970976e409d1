"""The CPU kernels of the sparse step, one by one, beside what memory and arithmetic allow on this machine.

python benchmarks/step_kernels.py [FEATURES ...]

Best of many runs in ms, at batch 2048, width 512, 64 active features a row, float32. The floor is the larger of two
times: the bytes that must come from or go to main memory over the measured bandwidth, and the multiply-adds over the
measured rate of torch's matrix product. Gathered decoder rows count as arithmetic: they mostly come from cache.
"""

import sys
import time
from collections.abc import Callable

import torch
from torch import Tensor

from saes.kernels import cpu

BATCH, WIDTH, ACTIVE = 2048, 512, 64


def milliseconds(work: Callable[[], object], seconds: float = 0.6) -> float:
    """Best of the runs that fit into some time, after one to compile and warm up."""
    work()
    best, end = float("inf"), time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        work()
        best = min(best, time.perf_counter() - begun)
    return best * 1e3


def table(features: int, per_byte: float, per_product: float) -> None:
    x = torch.randn(BATCH, WIDTH)
    W_enc, bias = torch.randn(features, WIDTH) / WIDTH**0.5, torch.zeros(1, WIDTH)
    W_dec = torch.nn.functional.normalize(torch.randn(features, WIDTH), dim=1)
    pre = (x @ W_enc.T)[None]
    sample = pre.flatten()[::7]
    cut = sample.kthvalue(int(len(sample) * (1 - ACTIVE / features))).values.item()
    cuts, k = torch.full((1, features), cut), torch.tensor([ACTIVE])
    starts, columns, values = cpu.compact(pre, cut)
    error, slope = cpu.decode_error(values, starts, columns, W_dec, bias, x)
    by_column = cpu.transpose(starts, columns, features)
    gradient, m, v = (torch.zeros(features, WIDTH) for _ in range(3))
    cpu.weight_gradient(slope, *by_column, x, out=gradient)
    options = {"lr": 1e-4, "beta1": 0.9, "beta2": 0.999, "eps": 1e-8, "step": 10}

    dense, weights = 4 * BATCH * features, 4 * features * WIDTH  # bytes
    gathered = len(values) * WIDTH  # multiply-adds
    rows: list[tuple[str, Callable[[], object], float, float]] = [
        ("encoder product (torch)", lambda: torch.mm(x, W_enc.T, out=pre[0]), 0, BATCH * features * WIDTH),
        ("compact", lambda: cpu.compact(pre, cut), dense, 0),
        ("compact_by_feature", lambda: cpu.compact_by_feature(pre, cuts), dense, 0),
        ("compact_top_k", lambda: cpu.compact_top_k(pre, k), dense, 0),
        ("  torch.topk", lambda: pre.topk(ACTIVE, sorted=False), dense, 0),
        ("compact_batch_top_k", lambda: cpu.compact_batch_top_k(pre, k), dense, 0),
        ("decode", lambda: cpu.decode(values, starts, columns, W_dec, bias), weights, gathered),
        ("decode_error", lambda: cpu.decode_error(values, starts, columns, W_dec, bias, x), weights, 2 * gathered),
        ("slopes", lambda: cpu.slopes(error, starts, columns, W_dec), weights, gathered),
        ("transpose", lambda: cpu.transpose(starts, columns, features), 12 * len(values), 0),
        ("weight_gradient", lambda: cpu.weight_gradient(slope, *by_column, x, out=gradient), weights, gathered),
        ("weight_gradient, fresh memory", lambda: cpu.weight_gradient(slope, *by_column, error), weights, gathered),
        ("column_sums", lambda: cpu.column_sums(slope, by_column.feature_starts, by_column.order), 8 * len(values), 0),
        ("sum_of_squares", lambda: cpu.sum_of_squares(gradient), weights, 0),
        ("sum_of_squares, projected", lambda: cpu.sum_of_squares(gradient, 1, W_dec), 2 * weights, 0),
        ("adam", lambda: cpu.adam(W_enc, gradient, m, v, **options), 7 * weights, 0),
        ("adam, unit rows", lambda: cpu.adam(W_dec, gradient, m, v, unit_rows=True, **options), 7 * weights, 0),
    ]  # fmt: skip
    print(f"\nbatch {BATCH}, width {WIDTH}, {features} features, {len(values) / BATCH:.1f} active, "
          f"{torch.get_num_threads()} threads")  # fmt: skip
    print(f"{'':30}{'ms':>9}{'floor':>9}")
    for name, work, bytes_, products in rows:
        print(f"{name:30}{milliseconds(work):9.2f}{max(bytes_ * per_byte, products * per_product):9.2f}")


def main(sizes: list[int]) -> None:
    far = torch.ones(64 << 20)  # 256 MB lie in no cache
    per_byte = milliseconds(lambda: far.add_(1.0)) / (2 * far.nbytes)
    a, b = torch.randn(2048, 1024), torch.randn(1024, 2048)
    out: Tensor = torch.empty(2048, 2048)
    per_product = milliseconds(lambda: torch.mm(a, b, out=out)) / (2048 * 1024 * 2048)
    print(f"memory {1e-6 / per_byte:.1f} GB/s, products {2e-6 / per_product:.0f} GFlop/s")
    torch.manual_seed(0)
    for features in sizes:
        table(features, per_byte, per_product)


if __name__ == "__main__":
    main([int(size) for size in sys.argv[1:]] or [4096, 16384])
