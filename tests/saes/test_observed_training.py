"""Someone may look at the trainers while they train, and take finished dictionaries: no bit of the training moves."""

import pytest
import torch
from torch.utils import _pytree as pytree

from saes.training import train_stacks
from tests.saes.dictionaries_for_tests import SITE
from tests.saes.stacks_for_tests import CASES, MEMBERS, unchecked

STEPS = 23


def tensors(state: dict) -> list[torch.Tensor]:
    return [leaf for leaf in pytree.tree_leaves(state) if isinstance(leaf, torch.Tensor)]


@pytest.mark.parametrize("name", CASES)
def test_finishing_copies_in_the_middle_moves_nothing(name):
    """Of every architecture; what was handed out does not move afterwards either."""
    case = CASES[name]
    bare, observed = (case.trainer(MEMBERS, dtype=torch.float32) for _ in range(2))
    handed_out = []
    with unchecked():
        for number in range(STEPS):
            batch = case.batch(number, torch.float32)
            bare.step(batch)
            observed.step(batch)
            if number % 5 == 2:
                before = observed.finish()
                handed_out.append((before, [[t.clone() for t in d.state_dict().values()] for d in before]))
                for dictionary in before:
                    dictionary.encode(batch.inputs)
    one, other = (tensors(trainer.state_dict()) for trainer in (bare, observed))
    assert len(one) == len(other) > 5 and all(torch.equal(a, b) for a, b in zip(one, other, strict=True))
    for dictionaries, copies in handed_out:
        for dictionary, copy in zip(dictionaries, copies, strict=True):
            assert all(torch.equal(t, c) for t, c in zip(dictionary.state_dict().values(), copy, strict=True))
    first = handed_out[0][0][0].W_dec
    assert not torch.equal(first, handed_out[-1][0][0].W_dec)


class Stream:
    """Batches that depend on their number alone."""

    def sample(self):
        return next(self.batches(10**6))

    def batches(self, start=0):
        while True:
            yield {SITE: torch.randn(32, 12, generator=torch.Generator().manual_seed(start))}
            start += 1


def trained(**options) -> list[torch.Tensor]:
    trainer = CASES["relu, p-annealing"].trainer(MEMBERS, dtype=torch.float32, steps=STEPS)
    trainer.stack.reads = trainer.stack.writes = (SITE,)
    train_stacks({"a": trainer}, Stream(), progress=False, **options)
    return tensors(trainer.state_dict())


def test_an_observer_is_called_in_time_and_changes_nothing():
    seen = []

    def observe(step, trainers):
        assert trainers["a"].steps_done == step + 1
        seen.append((step, len(trainers["a"].finish())))

    expected, found = trained(), trained(observe=observe, observe_every=5)
    assert seen == [(step, len(MEMBERS)) for step in (4, 9, 14, 19, 22)]
    assert len(expected) > 5 and all(torch.equal(a, b) for a, b in zip(expected, found, strict=True))
    with pytest.raises(ValueError, match="observe_every is 0"):
        trained(observe=observe, observe_every=0)
