"""Planted dictionaries: what is drawn is as described, and every architecture finds the atoms of the easy setting."""

from dataclasses import replace
from itertools import pairwise

import jaxtyping
import numpy as np
import pytest
import torch

from saes.architectures import AffineDictionary, ReLUDictionary
from saes.dead_features import AuxK
from saes.recipes import RECIPES, Member, trainer_for
from saes.sites import Site
from saes.synthetic import Planted, PlantedConfig, match, recovery
from saes.trainer import TrainConfig, Trainer
from saes.training import train_stacks

EASY = PlantedConfig("easy", atoms=40, widths=(32,), l0=2.0)
BATCH, FEATURES = 256, 160
AUXK = AuxK(alpha=0.25, dead_after=10 * BATCH)
TRAIN = TrainConfig(steps=500, learning_rate=5e-3)
# of an architecture whose defaults are meant for wider dictionaries and denser rows
OPTIONS = {"jumprelu": {"bandwidth": 0.2, "first_threshold": 0.1}, "matryoshka": {"group_fractions": (0.5, 0.5)}}


def trained(trainer: Trainer, planted: Planted) -> list[AffineDictionary]:
    """Annotations are checked in the other tests of training; here they would take three quarters of the time."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        return train_stacks({"only": trainer}, planted, log_every=10**6, progress=False)["only"]
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


@pytest.mark.parametrize("name", [name for name in RECIPES if name != "crosscoder"])
def test_each_architecture_recovers_the_easy_atoms(name):
    planted = Planted(EASY, BATCH)
    trainer = trainer_for(
        name,
        [Member(seed, target_l0=2.0) for seed in (0, 1)],
        TRAIN,
        planted.sites,
        width=32,
        features=FEATURES,
        auxk=AUXK,
        **OPTIONS.get(name, {}),
    )
    other_atoms = Planted(replace(EASY, seed=1), BATCH)
    for dictionary in trained(trainer, planted):
        found = recovery(dictionary, planted)
        assert found.recovered > 0.9, found
        assert found.cosine > 0.95 and found.f1 > 0.6, found
        assert found.l0 == pytest.approx(2.0, rel=0.2), found
        # the control: the same dictionary against atoms that were not planted
        control = recovery(dictionary, other_atoms)
        assert control.recovered < 0.1 and control.cosine < 0.7 and control.f1 < 0.4, control


def test_an_untrained_dictionary_recovers_nothing():
    planted = Planted(EASY, BATCH)
    trainer = trainer_for("relu", [Member()], TRAIN, planted.sites, width=32, features=FEATURES)
    found = recovery(trainer.finish()[0], planted)
    assert found.recovered < 0.1 and found.cosine < 0.7


PAIR = replace(EASY, widths=(32, 24))


def test_a_transcoder_recovers_what_another_site_holds():
    planted = Planted(PAIR, BATCH)
    read, write = planted.sites
    options = {"writes": [write], "width": 24, "features": FEATURES, "width_in": 32, "center": False}
    trainer = trainer_for("topk", [Member(k=2)], TRAIN, [read], auxk=AUXK, **options)
    (dictionary,) = trained(trainer, planted)
    found = recovery(dictionary, planted)
    assert found.recovered > 0.9 and found.variance_explained > 0.7, found
    assert planted.atoms(dictionary.writes).shape == (40, 24)


def test_a_crosscoder_recovers_the_atoms_of_both_sites():
    planted = Planted(PAIR, BATCH)
    options = {"width": 56, "features": FEATURES, "widths": (32, 24)}
    trainer = trainer_for("crosscoder", [Member(target_l0=2.0)], TRAIN, planted.sites, **options)
    (dictionary,) = trained(trainer, planted)
    assert recovery(dictionary, planted).recovered > 0.9
    for part, site in zip(dictionary.W_dec.split((32, 24), dim=1), planted.sites, strict=True):
        cosines, _ = match(part, planted.atoms((site,)))
        assert (cosines > 0.9).float().mean() > 0.9


def test_a_batch_depends_on_the_seed_and_its_number_alone():
    planted, again = Planted(EASY, 64), Planted(EASY, 64)
    (site,) = planted.sites
    stream = planted.batches()
    first = [next(stream)[site] for _ in range(5)]
    assert torch.equal(next(again.batches(3))[site], first[3])
    assert torch.equal(planted.atoms(), again.atoms())
    other = Planted(replace(EASY, seed=1), 64)
    assert not torch.equal(next(other.batches())[site], first[0])
    assert not torch.equal(planted.held_out(64).activations[site], first[0])
    assert not any(torch.equal(a, b) for a, b in pairwise(first))


@pytest.mark.parametrize("setting", ["easy", "correlated", "hierarchical", "unequal"])
def test_rows_are_what_the_truth_says(setting):
    planted = Planted(PlantedConfig(setting, atoms=48, widths=(20,), l0=3.0, offset=0.5), 64)
    drawn = planted.held_out(40_000)
    f = drawn.features
    atoms = planted.atoms()
    torch.testing.assert_close(atoms.norm(dim=1), torch.ones(48))
    torch.testing.assert_close(drawn.activations[planted.sites[0]], f @ atoms + 0.5)
    on = (f > 0).numpy()
    assert on.sum(1).mean() == pytest.approx(3.0, rel=0.03)
    np.testing.assert_allclose(on.mean(0), planted.config.frequencies, atol=0.01)
    strengths = f[f > 0]
    assert 0.5 <= float(strengths.min()) < 0.52 and 1.48 < float(strengths.max()) <= 1.5


def correlations(setting: str) -> np.ndarray:
    on = (Planted(PlantedConfig(setting, atoms=48, l0=3.0), 64).held_out(40_000).features > 0).numpy()
    return np.corrcoef(on.T.astype(float))


def test_pairs_are_correlated_and_nothing_else():
    found = correlations("correlated")
    pairs = found[np.arange(0, 48, 2), np.arange(1, 48, 2)]
    np.testing.assert_allclose(pairs, 0.7, atol=0.05)
    np.testing.assert_allclose(found[::2, ::2] - np.eye(24), 0, atol=0.03)
    np.testing.assert_allclose(correlations("easy") - np.eye(48), 0, atol=0.03)


def test_children_fire_with_their_parent_alone_and_one_at_a_time():
    on = (Planted(PlantedConfig("hierarchical", atoms=48, l0=3.0), 64).held_out(40_000).features > 0).unflatten(
        1, (-1, 4)
    )
    parent, children = on[..., 0], on[..., 1:]
    assert not (children.any(-1) & ~parent).any()
    assert children.sum(-1).max() == 1
    assert float(children.any(-1).sum() / parent.sum()) == pytest.approx(0.75, abs=0.02)


def test_frequencies_are_log_spaced():
    frequencies = PlantedConfig("unequal", atoms=48, l0=3.0, ratio=30).frequencies
    assert frequencies[0] / frequencies[-1] == pytest.approx(30)
    assert frequencies[0] / frequencies[1] == pytest.approx(frequencies[-2] / frequencies[-1])


def made_of(rows: torch.Tensor, bias: torch.Tensor, site: Site, center: torch.Tensor) -> ReLUDictionary:
    """A dictionary with these encoder rows and biases, and the unit rows as decoder."""
    dictionary = ReLUDictionary(ReLUDictionary.config_type(rows.shape[1], len(rows)), [site])
    with torch.no_grad():
        dictionary.W_enc.copy_(rows)
        dictionary.W_dec.copy_(rows / rows.norm(dim=1, keepdim=True))
        dictionary.b_enc.copy_(bias)
        dictionary.b_dec.copy_(center)
    return dictionary.requires_grad_(False)


def test_the_truth_itself_recovers_everything_and_absorption_is_seen():
    """With atoms on the axes the truth is its own encoder; an absorbing parent subtracts its children."""
    config = PlantedConfig("hierarchical", atoms=8, widths=(8,), l0=1.5, offset=0.0)
    planted = Planted(config, 64)
    (site,) = planted.sites
    planted._atoms[site] = torch.eye(8)
    order = torch.tensor([3, 1, 0, 2, 7, 6, 5, 4])
    perfect = recovery(made_of(torch.eye(8)[order], torch.zeros(8), site, torch.zeros(8)), planted)
    assert (perfect.cosine, perfect.recovered, perfect.f1, perfect.alive) == (1, 1, 1, 1)
    assert (perfect.absorption, perfect.missed_alone) == (0, 0)
    assert perfect.l0 == perfect.l0_true and perfect.variance_explained == pytest.approx(1)
    rows = torch.eye(8)
    rows[0, 1:4] = -5.0  # one of two parents falls silent when a child of its is on
    absorbing = made_of(rows, torch.zeros(8), site, torch.zeros(8))
    absorbing.W_dec.copy_(torch.eye(8))
    found = recovery(absorbing, planted)
    assert found.recovered == 1 and found.missed_alone == 0
    assert found.absorption == pytest.approx(0.5, abs=0.05)
    assert found.l0 < found.l0_true and found.f1 < 1


def test_matching_gives_each_atom_a_feature_of_its_own():
    atoms = torch.eye(3)
    decoder = torch.tensor([[2.0, 0, 0], [0.9, 0.1, 0], [0, 0, -1]])  # the first two both point at atom 0
    cosines, matching = match(decoder, atoms)
    torch.testing.assert_close(cosines, torch.tensor([1.0, 0.1 / 0.82**0.5, 1.0]))
    assert torch.equal(matching, torch.eye(3))
    fewer, _ = match(decoder[2:], atoms)
    assert fewer.tolist() == [0, 0, 1]


WRONG = [
    ({"atoms": 0}, "needs atoms and widths, not 0"),
    ({"widths": ()}, "needs atoms and widths"),
    ({"l0": 49.0}, "cannot fire 49.0 at a time"),
    ({"l0": 0.0}, "cannot fire 0.0 at a time"),
    ({"setting": "hierarchical", "atoms": 42}, "42 atoms cannot be split into groups of 4"),
    ({"setting": "correlated", "atoms": 41}, "groups of 2"),
    ({"setting": "unequal", "l0": 20.0, "ratio": 1000.0}, "plant more"),
    ({"spread": 1.5}, "spread"),
]


@pytest.mark.parametrize(("changed", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_cannot_be_planted_is_refused(changed, said):
    with pytest.raises(ValueError, match=said):
        PlantedConfig(**changed)
