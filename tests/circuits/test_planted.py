"""Planted circuits: the true graph is what exact interventions say in random contexts; methods fail where they must."""

import json
from pathlib import Path

import pytest
import torch

from circuits.attribution import site_values
from circuits.edges import wiring
from circuits.end_points import end_points
from circuits.feature_acts import states_of
from circuits.metrics import LogitDifference, measure
from saes.families import blocks
from saes.family_checks import check_family
from saes.sites import capture, intervene

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
PROGRAMS = ("chain", "and", "or", "inhibition", "backup", "previous", "induction")
CONTEXTS = 16
MATTERS, NOTHING = 1e-3, 1e-5  # attention that is not sharp leaks about 1e-6


@pytest.fixture(scope="module")
def planted():
    """The modules of the script's package, by name."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(SCRIPTS))
    from circuit_truth import plant_dictionaries, plant_methods, planted, programs, truth

    yield {m.__name__.rpartition(".")[2]: m for m in (plant_dictionaries, plant_methods, planted, programs, truth)}
    patch.undo()


def truth_of(planted, instance, examples, end="patch"):
    plant, given = instance.plant, instance.plant.given()
    ends = end_points(end, plant.model, given, [examples])(plant.model, given, examples)
    clean = states_of(plant.model, given, examples.clean)
    return planted["truth"].Truth.of(plant, clean, planted["truth"].given_states(clean, ends, plant))


def at_random(clean, end, free, random):
    """States [CONTEXTS, length, f] whose free nodes are at their clean value or at their end, each by chance; in the
    first two all at the one and all at the other."""
    at_end = torch.rand(CONTEXTS, *free.shape, generator=random) < 0.5
    at_end[0], at_end[1] = False, True
    return torch.where(at_end & free, end, clean)


def with_and_without(clean, end, moved, wanted, random):
    """For every wanted (position, feature) of one example CONTEXTS states in which it alone differs:
    [nodes, CONTEXTS, length, f] with it at its clean value, and with it at its end."""
    nodes = wanted.nonzero()
    every = clean.new_zeros(len(nodes), CONTEXTS, *clean.shape)
    for row in every:
        row.copy_(at_random(clean, end, moved, random))
    both = []
    for state in (clean, end):
        both.append(every.clone())
        for row, (place, feature) in zip(both[-1], nodes.tolist(), strict=True):
            row[:, place, feature] = state[place, feature]
    return nodes, *both


@pytest.mark.parametrize(
    ("program", "end"),
    [(program, "patch") for program in PROGRAMS] + [("chain", "mean"), ("or", "zero"), ("previous", "zero")],
)
def test_true_nodes_matter_in_some_context_and_all_others_in_none(planted, program, end):
    cases = len(planted["programs"].KINDS[program].cases)
    instance = planted["programs"].instance(program, 5, pairs=cases, training=8)
    examples = instance.pairs if end == "patch" else instance.shown
    truth, random = truth_of(planted, instance, examples, end), torch.Generator().manual_seed(0)
    plant = instance.plant

    def metric(site, example, states):
        rows = examples.take(torch.full((states.shape[:-2].numel(),), example))
        x = states.flatten(0, -3) @ plant.directions + truth.clean[site].error[example]
        with torch.no_grad():
            return measure(plant.model, LogitDifference(), rows.clean, rows, {site: lambda _: x})

    for site, every in truth.moved.items():
        for i, moved in enumerate(every):
            clean, end_, true = truth.clean[site].acts[i], truth.end[site][i], truth.nodes[site][i]
            some = at_random(clean, end_, true, random)
            others = moved & ~true
            rest = torch.where(others, at_random(clean, end_, others, random), some)
            torch.testing.assert_close(metric(site, i, some), metric(site, i, rest), rtol=0, atol=NOTHING)
            nodes, before, after = with_and_without(clean, end_, moved, true, random)
            if len(nodes):
                change = (metric(site, i, after) - metric(site, i, before)).abs().view(len(nodes), CONTEXTS)
                assert (change.amax(1) > MATTERS).all(), site


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_feature_moves_another_in_some_context_if_and_only_if_there_is_a_true_edge(planted, program):
    cases = len(planted["programs"].KINDS[program].cases)
    instance = planted["programs"].instance(program, 6, pairs=cases, training=8)
    plant, random, seen = instance.plant, torch.Generator().manual_seed(0), 0
    given = plant.given()
    for i in range(cases):
        examples = instance.pairs.take(torch.tensor([i]))
        truth = truth_of(planted, instance, examples)
        for index, block in enumerate(blocks(plant.model)):
            for down, reads, ups in wiring(plant.model, index, block):
                if reads is None:
                    for up in ups:
                        both = truth.nodes[up][0] & truth.nodes[down][0]
                        places, features = both.nonzero().unbind(1)
                        assert truth.edges[up, down][places, features, places, features].all()
                        assert truth.edges[up, down].sum() == both.sum()
                    continue
                streams = [site_values(plant.model, [reads], t)[reads] for t in (examples.clean, examples.patch)]
                clean, end = (given[block.before].encode(x)[0] for x in streams)
                moved = (clean - end).abs() > planted["truth"].THRESHOLD
                true = torch.stack([truth.nodes[up][0] for up in ups]).any(0)
                nodes, *states = with_and_without(clean, end, moved, true, random)
                if not len(nodes):
                    assert not any(truth.edges[up, down].any() for up in ups)
                    continue
                x = torch.stack(states).flatten(0, 2) @ plant.directions
                tokens, edits = examples.clean.expand(len(x), -1), {reads: lambda _, x=x: x}
                with torch.no_grad(), intervene(plant.model, edits), capture(plant.model, [down]) as values:
                    plant.model(input_ids=tokens, use_cache=False)
                before, after = (values[down] @ plant.directions.T).unflatten(0, (2, len(nodes), CONTEXTS))
                changes = (after - before).abs().amax(1) > MATTERS  # [nodes, length, f]
                for up in ups:
                    expected = torch.zeros_like(truth.edges[up, down])
                    for (place, feature), change in zip(nodes.tolist(), changes, strict=True):
                        if truth.nodes[up][0, place, feature]:
                            expected[:, :, place, feature] = change & truth.nodes[down][0]
                    assert torch.equal(truth.edges[up, down], expected), (up, down)
                    seen += int(expected.sum())
    assert seen > 0


@pytest.mark.parametrize("program", PROGRAMS)
def test_given_dictionaries_are_exact_and_seeds_decide_everything(planted, program):
    one, same, other = (planted["programs"].instance(program, seed, pairs=6, training=64) for seed in (1, 1, 2))
    check_family(one.plant.model)
    d = one.plant.directions
    torch.testing.assert_close(d @ d.T, torch.eye(len(d)).double(), rtol=0, atol=1e-12)
    assert d.sum(1).abs().max() < 1e-12
    for state in states_of(one.plant.model, one.plant.given(), one.training).values():
        assert state.error.abs().max() < 2 * planted["truth"].THRESHOLD
        assert (state.acts >= 0).all() and (state.acts > 0).any()
    assert torch.equal(one.pairs.clean, same.pairs.clean) and torch.equal(d, same.plant.directions)
    assert not torch.equal(one.pairs.clean, other.pairs.clean)
    base = measure(one.plant.model, LogitDifference(), one.pairs.clean, one.pairs)
    patched = measure(one.plant.model, LogitDifference(), one.pairs.patch, one.pairs)
    assert (base - patched).abs().min() > 0.05  # every pair is a behaviour


def areas(planted, program, what):
    instance = planted["programs"].instance(program, 3, pairs=2, training=8)
    bench = planted["plant_methods"].Bench(instance, planted["plant_dictionaries"].given(instance.plant))
    found = [a for a in bench.areas(("patch",), ("all",)) if a.what == what]
    return {a.method: a for a in found}


def test_the_clean_gradient_is_blind_to_a_closed_gate_and_the_path_is_not(planted):
    nodes = areas(planted, "and", "nodes")
    assert nodes["ig"].area == nodes["exact"].area == 1.0
    assert nodes["ig"].missed == nodes["exact"].missed == ()
    assert nodes["attribution"].area < 0.8
    assert {"embed/a", "embed/b"} <= set(nodes["attribution"].missed)


def test_moving_one_node_at_a_time_is_blind_to_causes_that_are_each_enough(planted):
    nodes = areas(planted, "or", "nodes")
    assert nodes["ig"].area == 1.0
    assert set(nodes["exact"].missed) == {"embed/a", "embed/b"}


def test_the_area_counts_pairs(planted):
    random = torch.Generator().manual_seed(0)
    scores = torch.randint(1, 6, (40,), generator=random).double()  # with ties
    true = torch.rand(40, generator=random) < 0.3
    difference = scores[true][:, None] - scores[~true]
    expected = ((difference > 0).double() + 0.5 * (difference == 0).double()).mean()
    area, found = planted["plant_methods"].judged(-scores, true)  # signs do not matter
    assert area == pytest.approx(float(expected))
    assert 0 <= found <= 1
    nothing = torch.tensor([1.0, 1e-9, 0.0, 1e-8])
    assert planted["plant_methods"].judged(nothing, torch.tensor([True, True, False, False])) == (0.75, 0.5)
    assert planted["plant_methods"].judged(nothing, torch.zeros(4, dtype=torch.bool)) == (None, None)


def test_a_shuffled_true_dictionary_scores_as_the_true_one_and_lost_features_are_misses(planted):
    methods, dictionaries = planted["plant_methods"], planted["plant_dictionaries"]
    instance = planted["programs"].instance("chain", 3, pairs=2, training=8)
    labelled = dictionaries.given(instance.plant)
    order = torch.randperm(len(instance.plant.directions), generator=torch.Generator().manual_seed(0))
    for d in labelled.dictionaries.values():
        d.W_dec.copy_(d.W_dec[order].clone())
        d.W_enc.copy_(d.W_enc[order].clone())
    shuffled = dictionaries.Labelled(labelled.dictionaries, {s: order for s in labelled.dictionaries}, {})
    wrong = dictionaries.Labelled(labelled.dictionaries, {s: torch.full_like(order, -1) for s in shuffled.labels}, {})
    same, lost = ([a for a in methods.Bench(instance, x).areas(("patch",), ("all",))] for x in (shuffled, wrong))
    assert all(a.area == 1.0 for a in same if a.method in ("ig", "exact", "attribution", "secant"))
    assert all(a.area < 0.5 and a.found == 0 for a in lost if a.method in ("ig", "exact", "secant"))
    assert [a.true for a in lost] == [a.true for a in same]


def test_trained_dictionaries_are_labelled_by_the_planted_direction_that_they_are_nearest(planted):
    instance = planted["programs"].instance("chain", 3, pairs=2, training=64)
    learnt = planted["plant_dictionaries"].trained(instance, "topk", steps=3, seed=0)
    directions = instance.plant.directions
    for site, d in learnt.dictionaries.items():
        cosines = torch.nn.functional.normalize(d.W_dec, dim=1) @ directions.T
        for row, label in zip(cosines, learnt.labels[site].tolist(), strict=True):
            assert (row > 0.5**0.5).nonzero().flatten().tolist() == ([label] if label >= 0 else [])
    assert 0 < learnt.quality["mean max cosine"] < 1


def test_the_whole_measurement_in_small(planted):
    config = planted["planted"].PlantedConfig(("or",), instances=2, trained=0, pairs=2, places=("all",))
    result = planted["planted"].measure(config, progress=False)
    json.dumps(result, allow_nan=False)
    lines = "\n".join(planted["planted"].section(result))
    assert "exact" in lines and "| or |" in lines
    assert "or: attribution 0.83 (no score for embed/a, embed/b)" in lines
    assert isinstance(next(iter(result["results"]))["areas"], list)
