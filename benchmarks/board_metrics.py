"""Counting every (threshold, feature, property) by bins, and by a matrix product per threshold.

python benchmarks/board_metrics.py
"""

import time

import numpy as np
import torch

from boardgames.confusion import THRESHOLDS, _by_bins, _by_products

FEATURES, PROPERTIES, POSITIONS, L0 = 1024, 128, 59_000, 40


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    features = torch.zeros(POSITIONS, FEATURES)
    columns = torch.randint(FEATURES, (POSITIONS, L0), generator=generator)
    features.scatter_(1, columns, torch.rand(POSITIONS, L0, generator=generator))
    truth = (np.random.default_rng(0).random((POSITIONS, PROPERTIES)) < 0.3).astype(np.float32)
    maxima = features.amax(0)
    results = {}
    for name, count in {"bins": _by_bins, "products": _by_products}.items():
        begun = time.perf_counter()
        results[name] = count(features, truth, maxima)
        print(f"{name:9s} {time.perf_counter() - begun:7.2f} s")
    same = all(np.array_equal(a, b) for a, b in zip(results["bins"], results["products"], strict=True))
    multiplications = len(THRESHOLDS) * FEATURES * PROPERTIES * POSITIONS
    print(f"equal: {same}; dense multiplications {multiplications:.2g}, sparse {POSITIONS * L0 * PROPERTIES:.2g}")


if __name__ == "__main__":
    main()
