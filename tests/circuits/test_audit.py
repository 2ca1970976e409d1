"""The audit of approximate effects: exact on a linear model, honest on another, and it finds a planted miss."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import circuits.audit
from circuits.attribution import counterfactual
from circuits.audit import agree, audit_effects, exact_means, stratified
from circuits.discover import CircuitConfig
from circuits.exact import exact_effects
from circuits.feature_acts import NodeScores
from circuits.held_out import MeasureError
from circuits.metrics import LogitDifference, LogOdds
from circuits.node_sets import Space
from tests.circuits.small import dictionaries_for, linear_model, pairs, small_model

CONFIG = CircuitConfig(steps=4)


def test_on_a_linear_model_gradients_are_exact():
    model, examples = linear_model(), pairs(2)
    found = audit_effects(model, dictionaries_for(model), examples, LogitDifference(), config=CONFIG, nodes=12)
    assert len(found.nodes) == 12 and {a.method for a in found.agreement} == {"ig", "attribution"}
    for agreement in found.agreement:
        assert agreement.pearson == pytest.approx(1, abs=1e-9) and agreement.same_sign == 1
        assert agreement.largest_miss < 1e-9
    assert "12 nodes on 2 examples" in found.sentence() and "\n" not in found.sentence()


def test_integrated_gradients_come_closer_than_plain_ones_and_neither_is_exact():
    model = small_model()
    found = audit_effects(
        model, dictionaries_for(model), pairs(), LogOdds(), config=replace(CONFIG, steps=20), nodes=30
    )
    ig, plain = found.of("ig"), found.of("attribution")
    assert 0 < ig.relative_miss < plain.relative_miss
    assert ig.spearman > 0.5


def test_a_planted_wrong_effect_is_found(monkeypatch):
    """One node's approximate effect is turned round: the audit names it, and a sign is wrong."""
    model, examples = linear_model(), pairs(2)
    dictionaries = dictionaries_for(model)
    right = audit_effects(model, dictionaries, examples, LogitDifference(), config=CONFIG, nodes=12)
    strongest = int(np.abs(right.exact).argmax())
    site_name, feature = right.nodes[strongest].split("/")
    site = next(s for s in dictionaries if s.name == site_name)
    honest = circuits.audit.batch_effects

    def planted(*args, **options):
        effects = honest(*args, **options)
        wrong = effects[site]
        if feature == "error":
            effects[site] = replace(wrong, error=-wrong.error)
        else:
            turned = torch.where(wrong.moves.feature == int(feature), -wrong.acts, wrong.acts)
            effects[site] = replace(wrong, acts=turned)
        return effects

    monkeypatch.setattr(circuits.audit, "batch_effects", planted)
    found = audit_effects(model, dictionaries, examples, LogitDifference(), config=CONFIG, nodes=12).of("ig")
    assert found.missed == right.nodes[strongest]
    assert found.largest_miss == pytest.approx(2 * abs(right.exact[strongest]))
    assert found.relative_miss == pytest.approx(2) and found.same_sign == pytest.approx(11 / 12)


def test_the_sample_has_strong_and_weak_nodes_alike():
    site = next(iter(dictionaries_for(small_model())))
    effects = torch.zeros(1, 1001)
    effects[0, :1000] = 1.0 / torch.arange(1, 1001)
    scores = {site: NodeScores(effects[:, :-1], effects[:, -1])}
    space = Space({site: 1000}, 1)
    for seed in range(3):
        ranks = stratified(space, scores, 40, 4, seed)[:, 2]
        assert len(set(ranks.tolist())) == 40
        assert (ranks < 32).sum() >= 10 and (ranks >= 178).sum() >= 10
    first, again, other = (stratified(space, scores, 40, 4, seed) for seed in (0, 0, 1))
    assert (first == again).all() and (first != other).any()
    assert len(stratified(space, scores, 2000, 4, 0)) == 1000


def test_exact_means_are_those_of_exact_patching():
    model, examples = small_model(), pairs().by_position()
    dictionaries = dictionaries_for(model)
    all_exact = exact_effects(model, dictionaries, examples, LogitDifference())
    space = Space.of(dictionaries, 5)
    sample = np.array([[0, 1, 3], [0, 1, 24], [2, 3, 5], [3, 4, 24]])
    sites = list(dictionaries)
    expected = [float(all_exact[sites[s]].joined()[:, p, f].mean()) for s, p, f in sample.tolist()]
    found = exact_means(model, dictionaries, examples, LogitDifference(), counterfactual, space, sample, batch_size=2)
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert np.abs(found).max() > 1e-3


def test_agreement_in_numbers():
    found = agree("ig", np.array([1.0, 2.0, -3.0, 0.0]), np.array([2.0, 4.0, 6.0, 1.0]), list("abcd"))
    assert found.same_sign == pytest.approx(2 / 3)
    assert (found.largest_miss, found.missed, found.relative_miss) == (9.0, "c", 1.5)
    assert found.pearson == pytest.approx(np.corrcoef([1, 2, -3, 0], [2, 4, 6, 1])[0, 1])
    monotone = agree("ig", np.array([1.0, 2.0, 3.0]), np.array([1.0, 2.0, 50.0]), list("abc"))
    assert monotone.spearman == pytest.approx(1) and monotone.pearson < 0.95
    assert agree("ig", np.ones(3), np.array([1.0, 2.0, 3.0]), list("abc")).pearson is None


def test_too_small_an_audit_is_refused():
    model = small_model()
    with pytest.raises(MeasureError, match="at least 2 nodes"):
        audit_effects(model, dictionaries_for(model), pairs(), LogitDifference(), nodes=1)
    examples = pairs()
    same = replace(examples, patch=examples.clean)
    with pytest.raises(MeasureError, match="0 nodes have an effect"):
        audit_effects(model, dictionaries_for(model), same, LogitDifference(), config=CONFIG)
