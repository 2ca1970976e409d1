"""Components: their names and graph, the copies that ungroup and open attention, and descriptions that do not fit."""

from dataclasses import replace

import pytest
import torch

from circuits.attention import attending, twin
from circuits.component_states import end_points, expand, read_states
from circuits.components import ComponentError, Components
from circuits.peap import attention_paths
from saes.families import FAMILIES, find_site
from saes.sites import SiteError, capture
from tests.circuits.component_models import KINDS, component_model, uneven
from tests.circuits.plain_transformer import run
from tests.saes.models_for_tests import MORE_FAMILIES, hook_count, some_tokens, tiny


def test_names_and_edges_of_a_serial_model():
    graph = Components.of(component_model("gpt2"))
    assert graph.sources == ("input", "a0.h0", "a0.h1", "m0", "a1.h0", "a1.h1", "m1")
    assert graph.destinations == (
        "a0.h0<q>", "a0.h1<q>", "a0.h0<k>", "a0.h1<k>", "a0.h0<v>", "a0.h1<v>", "m0",
        "a1.h0<q>", "a1.h1<q>", "a1.h0<k>", "a1.h1<k>", "a1.h0<v>", "a1.h1<v>", "m1", "logits",
    )  # fmt: skip
    order = {name: i for i, name in enumerate(("input", "a0", "m0", "a1", "m1", "logits"))}
    for u, source in enumerate(graph.sources):
        for v, destination in enumerate(graph.destinations):
            earlier = order[source.split(".")[0]] < order[destination.split(".")[0]]
            assert bool(graph.real[u, v]) == earlier, (source, destination)
            assert bool(graph.owner[u, v]) == (source == destination.split("<")[0])


def test_parallel_blocks_have_no_edge_from_a_head_to_the_mlp_beside_it():
    serial, parallel = (Components.of(component_model(f"neox {kind}")).real for kind in ("serial", "parallel"))
    assert int((serial != parallel).sum()) == 4 and bool((serial | ~parallel).all())


def test_names_by_our_sites():
    graph = Components.of(component_model("gpt2"))
    named = {n: graph.ours(n) for n in ("input", "a0.h1", "m1", "a1.h0<k>", "logits")}
    assert list(named.values()) == ["embed", "attn_heads_0/1", "mlp_1", "attn_heads_1/0<k>", "resid_1"]
    with pytest.raises(ComponentError, match="'a7.h0': this model has input, a0.h0"):
        graph.ours("a7.h0")
    assert Components.of(component_model("gpt2"), heads=False).ours("a1") == "attn_1"


@pytest.mark.parametrize("kind", (*KINDS, "olmo2 grouped"))
@pytest.mark.parametrize("heads", [True, False])
def test_sources_are_what_a_plain_transformer_writes_and_add_up_to_the_stream(kind, heads):
    model, examples = component_model(kind), uneven()
    graph = Components.of(model, heads=heads)
    written = expand(graph, read_states(graph, examples.clean).map(lambda x: x.flatten(0, 1)))
    if heads:
        _, plain = run(model, examples.clean)
        for i, name in enumerate(graph.sources):
            assert torch.allclose(written[:, i], plain[name].flatten(0, 1), atol=1e-9), name
    with capture(model, [find_site(model, "resid_1")]) as values:
        model(input_ids=examples.clean)
    stream = values[find_site(model, "resid_1")].flatten(0, 1)
    # what heads leave out is the bias of the output projection, the same at all positions
    rest = stream - written.sum(1)
    assert torch.allclose(rest, rest[:1].expand_as(rest), atol=1e-9)


def test_grouped_keys_are_ungrouped_in_a_copy_that_shares_all_other_weights():
    model, examples = component_model("llama grouped"), uneven()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    graph = Components.of(model)
    assert graph.per_layer == 4 and graph.model is not model
    assert torch.allclose(graph.model(examples.clean).logits, model(examples.clean).logits, atol=1e-12)
    ours, theirs = dict(graph.model.named_parameters()), dict(model.named_parameters())
    own = {name for name in ours if ours[name].data_ptr() != theirs[name].data_ptr()}
    assert own == {f"model.layers.{i}.self_attn.{p}_proj.weight" for i in (0, 1) for p in "kv"}
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert Components.of(component_model("gpt2")).per_layer == 2


@pytest.mark.parametrize("kind", [name for name in MORE_FAMILIES if name != "gpt_neo"])
def test_every_family_with_grouped_heads_keeps_its_outputs(kind):
    model = tiny(kind).double()
    graph = Components.of(model)
    assert torch.allclose(graph.model(some_tokens()).logits, model(some_tokens()).logits, atol=1e-6)


@pytest.mark.parametrize("kind", KINDS)
def test_an_open_copy_computes_the_same_and_lets_patterns_be_replaced(kind):
    model, tokens = component_model(kind), uneven().clean
    opened = twin(model, open_attention=True)
    assert torch.allclose(opened(tokens).logits, model(tokens).logits, atol=1e-12)
    path = attention_paths(Components.of(model, open_attention=True))[0]
    with attending(opened, {path: lambda q, k, v, pattern, scale: torch.zeros_like(v)}):
        without = opened(tokens).logits
    plain, _ = run(model, tokens, attend=lambda name, pattern, v: 0 * v if name[:2] == "a0" else pattern @ v)
    assert torch.allclose(without, plain, atol=1e-9)
    assert torch.allclose(opened(tokens).logits, model(tokens).logits, atol=1e-12)
    with pytest.raises(SiteError, match="open copy"), attending(model, {}):
        pass


@pytest.mark.parametrize("kind", MORE_FAMILIES)
def test_every_family_has_heads_and_whole_layers(kind):
    model = tiny(kind)
    assert Components.of(model).sources[:4] == ("input", "a0.h0", "a0.h1", "m0")
    assert Components.of(model, heads=False).sources == ("input", "a0", "m0", "a1", "m1")
    assert hook_count(model) == 0


@pytest.mark.parametrize("kind", ["gemma3_text", "olmo2"])
def test_heads_behind_a_norm_are_described_in_bfloat16_too(kind):
    assert Components.of(tiny(kind).to(torch.bfloat16)).per_layer == 2


def test_a_bias_that_goes_through_the_norm_behind_attention_is_refused():
    model = tiny("gemma2")
    model.model.layers[1].self_attn.o_proj.bias = torch.nn.Parameter(torch.ones(16))
    with pytest.raises(ComponentError, match=r"layers.1.self_attn.o_proj: its bias goes through a norm.*heads=False"):
        Components.of(model)


def test_a_norm_that_is_no_scale_is_caught():
    model = component_model("olmo2 grouped")
    model.model.layers[0].post_attention_layernorm = torch.nn.LayerNorm(16, bias=False).double()
    with pytest.raises(ComponentError, match="the heads of .* not as the family describes them"):
        Components.of(model)


def test_a_description_that_does_not_fit_is_caught(monkeypatch):
    model = component_model("neox serial")
    row = FAMILIES["gpt_neox"]
    wrong = replace(row.projections, interleaved=False)
    monkeypatch.setitem(FAMILIES, "gpt_neox", replace(row, projections=wrong))
    with pytest.raises(ComponentError, match="the values of .* not as the family describes them"):
        Components.of(model)
    monkeypatch.setitem(FAMILIES, "gpt_neox", replace(row, attn_in="gpt_neox.layers.{i}.post_attention_layernorm"))
    with pytest.raises(ComponentError, match="the projections of .* not as the family describes them"):
        Components.of(model)
    monkeypatch.setitem(FAMILIES, "gpt_neox", replace(row, attn_in=None))
    with pytest.raises(ComponentError, match="no attn_in"):
        Components.of(model)
    monkeypatch.setitem(FAMILIES, "gpt_neox", replace(row, mid_norm=None))
    with pytest.raises(ComponentError, match="share a norm"):
        Components.of(model)


def test_other_ends_and_their_errors():
    model, examples = component_model("gpt2"), uneven()
    graph = Components.of(model, end=find_site(model, "resid_0"))
    assert graph.destinations[-1] == "resid_0" and len(graph.layers) == 1
    with pytest.raises(ComponentError, match="end 'mlp_0': components end at"):
        Components.of(model, end=find_site(model, "mlp_0"))
    with pytest.raises(ComponentError, match="no patch prompts"):
        end_points(graph, replace(examples, patch=None))


def test_means_count_only_positions_that_a_prompt_has():
    graph, examples = Components.of(component_model("gpt2")), uneven()
    mean = end_points(graph, examples, "mean", batch_size=2)(examples)
    every = read_states(graph, examples.clean)
    for position in range(examples.clean.shape[1]):
        there = examples.ends > position
        for ours, values in ((mean.input, every.input), (mean.attn[1], every.attn[1]), (mean.mlp[0], every.mlp[0])):
            assert torch.allclose(ours[0, position], values[there, position].mean(0))
