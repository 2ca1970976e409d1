"""Faithfulness with intervals, errors kept and removed, end points, places, free sites, and examples kept apart."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from circuits.ablation import Kept, keep_all, keep_none, with_errors
from circuits.attribution import counterfactual
from circuits.circuit import Circuit, Node
from circuits.end_points import ToZero, end_points
from circuits.exact import exact_effects
from circuits.faithfulness import Evaluator, Measured, faithfulness
from circuits.feature_acts import states_of
from circuits.held_out import MeasureError, also_in, unseen
from circuits.intervals import interval, resampled_means
from circuits.metrics import LogitDifference, measure
from circuits.places import Places
from saes.families import circuit_sites
from saes.sites import intervene
from tests.circuits.small import dictionaries_for, linear_model, pairs, small_model

METRIC = LogitDifference()


@pytest.fixture(scope="module")
def model():
    return small_model()


def spans(examples):
    """Two spans; the first position is in none."""
    starts = torch.tensor([[1, 2, 5], [1, 3, 5], [1, 1, 5]])
    return replace(examples, places=Places.spans(["first", "second"], starts, 5))


@pytest.mark.parametrize("name", ["patch", "mean", "zero", "resample"])
@pytest.mark.parametrize("mode", ["summed", "each", "spans"])
def test_everything_is_one_and_nothing_is_zero(model, name, mode):
    """For every end point and every kind of place, exactly: the same passes are run."""
    examples, dictionaries = pairs(), dictionaries_for(model)
    examples = {"summed": examples, "each": examples.by_position(), "spans": spans(examples)}[mode]
    places = len(examples.grouped)
    to = end_points(name, model, dictionaries, [pairs(seed=1)])
    masks = {"all": keep_all(dictionaries, places), "none": keep_none(dictionaries, places)}
    measured = Evaluator(model, dictionaries, METRIC, to, batch_size=2).run(examples, masks)
    assert (measured.ratio("all"), measured.ratio("none")) == (1, 0)
    assert (measured.masks["all"] == measured.model).all() and len(measured.model) == 3


def test_values_per_example_do_not_depend_on_batches(model):
    dictionaries, examples = dictionaries_for(model), pairs()
    half = {"half": {s: Kept((torch.arange(24) < 12)[None], torch.tensor([True])) for s in dictionaries}}
    one, all_at_once = (Evaluator(model, dictionaries, METRIC, batch_size=b).run(examples, half) for b in (1, 3))
    for name in ("model", "empty"):
        np.testing.assert_allclose(getattr(one, name), getattr(all_at_once, name), atol=1e-10)
    np.testing.assert_allclose(one.masks["half"], all_at_once.masks["half"], atol=1e-10)
    assert len(json.loads(json.dumps(one.to_json()))["masks"]["half"]) == 3


def test_replacing_everything_at_every_site_is_the_patch_prompt(model):
    measured = Evaluator(model, dictionaries_for(model), METRIC).run(pairs(), {})
    patched = measure(model, METRIC, pairs().patch, pairs())
    np.testing.assert_allclose(measured.empty, patched.numpy(), atol=1e-9)


@pytest.mark.parametrize("mode", ["summed", "each"])
def test_on_a_linear_model_faithfulness_is_the_share_of_the_effects(mode):
    """One site, patch ablation: what is outside the circuit takes its effects away, and nothing else."""
    linear, examples = linear_model(), pairs()
    examples = examples.by_position() if mode == "each" else examples
    site, dictionary = list(dictionaries_for(linear).items())[3]
    dictionaries = {site: dictionary}
    effects = exact_effects(linear, dictionaries, examples, METRIC)[site].joined().mean(0)
    total = float(effects.sum())
    generator = torch.Generator().manual_seed(0)
    for share in (0.2, 0.5, 0.9):
        both = torch.rand(effects.shape, generator=generator) < share
        kept = {site: Kept(both[:, :-1], both[:, -1])}
        found = faithfulness(
            linear, dictionaries, kept, examples, examples, METRIC, random_circuits=1, overlap=True, batch_size=2
        )
        assert found.faithfulness == pytest.approx(float(effects[both].sum()) / total, abs=1e-9)
        assert found.completeness == pytest.approx(float(effects[~both].sum()) / total, abs=1e-9)
        no_errors = float(effects[:, :-1][both[:, :-1]].sum())
        assert found.faithfulness_without_errors == pytest.approx(no_errors / total, abs=1e-9)
        errors = float(effects[:, -1].sum())
        assert found.score.errors_kept.value == pytest.approx((no_errors + errors) / total, abs=1e-9)
        assert found.empty_errors_kept.value == pytest.approx(errors / total, abs=1e-9)


def test_kept_errors_make_the_empty_circuit_faithful():
    """Where dictionaries explain nothing, errors are all there is, and the empty circuit looks perfect."""
    model = small_model()
    dictionaries = dictionaries_for(model)
    for dictionary in dictionaries.values():
        dictionary.b_enc.data.fill_(-100)  # no feature ever fires
    none = keep_none(dictionaries)
    measured = Evaluator(model, dictionaries, METRIC).run(pairs(), {"none": none, "errors": with_errors(none, True)})
    assert measured.ratio("none") == 0 and measured.ratio("errors") == pytest.approx(1)


def test_free_sites_are_as_if_they_had_no_dictionary(model):
    every, examples = dictionaries_for(model), pairs()
    free = [s for s in every if s.name in ("embed", "attn_0")]
    some = {s: d for s, d in every.items() if s not in free}
    kept = {s: Kept((torch.arange(24) % 2 == 0)[None], torch.tensor([False])) for s in every}
    one = Evaluator(model, every, METRIC, ToZero(), free).run(examples, {"half": kept})
    other = Evaluator(model, some, METRIC, ToZero()).run(examples, {"half": {s: kept[s] for s in some}})
    assert (one.masks["half"] == other.masks["half"]).all() and (one.empty == other.empty).all()
    with pytest.raises(MeasureError, match="embed: it has no dictionary"):
        Evaluator(model, some, METRIC, free=free[:1])


def test_a_span_is_ablated_there_and_nowhere_else(model):
    """Against an edit by hand."""
    examples, every = spans(pairs()), dictionaries_for(model)
    site = circuit_sites(model)[3]
    dictionaries = {site: every[site]}
    circuit = Circuit((site,), {Node(site.name, f, "first"): 1.0 for f in [*range(24), None]}, {}, {},
                      examples.grouped.names)  # fmt: skip
    rest = {s: ~k for s, k in circuit.kept(dictionaries).items()}  # all of the second span stays
    found = Evaluator(model, dictionaries, METRIC).run(examples, {"rest": rest}).masks["rest"]
    first = torch.tensor([[0, 1, 0, 0, 0], [0, 1, 1, 0, 0], [0, 0, 0, 0, 0]]).bool()[..., None]
    patch = states_of(model, dictionaries, examples.patch)[site].compose(every[site])
    with intervene(model, {site: lambda x: torch.where(first, patch, x)}):
        expected = measure(model, METRIC, examples.clean, examples)
    np.testing.assert_allclose(found, expected.numpy(), atol=1e-10)
    assert found[2] == pytest.approx(float(measure(model, METRIC, examples.clean, examples)[2]))


def test_examples_that_found_a_circuit_do_not_measure_it(model):
    dictionaries, examples = dictionaries_for(model), pairs(4)
    finding, testing = examples.take(torch.tensor([0, 1, 2])), examples.take(torch.tensor([2, 3]))
    kept = keep_all(dictionaries)
    with pytest.raises(MeasureError, match="1 of the 2 test examples also found the circuit"):
        faithfulness(model, dictionaries, kept, finding, testing, METRIC)
    apart = unseen(testing, finding)
    assert len(apart) == 1 and not also_in(apart, finding).any()
    assert faithfulness(model, dictionaries, kept, finding, apart, METRIC, random_circuits=1).faithfulness == 1
    longer = replace(
        testing,
        clean=torch.cat([testing.clean, torch.zeros(2, 1, dtype=torch.long)], 1),
        patch=torch.cat([testing.patch, torch.ones(2, 1, dtype=torch.long)], 1),
        lengths=torch.tensor([5, 5]),
    )
    assert also_in(longer, finding).tolist() == [True, False]  # padding is no difference


def test_no_behaviour_is_one_sentence(model):
    examples = pairs()
    same = replace(examples, patch=examples.clean)
    with pytest.raises(MeasureError, match="there is no behaviour to measure"):
        Evaluator(model, {}, METRIC, lambda *_: {}).run(same, {})
    found = Measured(np.array([1.0, 3.0]), np.array([0.0, 0.0]), {"half": np.array([1.0, 1.0])})
    assert found.ratio("half") == 0.5


def test_bootstrap_intervals_cover_what_was_planted():
    """A true ratio of 0.6: about 95 % of the intervals hold it, and examples are resampled as wholes."""
    rng, covered, widths = np.random.default_rng(0), 0, []
    for repeat in range(200):
        size = rng.gamma(4.0, 1.0, 40)  # examples differ in size by far more than the circuits do
        measured = Measured(size, np.zeros(40), {"c": 0.6 * size + rng.normal(0, 0.5, 40)})
        found = measured.estimate("c", seed=repeat)
        covered += found.low <= 0.6 <= found.high
        widths.append(found.high - found.low)
    assert 178 <= covered <= 199
    # delta method: the ratio's standard error is 0.5 / (4 sqrt(40)); differences of size cancel
    assert np.mean(widths) == pytest.approx(2 * 1.96 * 0.5 / (4 * 40**0.5), rel=0.15)


def test_intervals_that_tell_nothing_have_no_bounds():
    assert resampled_means(np.ones((2, 1))).shape == (0, 2)
    assert interval(0.5, np.empty(0)).low is None
    assert interval(0.5, np.array([0.1, np.inf])).high is None
    assert str(interval(0.5, np.array([0.25, 0.75, 0.5]))).startswith("0.5 [0.26")


def test_the_result_is_plain_json(model):
    dictionaries = dictionaries_for(model)
    kept = {s: Kept((torch.arange(24) < 12)[None], torch.tensor([True])) for s in dictionaries}
    found = faithfulness(model, dictionaries, kept, pairs(seed=1), pairs(), METRIC, counterfactual, random_circuits=2)
    plain = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert plain["score"]["faithfulness"]["value"] == found.faithfulness and len(plain["matched"]) == 2
    assert "on 3 examples" in found.sentence() and "\n" not in found.sentence()
