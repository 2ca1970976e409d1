"""What gradients claim about nodes, held against exact patching and against the metric's whole change."""

from contextlib import contextmanager

import jaxtyping
import pytest
import torch

from circuits.attribution import node_effects
from circuits.end_points import ToZero
from circuits.exact import exact_effects
from circuits.examples import Examples
from circuits.feature_acts import FeatureActs, states_of
from circuits.metrics import LogitDifference, LogOdds, measure
from saes.families import circuit_sites
from tests.circuits.small import dictionaries_for, linear_model, pairs, small_model


def test_features_and_error_lose_nothing():
    model = small_model()
    dictionaries = dictionaries_for(model)
    for site, state in states_of(model, dictionaries, pairs().clean).items():
        again = FeatureActs.of(dictionaries[site], state.compose(dictionaries[site]))
        torch.testing.assert_close(again.compose(dictionaries[site]), state.compose(dictionaries[site]))


@pytest.mark.parametrize("method", ["attribution", "ig"])
def test_gradients_are_exact_on_a_linear_model(method):
    model, examples = linear_model(), pairs().by_position()
    dictionaries = dictionaries_for(model)
    found = node_effects(model, dictionaries, examples, LogitDifference(), method=method)
    ours = {site: effects.dense(24) for site, effects in found.items()}
    exact = exact_effects(model, dictionaries, examples, LogitDifference())
    for site in dictionaries:
        assert exact[site].acts.abs().max() > 1e-3 or site.name == "mlp_1"
        torch.testing.assert_close(ours[site].acts, exact[site].acts, rtol=1e-9, atol=1e-12)
        torch.testing.assert_close(ours[site].error, exact[site].error, rtol=1e-9, atol=1e-12)


def test_integrated_gradients_add_up_and_plain_gradients_do_not():
    model, examples = small_model(), pairs()
    dictionaries = dictionaries_for(model)
    change = measure(model, LogOdds(), examples.patch, examples) - measure(model, LogOdds(), examples.clean, examples)
    bottlenecks = [s for s in circuit_sites(model) if s.name == "embed" or s.name.startswith("resid")]

    def gap(**options) -> float:
        effects = node_effects(model, dictionaries, examples, LogOdds(), totals=True, **options)
        for site in bottlenecks:  # all paths pass: what the site does is what the prompt does
            torch.testing.assert_close(effects[site].total, change)
        return max(float(found.gap().abs().mean() / found.total.abs().mean()) for found in effects.values())

    assert gap(steps=200) < 1e-3
    assert gap(steps=200) < gap(steps=20) < gap(method="attribution")
    assert gap(steps=20, rule="midpoint") < gap(steps=20, rule="left")


def test_what_stands_before_the_start_does_not_move():
    model, examples = small_model(), pairs()
    dictionaries = dictionaries_for(model)
    zero = ToZero()(model, dictionaries, examples)
    whole = node_effects(model, dictionaries, examples, LogOdds(), zero, steps=200)
    later = node_effects(model, dictionaries, examples, LogOdds(), zero, steps=200, totals=True, start=1)
    for site, found in later.items():
        effects = found.dense(24).joined()
        assert not effects[:, 0].any() and effects[:, 1:].any()
        assert float(found.gap().abs().mean() / found.total.abs().mean()) < 1e-3  # of a change with the first as it is
        if site.name == "embed":  # and the path is another: the first token is attended to as it is
            assert not torch.allclose(effects[:, 1:], whole[site].dense(24).joined()[:, 1:], rtol=1e-2)


def test_a_node_that_does_not_move_has_no_effect():
    model = small_model()
    dictionaries = dictionaries_for(model)
    examples = pairs()
    same = Examples(examples.clean, examples.clean, examples.position, examples.fields)
    for found in node_effects(model, dictionaries, same, LogitDifference()).values():
        assert not found.dense(24).joined().any()


def test_zero_baseline_is_b_dec():
    model = small_model()
    dictionaries = dictionaries_for(model)
    for site, state in ToZero()(model, dictionaries, pairs()).items():
        torch.testing.assert_close(state.compose(dictionaries[site])[0, 0], dictionaries[site].b_dec)


@contextmanager
def jaxtyping_off():
    """What a user sees, who runs without the type checker of the tests."""
    jaxtyping.config.update("jaxtyping_disable", True)
    try:
        yield
    finally:
        jaxtyping.config.update("jaxtyping_disable", False)


def test_misaligned_pairs_are_refused():
    examples = pairs()
    with jaxtyping_off(), pytest.raises(ValueError, match="same length"):
        Examples(examples.clean, examples.patch[:, 1:], examples.position, {})
    with jaxtyping_off(), pytest.raises(ValueError, match="answer has 2 entries for 3"):
        Examples(examples.clean, None, examples.position, {"answer": torch.zeros(2)})
