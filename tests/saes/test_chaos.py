"""Two runs that start one ulp apart stay together with the default bound on the p-annealed gradient, and only with it.

The typical run: a feature that is just about to fire can still part one pair in ten, with a bound or with plain L1.
The data, shapes and settings are those of the shared p-annealing references, on our own `exact` schedule. Without a
bound the slope p f^(p-1) of a feature of 1e-6 dominates a gradient, and its rounding error is a tenth of it.
"""

import statistics

import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.objective import Batch, SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.sites import Site
from saes.trainer import TrainConfig, Trainer
from tests.saes.planted_data import Planted
from tests.saes.stacks_for_tests import distance, unchecked

WIDTH, FEATURES, ROWS, STEPS = 32, 128, 64, 120
SEEDS = range(8)
DEFAULT = PAnnealConfig().bound


def drift(bound: float, normalise: str, clip: float | None = None) -> list[float]:
    """Relative L2 distance of all weights of each of SEEDS from its twin that started one ulp away."""
    x = Planted(width=WIDTH, atoms=64, rarest=0.02, commonest=0.15, noise=0.05, offset=0.3).rows(STEPS * ROWS)
    seeds = [seed for seed in SEEDS for _ in range(2)]
    dictionaries = [ReLUDictionary(ReLUConfig(WIDTH, FEATURES), [Site("x", "x")], seed=seed) for seed in seeds]
    penalty = PAnneal(
        [
            PAnnealConfig(
                coefficient=0.5 if normalise == "none" else 0.18,  # the same penalty, in other units
                p_end=0.2,
                start=30,
                end=110,
                updates=5,
                warmup=20,
                bound=bound if normalise == "unit" else bound * float(x.square().sum(1).mean().sqrt()),
            )
            for _ in seeds
        ]
    )
    config = TrainConfig(steps=STEPS, learning_rate=4e-3, warmup=10 / STEPS, decay=0.0, clip=clip, normalise=normalise)
    trainer = Trainer(dictionaries, SparseReconstruction(penalty), config)
    trainer.initialise(Batch(x, x))
    with torch.no_grad():
        for parameter in trainer.stack.parameters():
            away = torch.where(torch.rand(parameter[1::2].shape) < 0.5, -torch.inf, torch.inf)
            parameter[1::2] = torch.nextafter(parameter[1::2], away)
    with unchecked():
        for batch in x.view(STEPS, ROWS, WIDTH):
            trainer.step(Batch(batch, batch))
    assert penalty.p == 0.2
    weights = torch.cat([t.flatten(1) for t in trainer.stack.state_dict().values()], dim=1)
    assert min(distance(a, weights[0]) for a in weights[2:]) > 0.1, "seeds are different runs"
    return [distance(one, other) for one, other in weights.view(len(SEEDS), 2, -1)]


@pytest.mark.parametrize("clip", [None, TrainConfig().clip])
@pytest.mark.parametrize("normalise", ["unit", "none"])
def test_with_the_default_bound_runs_one_ulp_apart_stay_together(normalise, clip):
    assert DEFAULT > 0
    assert statistics.median(drift(DEFAULT, normalise, clip)) < 1e-4


@pytest.mark.parametrize("normalise", ["unit", "none"])
def test_without_a_bound_they_drift_apart(normalise):
    assert min(drift(0.0, normalise)) > 1e-2
