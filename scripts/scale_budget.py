"""What a training step needs on 1, 8 and 64 GPUs, worked out: the tables of docs/scale.md.

    python scripts/scale_budget.py [--width 4096] [--features 1048576] [--rows 65536] [--l0 64]

Counts bytes and operations of the step as saes/ does it; nothing is measured. Rates of a GPU are options.
"""

from dataclasses import dataclass

import tyro

from saes.sweep import aligned


@dataclass(frozen=True)
class Budget:
    """One dictionary, and the GPUs that train it."""

    width: int = 4096
    """D"""
    features: int = 1 << 20
    """F"""
    rows: int = 1 << 16
    """B, of the global batch"""
    l0: int = 64
    divisions: tuple[str, ...] = ("1x1", "1x8", "2x4", "8x8", "1x64", "64x1")
    """data ranks x feature ranks"""
    memory_gb: float = 80
    """of a GPU"""
    tflops: float = 400
    """that an encoder product in bfloat16 reaches"""
    inside_gbs: float = 300
    """GB/s that a GPU sends to its neighbours of the same machine while it receives as much"""
    outside_gbs: float = 40
    """GB/s between machines"""
    gpus_per_machine: int = 8


def ring(size: float, ranks: int) -> float:
    """Bytes that each of `ranks` sends to add up `size` bytes for all of them (reduce-scatter, then all-gather)."""
    return 2 * size * (ranks - 1) / ranks


def row(b: Budget, division: str) -> list[str]:
    """One line of the table."""
    data, feature = map(int, division.split("x"))
    gpus, own_rows, own_features = data * feature, b.rows // data, b.features // feature
    weights = 4 * (2 * b.width * own_features + own_features + b.width)
    state = 4 * weights  # weights, gradients and Adam's two moments, all float32
    pre = 2 * own_rows * own_features  # bfloat16
    # data ranks add up the gradients of all weights; feature ranks gather rows and add up reconstructions
    over_data = ring(weights, data)
    over_features = 4 * own_rows * b.width * (feature - 1) / feature + ring(4 * own_rows * b.width, feature)
    speeds = [b.inside_gbs if neighbours <= b.gpus_per_machine else b.outside_gbs for neighbours in (feature, gpus)]
    products = 2 * own_rows * b.width * own_features / (b.tflops * 1e12)
    optimiser = 7 * weights / 3e12  # reads four and writes three copies, at 3 TB/s
    exchange = over_features / (speeds[0] * 1e9) + over_data / (speeds[1] * 1e9)
    held = (state + pre) / 1e9
    fits = "" if held < 0.9 * b.memory_gb else "does not fit"
    milliseconds = [f"{1000 * t:.0f}" for t in (products, optimiser, exchange)]
    return [f"{division} = {gpus}", f"{state / 1e9:.1f}", f"{pre / 1e9:.1f}", f"{over_data / 1e9:.2f}",
            f"{over_features / 1e9:.2f}", *milliseconds, fits]  # fmt: skip


def main(b: Budget) -> None:
    print(f"D {b.width}, F {b.features}, {b.rows} rows in a step, L0 {b.l0}")
    header = ["data x features", "state GB", "pre-act. GB", "sent for gradients GB", "for rows and sums GB",
              "encoder ms", "Adam ms", "exchange ms", ""]  # fmt: skip
    print(aligned([row(b, division) for division in b.divisions], header))


if __name__ == "__main__":
    main(tyro.cli(Budget, description=__doc__))
