"""Only chosen edges carry a node's own value: held against ablation of nodes and against a linear model."""

import pytest
import torch
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from circuits.ablation import ablated_metric, keep_none, replacements
from circuits.attribution import counterfactual, site_values
from circuits.circuit import Circuit, Node, nodes_of
from circuits.edge_ablation import EdgeAblation, every_edge
from circuits.edges import Chosen
from circuits.end_points import ToZero
from circuits.held_out import MeasureError
from circuits.metrics import LogitDifference, measure
from circuits.places import Places
from saes.families import circuit_sites
from tests.circuits.small import dictionaries_for, pairs, small_model

METRIC = LogitDifference()


def chosen_circuit(dictionaries, places, share, seed=0):
    """Random nodes at random places, without edges."""
    generator = torch.Generator().manual_seed(seed)
    nodes = {}
    for site, dictionary in dictionaries.items():
        for node in nodes_of(site, Chosen.every(dictionary.features, len(places)), places):
            if torch.rand((), generator=generator) < share:
                nodes[node] = 1.0
    return Circuit(tuple(dictionaries), nodes, {}, {}, places)


def with_edges(circuit, edges):
    return Circuit(circuit.sites, circuit.nodes, dict.fromkeys(edges, 1.0), {}, circuit.places)


def by_nodes(model, dictionaries, examples, circuit, to=counterfactual):
    states = replacements(dictionaries, to(model, dictionaries, examples))
    return ablated_metric(model, dictionaries, examples, METRIC, circuit.kept(dictionaries), states)


@pytest.fixture(scope="module")
def model():
    return small_model()


@pytest.mark.parametrize("positions", ["summed", "each", "spans"])
@pytest.mark.parametrize("share", [1.0, 0.5])
def test_all_edges_are_ablation_of_nodes(model, positions, share):
    """Between all nodes that is the model itself; between some, everything else replaced."""
    examples = pairs()
    if positions == "each":
        examples = examples.by_position()
    if positions == "spans":  # the first position is in no span
        starts = torch.tensor([[1, 2, 5], [1, 3, 5], [1, 1, 5]])
        examples = type(examples)(
            examples.clean, examples.patch, examples.position, examples.fields,
            places=Places.spans(["first", "second"], starts, 5),
        )  # fmt: skip
    dictionaries = dictionaries_for(model)
    circuit = chosen_circuit(dictionaries, examples.grouped.names, share)
    circuit = with_edges(circuit, every_edge(circuit, model))
    found = EdgeAblation(model, dictionaries, examples, METRIC, counterfactual).metric_of(circuit)
    torch.testing.assert_close(found, by_nodes(model, dictionaries, examples, circuit), rtol=0, atol=1e-9)
    if share == 1:
        torch.testing.assert_close(found, measure(model, METRIC, examples.clean, examples), rtol=0, atol=1e-9)


def test_all_edges_where_attention_and_mlp_read_the_same_stream():
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=23, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32,
        max_position_embeddings=16, initializer_range=0.4, use_parallel_residual=True, attn_implementation="sdpa",
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).double().eval().requires_grad_(False)
    dictionaries, examples = dictionaries_for(model), pairs()
    circuit = chosen_circuit(dictionaries, ("all",), 0.5)
    edges = every_edge(circuit, model)
    assert not any(u.site.startswith("attn") and d.site.startswith("mlp") for u, d in edges)
    found = EdgeAblation(model, dictionaries, examples, METRIC, counterfactual).metric_of(with_edges(circuit, edges))
    torch.testing.assert_close(found, by_nodes(model, dictionaries, examples, circuit), rtol=0, atol=1e-9)


@pytest.mark.parametrize("to", [counterfactual, ToZero()])
def test_no_edges_are_the_empty_circuit(model, to):
    examples, dictionaries = pairs(), dictionaries_for(model)
    circuit = chosen_circuit(dictionaries, ("all",), 1.0)
    found = EdgeAblation(model, dictionaries, examples, METRIC, to).metric_of(circuit)
    states = replacements(dictionaries, to(model, dictionaries, examples))
    empty = ablated_metric(model, dictionaries, examples, METRIC, keep_none(dictionaries), states)
    torch.testing.assert_close(found, empty, rtol=0, atol=1e-9)


def test_all_edges_with_sites_that_have_no_dictionary(model):
    """They carry everything, as in ablation of nodes."""
    examples = pairs()
    dictionaries = {s: d for s, d in dictionaries_for(model).items() if s.name in ("mlp_0", "resid_0", "attn_1")}
    circuit = chosen_circuit(dictionaries, ("all",), 0.5)
    circuit = with_edges(circuit, every_edge(circuit, model))
    found = EdgeAblation(model, dictionaries, examples, METRIC, counterfactual).metric_of(circuit)
    torch.testing.assert_close(found, by_nodes(model, dictionaries, examples, circuit), rtol=0, atol=1e-9)


def test_single_edges_against_putting_the_stream_together_by_hand(model):
    """embed -> attn_0 and embed -> resid_0 cut apart: attention reads one stream, the sum another."""
    examples = pairs()
    every = dictionaries_for(model)
    dictionaries = {s: d for s, d in every.items() if s.name in ("embed", "attn_0", "mlp_0", "resid_0")}
    circuit = chosen_circuit(dictionaries, ("all",), 1.0)
    kept = [(u, d) for u, d in every_edge(circuit, model) if (u.site, d.site) != ("embed", "resid_0")]
    found = EdgeAblation(model, dictionaries, examples, METRIC, counterfactual).metric_of(with_edges(circuit, kept))
    sites = {s.name: s for s in circuit_sites(model)}
    clean = site_values(model, list(sites.values()), examples.clean)
    patch = site_values(model, list(sites.values()), examples.patch)
    stream = patch[sites["embed"]] + clean[sites["attn_0"]] + clean[sites["mlp_0"]]
    expected = measure(model, METRIC, examples.clean, examples, {sites["resid_0"]: lambda _: stream})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    whole = measure(model, METRIC, examples.clean, examples)
    assert (expected - whole).abs().max() > 1e-3


def test_one_parent_less_changes_only_what_reads_it(model):
    """A feature of embed without its edge into one feature of resid_0, in a circuit of everything else."""
    examples = pairs()
    dictionaries = {s: d for s, d in dictionaries_for(model).items() if s.name in ("embed", "resid_0")}
    circuit = chosen_circuit(dictionaries, ("all",), 1.0)
    embed, resid = dictionaries
    clean, patch = (site_values(model, list(dictionaries), t) for t in (examples.clean, examples.patch))
    up_clean, up_patch = (dictionaries[embed].encode(v[embed]) for v in (clean, patch))
    u = int((up_clean - up_patch).abs().sum((0, 1)).argmax())
    through = (dictionaries[embed].W_dec[u] @ dictionaries[resid].encoder_rows(torch.arange(24)).T).abs()
    d = int((through * (dictionaries[resid].encode(clean[resid]) > 0).any(0).any(0)).argmax())
    pair = (Node("embed", u), Node("resid_0", d))
    kept = [edge for edge in every_edge(circuit, model) if edge != pair]
    found = EdgeAblation(model, dictionaries, examples, METRIC, counterfactual).metric_of(with_edges(circuit, kept))
    # by hand: attn_0 and mlp_0 have no dictionary and read all of embed; only feature d sees embed with u replaced
    step = (up_patch - up_clean)[..., u, None] * dictionaries[embed].W_dec[u]
    seen = dictionaries[resid].encode(clean[resid] + step)[..., d]
    own = dictionaries[resid].encode(clean[resid])[..., d]
    stream = clean[resid] + (seen - own)[..., None] * dictionaries[resid].W_dec[d]
    expected = measure(model, METRIC, examples.clean, examples, {resid: lambda _: stream})
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-9)
    assert (seen - own).abs().max() > 1e-3


def test_an_edge_that_skips_a_site_is_refused(model):
    dictionaries = dictionaries_for(model)
    circuit = chosen_circuit(dictionaries, ("all",), 1.0)
    wrong = with_edges(circuit, [(Node("embed", 0), Node("resid_1", 1))])
    with pytest.raises(MeasureError, match="embed/0 -> resid_1/1: no single edge"):
        EdgeAblation(model, dictionaries, pairs(), METRIC, counterfactual).metric_of(wrong)
