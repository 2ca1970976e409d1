"""Random attribution graphs, made without a model."""

import numpy as np
import torch

from circuits.graph import AttributionGraph
from circuits.influence import Edges


def random_graph(
    seed: int = 0, blocks: int = 3, length: int = 4, per_site: int = 3, logits: int = 3
) -> AttributionGraph:
    """Every node may reach every later block's features at its own and later positions; half of the edges are there."""
    rng = np.random.default_rng(seed)
    features = [
        (block, position, number)
        for block in range(blocks)
        for position in range(length)
        for number in sorted(rng.choice(20, per_site, replace=False).tolist())
    ]
    # (block that it is written by, position): tokens are written before all blocks, logits read behind them
    written = [row[:2] for row in features]
    written += [(block, position) for block in range(blocks) for position in range(length)]
    written += [(-1, position) for position in range(length)]
    ends = []
    first_logit = len(written)
    for target in [*range(len(features)), *range(first_logit, first_logit + logits)]:
        block, position = written[target] if target < first_logit else (blocks, length - 1)
        for source, (earlier, before) in enumerate(written):
            if earlier < block and before <= position and rng.random() < 0.5:
                ends.append((target, source))
    targets, sources = torch.tensor(ends, dtype=torch.int32).T
    count = len(features) + logits
    return AttributionGraph(
        tokens=torch.from_numpy(rng.integers(0, 50, length)),
        mlps=tuple(f"mlp_{i}" for i in range(blocks)),
        features=torch.tensor(features),
        activations=torch.from_numpy(rng.random(len(features))),
        logit_tokens=torch.from_numpy(rng.choice(50, logits, replace=False)),
        logit_probabilities=torch.tensor([0.5, 0.3, 0.15][:logits], dtype=torch.float64),
        edges=Edges(targets, sources, torch.from_numpy(rng.standard_normal(len(ends)) ** 3)),
        values=torch.zeros(count, dtype=torch.float64),
        biases=torch.zeros(count, dtype=torch.float64),
        provenance={"model": {"type": "gpt2"}},
    )
