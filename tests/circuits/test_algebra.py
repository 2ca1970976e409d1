"""Circuits compared and joined: what sets of nodes and means of effects must satisfy."""

from dataclasses import replace
from itertools import permutations

import pytest
from scipy.stats import kendalltau

from circuits.algebra import average, diff, merge
from circuits.circuit import Circuit, CircuitError, Node
from saes.sites import Site
from tests.circuits.circuits_for_tests import circuit_of

SITES = (Site("embed", "e"), Site("resid_0", "r"))
A, B, C = Node("embed", 1), Node("embed", None), Node("resid_0", 7)


def circuit(nodes, edges=None, **provenance) -> Circuit:
    return Circuit(SITES, nodes, edges or {}, provenance)


def same(first: Circuit, second: Circuit) -> bool:
    return (first.sites, first.places, dict(first.nodes), dict(first.edges), dict(first.provenance)) == (
        second.sites, second.places, dict(second.nodes), dict(second.edges), dict(second.provenance),
    )  # fmt: skip


def test_a_circuit_does_not_differ_from_itself():
    one = circuit_of(40, 80)
    found = diff(one, circuit_of(40, 80))
    assert not found and not found.nodes.changed and not found.edges.only_first
    assert found.nodes.jaccard == found.edges.jaccard == 1
    assert found.nodes.rank_correlation == pytest.approx(1) == found.edges.rank_correlation
    assert diff(circuit({}), circuit({})).nodes.jaccard == 1


def test_differences_are_what_was_changed():
    one = circuit({A: 1.0, B: -2.0}, {(A, C): 0.5})
    two = circuit({B: -1.5, C: 3.0}, {(B, C): 0.25, (A, C): 0.5})
    found = diff(one, two)
    assert found and found.nodes.only_first == {A: 1.0} and found.nodes.only_second == {C: 3.0}
    assert found.nodes.changed == {B: 0.5} and found.edges.changed == {} and found.edges.only_second == {(B, C): 0.25}
    assert found.nodes.jaccard == pytest.approx(1 / 3) and found.edges.jaccard == 0.5
    assert found.nodes.rank_correlation is None  # of a single node
    back = diff(two, one)
    assert back.nodes.only_first == found.nodes.only_second and back.nodes.changed == {B: -0.5}


def test_the_order_of_effects_is_what_is_correlated():
    one = circuit_of(30, 0)
    rising = replace(one, nodes={node: effect**3 + 5 for node, effect in one.nodes.items()})
    falling = replace(one, nodes={node: -effect for node, effect in one.nodes.items()})
    assert diff(one, rising).nodes.rank_correlation == pytest.approx(1)
    assert diff(one, falling).nodes.rank_correlation == pytest.approx(-1)
    constant = replace(one, nodes=dict.fromkeys(one.nodes, 1.0))
    assert diff(one, constant).nodes.rank_correlation is None
    other = replace(one, nodes=dict(zip(one.nodes, circuit_of(30, 0, seed=1).nodes.values(), strict=True)))
    rank = diff(one, other).nodes.rank_correlation
    assert rank is not None and -1 < rank < 1
    assert rank * kendalltau(list(one.nodes.values()), list(other.nodes.values())).statistic > 0


def test_merging_is_union_in_any_order():
    circuits = [circuit_of(30, 60, seed=0, seed_of=i, shared=1) for i in range(3)]
    circuits = [replace(c, nodes={n: e * (i + 0.1) for n, e in c.nodes.items()}) for i, c in enumerate(circuits)]
    circuits[1] = circuits[1].strongest(15, 20)
    orders = [merge(*order) for order in permutations(circuits)]
    assert all(same(orders[0], other) for other in orders)
    assert orders[0].provenance["shared"] == 1 and "seed_of" not in orders[0].provenance
    assert set(merge(circuits[1], circuit_of(30, 60, seed=5)).nodes) == {
        *circuits[1].nodes, *circuit_of(30, 60, seed=5).nodes,
    }  # fmt: skip
    both = merge(circuit({A: 1.0, B: 2.0}, {(A, C): 1.0}), circuit({A: 3.0, C: 5.0}))
    assert both.nodes == {A: 2.0, B: 2.0, C: 5.0}


@pytest.mark.parametrize("times", [1, 3, 7])
def test_identical_circuits_average_to_themselves(times):
    one = circuit_of(40, 80)
    found = average([one] * times, [0.1 + i / 3 for i in range(times)], at_least=times)
    assert found.nodes == one.nodes and found.edges == one.edges
    assert merge(*[one] * times).nodes == one.nodes


def test_averages_weigh_and_count():
    one, two = circuit({A: 1.0, B: 4.0}, {(A, B): 2.0}), circuit({A: 3.0}, {(A, B): 4.0})
    found = average([one, two], [3, 1])
    assert found.nodes == {A: 1.5, B: 3.0} and found.edges == {(A, B): 2.5}
    strict = average([one, two], at_least=2)
    assert strict.nodes == {A: 2.0} and strict.edges == {}  # B is gone, and its edge with it
    assert same(average([one, two], [3, 1]), average([two, one], [1, 3]))


def test_circuits_that_do_not_fit():
    one = circuit({A: 1.0}, dictionaries={"embed": "aa", "resid_0": "bb"})
    elsewhere = replace(one, sites=(SITES[0], Site("resid_1", "r")))
    for call in (lambda a, b: diff(a, b), merge, lambda a, b: average([a, b])):
        with pytest.raises(CircuitError, match="sites embed, resid_0 and circuit 2 embed, resid_1"):
            call(one, elsewhere)
        with pytest.raises(CircuitError, match="places all and circuit 2 subject, verb"):
            call(one, replace(one, places=("subject", "verb")))
        with pytest.raises(CircuitError, match="different dictionaries at resid_0"):
            call(one, circuit({A: 1.0}, dictionaries={"embed": "aa", "resid_0": "cc"}))
    assert not diff(one, circuit({A: 1.0}))  # one that says nothing about its dictionaries
    with pytest.raises(CircuitError, match="no circuit"):
        merge()
    for weights in ([1.0], [1.0, -1.0], [0.0, 0.0], [1.0, float("nan")]):
        with pytest.raises(CircuitError, match="weights are"):
            average([one, one], weights)
    for count in (0, 3):
        with pytest.raises(CircuitError, match=f"at_least is {count}"):
            average([one, one], at_least=count)
