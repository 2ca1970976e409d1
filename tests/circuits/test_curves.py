"""Curves, areas and random circuits: exact on a linear model, matched where random, and apart from what found them."""

import json
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from circuits.activity import Activity, activity_on
from circuits.attribution import counterfactual
from circuits.circuit import Circuit, Node
from circuits.curve_figures import draw_curves, draw_edge_curve
from circuits.curves import CurveConfig, faithfulness_curves
from circuits.discover import CircuitConfig, find_circuit
from circuits.edge_curves import edge_curve
from circuits.end_points import ToMean, end_points
from circuits.exact import exact_effects
from circuits.feature_acts import states_of
from circuits.held_out import MeasureError
from circuits.metrics import LogitDifference, measure
from circuits.node_sets import Space, log_sizes
from circuits.random_circuits import NEAREST, random_circuit
from circuits.ranked import neurons_of, rank_nodes, to_neurons
from tests.circuits.small import dictionaries_for, linear_model, pairs, small_model
from tests.circuits.test_attribution import jaxtyping_off

METRIC = LogitDifference()
EFFECTS = CircuitConfig(method="attribution", batch_size=2)
FAST = CurveConfig(per_decade=2, draws=2)


@pytest.fixture(scope="module")
def model():
    return small_model()


def some_dictionaries(model):
    return {s: d for s, d in dictionaries_for(model).items() if s.name in ("mlp_0", "resid_0", "attn_1")}


def test_on_a_linear_model_the_curve_is_the_cumulative_sum_of_effects():
    model, examples = linear_model(), pairs()
    site, dictionary = list(dictionaries_for(model).items())[3]
    config = CurveConfig(per_decade=20, draws=0, neurons=False, order="signed")
    found = faithfulness_curves(
        model, {site: dictionary}, examples, examples, METRIC, config=config, effects=EFFECTS, overlap=True,
        progress=False,
    )  # fmt: skip
    effects = exact_effects(model, {site: dictionary}, examples, METRIC)[site].joined().mean(0).flatten()
    share = torch.cat([torch.zeros(1), (effects / effects.sum()).sort(descending=True).values.cumsum(0)])
    points = found.features.points
    for point in points[:-1]:
        assert point.score.faithfulness.value == pytest.approx(float(share[point.size]), abs=1e-9)
    assert (points[0].size, points[0].score.faithfulness.value) == (0, 0)
    assert (points[-1].size, points[-1].score.faithfulness.value) == (found.features.active, 1)
    assert max(share) > 1 and found.overlap == 3


def test_curves_with_everything_beside_them(model, tmp_path):
    dictionaries, finding, testing = some_dictionaries(model), pairs(4, seed=1), pairs()
    found = faithfulness_curves(
        model, dictionaries, finding, testing, METRIC, config=FAST, effects=EFFECTS, progress=False
    )
    features, neurons = found.features, found.neurons
    for curve in (features, neurons):
        assert (curve.points[0].score.faithfulness.value, curve.points[-1].score.faithfulness.value) == (0, 1)
        assert (curve.points[0].score.completeness.value, curve.points[-1].score.completeness.value) == (1, 0)
        assert curve.points[-1].size == curve.active <= curve.total
    assert features.total == 3 * 25 and (neurons.active, neurons.total) == (3 * 16, 3 * 17)
    assert {b.kind for b in features.bands} == {"uniform", "matched"} and not neurons.bands
    for band in features.bands:
        lines = band.at_sizes()
        assert lines.shape == (2, len(band.sizes)) and (lines[:, 0] == 0).all() and (lines[:, -1] == 1).all()
        assert (lines[0] != lines[1]).any() and len(band.cpr) == 2
    assert (found.finding, found.testing, found.overlap) == (4, 3, 0)
    assert features.log.cmd.low <= features.log.cmd.value <= features.log.cmd.high
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["features"]["nominal"]["cpr"]["value"]
    assert "CPR" in found.sentence() and "\n" not in found.sentence()
    draw_curves(found, tmp_path / "curves.png", "a title")
    assert np.ptp(imread(tmp_path / "curves.png")) > 0.5


def test_nominal_areas_are_mibs_over_shares_of_all_nodes(model):
    """Against the trapezoid by hand, on sizes that the curve measured."""
    dictionaries = some_dictionaries(model)
    config = CurveConfig(per_decade=1, draws=0, neurons=False)
    found = faithfulness_curves(
        model, dictionaries, pairs(4, seed=1), pairs(), METRIC, config=config, effects=EFFECTS, progress=False
    ).features
    by_size = dict(zip(*found.line(), strict=True))
    shares = [0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0]
    values = [by_size[min(found.active, round(75 * share))] for share in shares]
    area = sum((b - a) * (u + v) / 2 for (a, b), (u, v) in zip(pairwise(shares), pairwise(values), strict=True))
    assert found.nominal.cpr.value == pytest.approx(area)


def test_curves_of_every_mode_and_end_point_begin_at_nothing_and_end_at_everything(model):
    dictionaries = {s: d for s, d in dictionaries_for(model).items() if s.name in ("mlp_0", "resid_0")}
    finding, testing = pairs(4, seed=1).by_position(), pairs().by_position()
    mean = end_points("mean", model, dictionaries, [pairs(seed=2)])
    for to, free in ((mean, ()), (counterfactual, [next(iter(dictionaries))])):
        found = faithfulness_curves(
            model, dictionaries, finding, testing, METRIC, to, FAST, EFFECTS, free=free, progress=False
        )
        for curve in (found.features, found.neurons):
            values = curve.line()[1]
            assert (values[0], values[-1]) == (0, 1) and len(set(values)) > 3
        assert found.features.total == 5 * 25 * (2 - len(free))


def test_the_signed_order_puts_first_what_the_metric_needs(model):
    dictionaries, examples = dictionaries_for(model), pairs(4)
    for flip in (1, -1):
        metric = Flipped(flip)
        ranking, activity = rank_nodes(
            model, dictionaries, examples, metric, counterfactual, EFFECTS, "signed", progress=False
        )
        exact = {s: v.mean_examples().joined() for s, v in exact_effects(model, dictionaries, examples, metric).items()}
        values = np.array([float(exact[list(dictionaries)[s]][p, f]) for s, p, f in ranking.nodes.tolist()])
        first, last = values[:20].mean(), values[-20:].mean()
        assert first < 0 < last if metric.gains(model, examples) else last < 0 < first
        assert len(ranking) == sum(int(activity.on(s).sum()) for s in dictionaries)


class Flipped(LogitDifference):
    """The metric or its negative."""

    def __init__(self, sign):
        self.sign = sign

    def __call__(self, output, examples):
        return self.sign * super().__call__(output, examples)

    def gains(self, model, examples):
        """Whether the model has more of it than the patch prompts."""
        change = measure(model, self, examples.patch, examples) - measure(model, self, examples.clean, examples)
        return bool(change.mean() < 0)


def test_activity_against_dense_states(model):
    dictionaries, examples = dictionaries_for(model), pairs()
    for grouped in (examples, examples.by_position()):
        found = activity_on(model, dictionaries, grouped, counterfactual, batch_size=2)
        clean, patch = (states_of(model, dictionaries, t) for t in (examples.clean, examples.patch))
        for site in dictionaries:
            active = ((clean[site].acts != 0) | (patch[site].acts != 0)).double()
            change = (patch[site].acts - clean[site].acts).abs()
            errors = (patch[site].error - clean[site].error).norm(dim=-1)
            torch.testing.assert_close(found.positions[site][:, :-1], grouped.grouped.sum(active).sum(0))
            torch.testing.assert_close(found.mean_change(site)[:, :-1], grouped.grouped.sum(change).mean(0))
            torch.testing.assert_close(found.mean_change(site)[:, -1], grouped.grouped.sum(errors).mean(0))


@pytest.mark.parametrize("kind", ["uniform", "matched"])
def test_random_circuits_have_the_same_counts_at_every_site_and_place(model, kind):
    dictionaries, examples = dictionaries_for(model), pairs().by_position()
    activity, space = activity_on(model, dictionaries, examples, counterfactual), Space.of(dictionaries, 5)
    ranking, _ = rank_nodes(model, dictionaries, examples, METRIC, counterfactual, EFFECTS, "absolute", progress=False)
    for size in (1, 40, len(ranking) - 5):
        circuit = ranking.top(size)
        drawn = [random_circuit(kind, space, circuit, activity, [0, i]) for i in range(3)]
        own = space.mask(circuit)
        for nodes in drawn:
            mask = space.mask(nodes)
            assert len(np.unique(nodes, axis=0)) == size
            for site in dictionaries:
                assert (mask[site].features.sum(1) == own[site].features.sum(1)).all()
                assert (mask[site].error == own[site].error).all()
                assert bool((activity.on(site)[:, :-1] | own[site].features)[mask[site].features].all())
        again = random_circuit(kind, space, circuit, activity, [0, 0])
        assert (again == drawn[0]).all() and (drawn[0].shape != drawn[1].shape or (drawn[0] != drawn[1]).any())


def test_matched_circuits_move_as_far_as_the_circuit_and_uniform_ones_do_not():
    """1000 features whose changes span six decades, a circuit of the large ones."""
    site = next(iter(dictionaries_for(small_model())))
    space, rng = Space({site: 1000}, 1), np.random.default_rng(0)
    change = torch.from_numpy(np.append(np.logspace(-3, 3, 1000), 0.0))[None]
    activity = Activity(1, {site: torch.ones(1, 1001).double()}, {site: change})
    features = np.sort(rng.choice(np.arange(700, 1000), 20, replace=False))
    circuit = np.stack([np.zeros(20, int), np.zeros(20, int), features], 1)

    def log_change(nodes):
        return np.sort(np.log10(change[0].numpy()[nodes[:, 2]]))

    matched, uniform = (random_circuit(kind, space, circuit, activity, 0) for kind in ("matched", "uniform"))
    assert not set(matched[:, 2].tolist()) & set(features.tolist())
    far = 6 / 1000 * (NEAREST + 20)  # decades: a stand-in is among the NEAREST, members and those taken aside
    assert np.abs(log_change(matched) - log_change(circuit)).max() < far
    assert np.abs(log_change(uniform) - log_change(circuit)).max() > 1


def test_a_mean_for_neurons_is_the_mean_of_the_site(model):
    dictionaries = dictionaries_for(model)
    mean = end_points("mean", model, dictionaries, [pairs(seed=2)])
    neurons = neurons_of(dictionaries)
    direct = end_points("mean", model, neurons, [pairs(seed=2)])
    converted = to_neurons(mean, dictionaries)
    assert isinstance(converted, ToMean) and isinstance(direct, ToMean)
    for site in dictionaries:
        torch.testing.assert_close(converted.states[site].acts, direct.states[site].acts)
        assert not converted.states[site].error.any()


def test_sizes_on_a_log_scale():
    assert log_sizes(1000, 1) == [0, 1, 10, 100, 1000]
    assert log_sizes(1, 3) == [0, 1] and log_sizes(0, 3) == [0]
    assert len(log_sizes(100, 3)) == 8 and log_sizes(7, 3)[-1] == 7


def test_bad_requests_are_one_sentence(model):
    dictionaries, examples = dictionaries_for(model), pairs()
    for options, said in (({"draws": -1}, "draws is -1"), ({"order": "both"}, "choose absolute or signed")):
        with jaxtyping_off(), pytest.raises(MeasureError, match=said):
            CurveConfig(**options)
    with pytest.raises(MeasureError, match="3 of the 3 test examples also found"):
        faithfulness_curves(model, dictionaries, examples, examples, METRIC)
    with pytest.raises(MeasureError, match="places of the finding examples"):
        faithfulness_curves(model, dictionaries, pairs(seed=1), examples.by_position(), METRIC)


def test_edge_curve_from_no_edge_to_all_of_them(model, tmp_path):
    """All edges of a circuit are what ablation of its nodes measures, and none is nothing."""
    dictionaries, finding, testing = dictionaries_for(model), pairs(4, seed=1), pairs()
    config = CircuitConfig(nodes=20, edges=100_000, method="attribution")
    circuit = find_circuit(model, dictionaries, finding, METRIC, config, progress=False).circuit
    found = edge_curve(model, dictionaries, circuit, finding, testing, METRIC, draws=2, batch_size=2, progress=False)
    assert found.points[0].edges == 0 and found.points[0].faithfulness.value == pytest.approx(0, abs=1e-9)
    assert found.points[-1].edges == len(circuit.edges) <= found.possible
    # edges that are zero on the finding examples are missing; what they would carry is little
    assert found.points[-1].faithfulness.value == pytest.approx(found.nodes.value, abs=0.2)
    assert all(len(point.random) == 2 for point in found.points)
    json.dumps(found.to_json(), allow_nan=False)
    assert f"{len(circuit.edges)} of {found.possible} edges" in found.sentence()
    draw_edge_curve(found, tmp_path / "edges.png")
    with pytest.raises(MeasureError, match="the circuit has 0 to"):
        edge_curve(model, dictionaries, circuit, finding, testing, METRIC, sizes=[10**6])
    with pytest.raises(MeasureError, match="also found"):
        edge_curve(model, dictionaries, circuit, finding, finding, METRIC)


def test_edge_curves_take_circuits_without_edges(model):
    dictionaries = dictionaries_for(model)
    circuit = Circuit(tuple(dictionaries), {Node("resid_1", f): 1.0 for f in range(24)}, {}, {})
    found = edge_curve(model, dictionaries, circuit, pairs(seed=1), pairs(), METRIC, progress=False)
    assert [point.edges for point in found.points] == [0]
    assert found.points[0].faithfulness.value == pytest.approx(found.nodes.value, abs=1e-9) == 0


def test_a_random_set_of_edges_has_the_strength_of_the_draw(model):
    """Edges are drawn between the same pairs of sites: a circuit with every edge has one random set, itself."""
    dictionaries = {s: d for s, d in dictionaries_for(model).items() if s.name in ("mlp_0", "resid_0")}
    nodes = {Node(s.name, f): 1.0 for s in dictionaries for f in range(24)}
    edges = {(Node("mlp_0", u), Node("resid_0", d)): 1.0 for u in range(24) for d in range(24)}
    circuit = replace(Circuit(tuple(dictionaries), nodes, {}, {}), edges=edges)
    found = edge_curve(
        model, dictionaries, circuit, pairs(seed=1), pairs(), METRIC, sizes=[576], draws=2, progress=False
    )
    point = found.points[0]
    assert point.random == pytest.approx([point.faithfulness.value] * 2) and found.possible == 576
    assert point.faithfulness.value == pytest.approx(found.nodes.value, abs=1e-9)
