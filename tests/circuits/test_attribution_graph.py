"""Attribution graphs against a frozen model written by hand, against interventions, and on a planted path."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import GPT2Config, GPT2LMHeadModel

from circuits.attribution_graph import GraphConfig, attribution_graph
from circuits.frozen import GraphError
from circuits.graph import AttributionGraph
from circuits.linear_model import LinearModel
from circuits.pruning import prune, scores
from saes.architectures import (
    BatchTopKDictionary,
    CrosscoderDictionary,
    GatedDictionary,
    JumpReLUDictionary,
    ReLUConfig,
    ReLUDictionary,
    TopKDictionary,
    transcoder,
)
from saes.checkpoint import save_dictionary
from saes.dictionary_set import DictionarySet
from saes.families import blocks, find_site
from saes.files import FileError, read_json, write_json
from saes.sites import SiteError
from tests.circuits.transcoders_for_tests import (
    BY_HAND,
    FrozenByHand,
    case,
    mlp_input,
    transcoders_for,
    values_at,
)
from tests.saes.models_for_tests import some_tokens, tiny


def graph_of(setup, **options) -> AttributionGraph:
    return attribution_graph(setup.model, setup.transcoders, setup.tokens, GraphConfig(**options), progress=False)


def dense(graph: AttributionGraph) -> torch.Tensor:
    """A[target, source] over all nodes."""
    matrix = torch.zeros(len(graph), len(graph), dtype=torch.float64)
    matrix[graph.edges.targets, graph.edges.sources] = graph.edges.weights.double()
    return matrix


def read_values(graph, transcoders, read, head, model):
    """Pre-activations of the graph's features, then its logits less the mean, from what is read [batch, length, d]."""
    columns = []
    by_block = {i: d for d in transcoders.values() for i, b in enumerate(blocks(model)) if b.mlp == d.writes[0]}
    for block, position, number in graph.features.tolist():
        x = read[blocks(model)[block].mlp][:, position]
        columns.append(by_block[block].pre_activation(x)[:, number])
    logits = model.get_output_embeddings()(head[:, -1])
    columns += [logits[:, token] - logits.mean(-1) for token in graph.logit_tokens.tolist()]
    return torch.stack(columns, -1)


@pytest.mark.parametrize("family", BY_HAND)
@pytest.mark.parametrize("max_features", [5000, 20])
def test_edges_and_biases_add_up_to_what_the_true_model_computes(family, max_features):
    setup = case(family)
    graph = graph_of(setup, max_features=max_features)
    sites = [d.reads[0] for d in setup.transcoders.values()]
    found = values_at(setup.model, sites, setup.tokens)
    by_block = {int(s.name.rsplit("_", 1)[1]): s for s in sites}
    true = [
        setup.transcoders[by_block[block]].pre_activation(found[by_block[block]])[position, number]
        for block, position, number in graph.features.tolist()
    ]
    logits = setup.model(setup.tokens[None]).logits[0, -1]
    if family == "gemma2":  # the graph's logits are those before the last soft cap
        cap = setup.model.config.final_logit_softcapping
        logits = cap * torch.atanh(logits / cap)
    true += list((logits - logits.mean())[graph.logit_tokens])
    total = dense(graph).sum(1)[graph.targets] + graph.biases
    torch.testing.assert_close(total, graph.values, rtol=0, atol=1e-12)
    # the true model of families with RMSNorm or rotary embeddings rounds to float32 in places
    torch.testing.assert_close(total, torch.stack(true), rtol=0, atol=1e-12 if family == "gpt2" else 1e-4)
    assert graph.biases.abs().max() > 1e-2


@pytest.mark.parametrize("family", BY_HAND)
def test_doubling_a_source_moves_every_target_by_its_edge(family):
    """In the model written out by hand, which shares no code with the graph's: all edges and all absent edges."""
    setup = case(family)
    graph = graph_of(setup)
    by_hand = FrozenByHand(family, setup.model, setup.transcoders, setup.tokens)
    length, sources = len(setup.tokens), graph.first_logit
    embedding = by_hand.embedding.expand(sources + 1, -1, -1).clone()
    written = {m: x.expand(sources + 1, -1, -1).clone() for m, x in by_hand.written.items()}
    rest = {m: x.clone() for m, x in by_hand.written.items()}  # becomes the error
    for i, (block, position, number) in enumerate(graph.features.tolist()):
        mlp = by_hand.mlps[block]
        vector = graph.activations[i] * by_hand.by_mlp[mlp].W_dec[number]
        written[mlp][i, position] += vector
        rest[mlp][position] -= vector
    for block, mlp in enumerate(by_hand.mlps):
        dictionary = by_hand.by_mlp.get(mlp)
        for position in range(length):
            error = rest[mlp][position] - (0 if dictionary is None else dictionary.b_dec)
            written[mlp][graph.error(block, position), position] += error
    for position in range(length):
        embedding[graph.first_token + position, position] *= 2
    with torch.no_grad():
        read, head = by_hand.run(embedding, written)
        values = read_values(graph, setup.transcoders, read, head, setup.model)
    moved = (values[:-1] - values[-1]).T
    wanted = dense(graph)[graph.targets][:, :sources]
    tolerance = 1e-11 if family == "gpt2" else 1e-5
    torch.testing.assert_close(moved, wanted, rtol=0, atol=tolerance)
    assert (wanted.abs() > 1e-3).sum() > 500


@pytest.mark.parametrize("family", ["neox serial", "qwen3", "olmo2", "gemma3_text", "gpt_neo"])
def test_moving_a_source_of_the_frozen_model_moves_targets_by_the_edges(family):
    """Interventions without autograd, in families that are not written out by hand."""
    setup = case(family)
    graph = graph_of(setup)
    linear, matrix = LinearModel(setup.model, setup.transcoders, setup.tokens), dense(graph)
    embed, chosen = find_site(setup.model, "embed"), range(0, graph.first_error, 5)
    plan = [(graph.first_token, embed, 0, linear.embedding[0])]
    for i in chosen:
        block, position, number = graph.features[i].tolist()
        part = linear.parts[block]
        vector = graph.activations[i] * setup.transcoders[part.reads].W_dec[number]
        plan.append((i, part.writes, position, vector))
    plan.append((graph.error(1, 2), linear.parts[1].writes, 2, linear.parts[1].error[2]))
    sources = {s: x.expand(len(plan) + 1, -1, -1).clone() for s, x in linear.sources.items()}
    for row, (_, site, position, vector) in enumerate(plan):
        sources[site][row, position] += vector
    with torch.no_grad():
        found = linear.run(sources)
        read = {p.writes: found[p.reads] for p in linear.parts if p.reads is not None}
        values = read_values(graph, setup.transcoders, read, found[linear.head], setup.model)
    for row, (node, *_) in enumerate(plan):
        torch.testing.assert_close(values[row] - values[-1], matrix[graph.targets, node], rtol=0, atol=1e-11)


def test_without_any_transcoder_everything_but_the_tokens_is_error():
    setup = replace(case("gpt2"), transcoders={})
    graph = graph_of(setup)
    assert graph.features.shape == (0, 3)
    torch.testing.assert_close(dense(graph).sum(1)[graph.targets] + graph.biases, graph.values)
    assert scores(graph).replacement < 1


@pytest.mark.parametrize(
    "kind", [TopKDictionary, BatchTopKDictionary, JumpReLUDictionary, GatedDictionary, ReLUDictionary]
)
def test_every_architecture_can_be_the_transcoder(kind):
    model, tokens = tiny("gpt2").double(), some_tokens(1, 5)[0]
    options = {"k": 3} if "k" in kind.config_type.__dataclass_fields__ else {}
    block = blocks(model)[1]
    made = transcoder(
        kind, find_site(model, "resid_mid_1"), block.mlp, width_in=16, width=16, features=12, seed=1, **options
    ).double()
    graph = attribution_graph(model, {made.reads[0]: made}, tokens, progress=False)
    x = values_at(model, [made.reads[0]], tokens)[made.reads[0]]
    active = [(1, *pair) for pair in made.encode(x).nonzero().tolist()]
    assert [tuple(row) for row in graph.features.tolist()] == active and active
    values = made.pre_activation(x)[graph.features[:, 1], graph.features[:, 2]]
    total = dense(graph).sum(1)[graph.targets] + graph.biases
    torch.testing.assert_close(total[: len(values)], values.detach(), rtol=0, atol=1e-12)


def test_a_skip_term_is_part_of_the_map_and_not_of_the_error():
    """A transcoder that is nothing but a skip term, of an MLP that is linear: no error, and paths run through it."""
    model, tokens = tiny("gpt2").double(), some_tokens(1, 5)[0]
    mlp = model.transformer.h[0].mlp
    mlp.act = torch.nn.Identity()
    made = transcoder(
        ReLUDictionary, mlp_input(model, 0), blocks(model)[0].mlp, width_in=16, width=16, features=4, skip=True
    ).double()
    with torch.no_grad():
        made.W_skip.copy_(mlp.c_fc.weight @ mlp.c_proj.weight)
        made.b_dec.copy_(mlp.c_fc.bias @ mlp.c_proj.weight + mlp.c_proj.bias)
        made.b_enc.fill_(-1e3)
    graph = attribution_graph(model, {made.reads[0]: made}, tokens, progress=False)
    without = attribution_graph(model, {}, tokens, progress=False)
    errors = [graph.error(0, position) for position in range(5)]
    assert dense(graph)[:, errors].abs().max() < 1e-12 < 1e-2 < dense(without)[:, errors].abs().max()
    last = [graph.first_token + 4]
    assert (dense(graph)[graph.targets][:, last] - dense(without)[without.targets][:, last]).abs().max() > 1e-2
    torch.testing.assert_close(dense(graph).sum(1)[graph.targets] + graph.biases, graph.values)


def planted() -> tuple[GPT2LMHeadModel, dict, torch.Tensor]:
    """Token 1 -> feature 2 of block 0 -> (attention of block 1) -> feature 5 of block 1 -> token 3, and a distractor.

    The MLPs are their own transcoders. Directions are differences of two coordinates, which LayerNorm's mean leaves be.
    """
    config = GPT2Config(
        vocab_size=6, n_positions=8, n_embd=16, n_layer=2, n_head=1, n_inner=8, activation_function="relu",
        tie_word_embeddings=False, resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0, bos_token_id=0, eos_token_id=0,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).double().eval().requires_grad_(False)
    for name, parameter in model.named_parameters():
        parameter.fill_(1.0 if "ln_" in name and name.endswith("weight") else 0.0)
    d = torch.zeros(8, 16, dtype=torch.float64)
    d[torch.arange(8), 2 * torch.arange(8)], d[torch.arange(8), 2 * torch.arange(8) + 1] = 0.5**0.5, -(0.5**0.5)
    first, second = model.transformer.h
    model.transformer.wte.weight.copy_(d[7].expand(6, -1))
    model.transformer.wte.weight[1] = d[0]

    def feature(mlp, number, reads, writes, size):
        mlp.c_fc.weight[:, number], mlp.c_fc.bias[number] = reads, -0.05
        mlp.c_proj.weight[number] = size * writes

    feature(first.mlp, 2, d[0], d[1], 1.0)
    feature(first.mlp, 4, d[7], d[6], 1.0)  # on at every other token, and read by nothing
    second.attn.c_attn.weight[:, 32:] = 4 * torch.outer(d[1], d[2])
    second.attn.c_proj.weight.copy_(torch.eye(16, dtype=torch.float64))
    feature(second.mlp, 5, d[2], d[3], 3.0)
    model.lm_head.weight[3] = 20 * d[3]
    transcoders = {}
    for i, block in enumerate(blocks(model)):
        mlp = model.transformer.h[i].mlp
        made = ReLUDictionary(ReLUConfig(16, 8, width_in=16, center=False), [mlp_input(model, i)], [block.mlp]).double()
        made.requires_grad_(False)
        made.W_enc.copy_(mlp.c_fc.weight.T)
        made.b_enc.copy_(mlp.c_fc.bias)
        made.W_dec.copy_(mlp.c_proj.weight)
        transcoders[made.reads[0]] = made
    return model, transcoders, torch.tensor([0, 1, 4, 2, 5])


def test_the_planted_path_is_found_and_nothing_else():
    model, transcoders, tokens = planted()
    graph = attribution_graph(model, transcoders, tokens, progress=False)
    assert graph.logit_tokens.tolist() == [3] and graph.logit_probabilities[0] > 0.95
    names = {tuple(row): i for i, row in enumerate(graph.features.tolist())}
    cause, relay = names[0, 1, 2], names[1, 4, 5]
    assert {(0, position, 4) for position in (0, 2, 3, 4)} < names.keys()  # the distractor is active
    kept = prune(graph)
    token, logit = graph.first_token + 1, graph.first_logit
    ends = torch.stack([graph.edges.targets, graph.edges.sources], 1)[kept.edges].tolist()
    assert sorted(ends) == sorted([[cause, token], [relay, cause], [logit, relay]])
    assert kept.nodes[: graph.first_token].nonzero().flatten().tolist() == [cause, relay]
    found = scores(graph)
    assert found.replacement == pytest.approx(1) and found.completeness == pytest.approx(1)
    # one fifth of the attention, the decoder, the value weight and the norms on the way, by hand
    rms = [
        float(torch.sqrt(x.var(unbiased=False) + 1e-5))
        for x in (
            values_at(model, [s], tokens)[s][p]
            for s, p in ((find_site(model, "resid_0"), 1), (find_site(model, "resid_mid_1"), 4))
        )
    ]
    by_hand = float(graph.activations[cause]) / rms[0] * 4 / 5 / rms[1]
    assert float(dense(graph)[relay, cause]) == pytest.approx(by_hand, rel=1e-9)


def test_the_most_influential_features_are_kept_and_the_rest_is_error():
    setup = case("llama")
    whole, cut = graph_of(setup), graph_of(setup, max_features=20, batch_size=2)
    assert len(cut.features) == 20 and cut.provenance["active_features"] == len(whole.features)
    number = {tuple(row): i for i, row in enumerate(whole.features.tolist())}
    same = [number[tuple(row)] for row in cut.features.tolist()]
    rows = [*same, *range(whole.first_logit, len(whole))]
    all_edges, edges = dense(whole)[rows], dense(cut)[cut.targets]
    torch.testing.assert_close(edges[:, :20], all_edges[:, same])
    for block in range(3):
        for position in range(5):
            left_out = [i for row, i in number.items() if row[:2] == (block, position) and i not in same]
            wanted = all_edges[:, [*left_out, whole.error(block, position)]].sum(1)
            torch.testing.assert_close(edges[:, cut.error(block, position)], wanted)
    influence = prune(whole).influence[: len(whole.features)]
    assert influence[same].sum() > 2 * influence.topk(20, largest=False).values.sum()
    assert influence[same].sum() > 0.8 * influence.topk(20).values.sum()
    assert scores(cut).replacement < scores(whole).replacement


def test_transcoders_may_be_loaded_one_at_a_time(tmp_path):
    """From a DictionarySet that has room for one of them."""
    model, tokens = tiny("llama"), some_tokens(1, 5)[0]
    made = {}
    for i, block in enumerate(blocks(model)):
        reads = find_site(model, f"resid_mid_{i}")
        shape = {"width_in": 16, "width": 16, "features": 12, "seed": i}
        made[reads] = transcoder(ReLUDictionary, reads, block.mlp, **shape).requires_grad_(False)
        save_dictionary(made[reads], tmp_path / f"mlp_{i}")
    one_at_a_time = DictionarySet(tmp_path, model=model, budget_bytes=2000)
    one, two = (attribution_graph(model, t, tokens, progress=False) for t in (one_at_a_time, made))
    assert torch.equal(dense(one), dense(two)) and len(one.features) > 0
    assert one.provenance == two.provenance


def test_batches_change_nothing():
    setup = case("neox parallel")
    one, many = graph_of(setup, batch_size=1), graph_of(setup, batch_size=1000)
    assert torch.equal(one.features, many.features)
    torch.testing.assert_close(dense(one), dense(many), rtol=0, atol=1e-12)


def test_logits_are_the_fewest_that_reach_the_probability():
    setup = case("gpt2")
    p = setup.model(setup.tokens[None]).logits[0, -1].softmax(-1).sort(descending=True)
    graph = graph_of(setup, max_logits=97, probability=0.3)
    count = len(graph.logit_tokens)
    assert graph.logit_tokens.tolist() == p.indices[:count].tolist()
    assert p.values[:count].sum() >= 0.3 > p.values[: count - 1].sum()
    torch.testing.assert_close(graph.logit_probabilities, p.values[:count])
    assert len(graph_of(setup, max_logits=4, probability=1.0).logit_tokens) == 4


def test_a_prompt_of_one_token():
    setup = case("gemma2", length=1)
    graph = graph_of(setup)
    torch.testing.assert_close(dense(graph).sum(1)[graph.targets] + graph.biases, graph.values)


def test_a_saved_graph_is_the_same(tmp_path):
    setup = case("llama")
    graph = graph_of(setup, max_features=30)
    graph.save(tmp_path / "graph")
    loaded = AttributionGraph.load(tmp_path / "graph")
    for name, value in vars(graph).items():
        other = getattr(loaded, name)
        if name == "edges":
            assert all(torch.equal(x, y) for x, y in zip(vars(value).values(), vars(other).values(), strict=True))
        else:
            assert torch.equal(value, other) if isinstance(value, torch.Tensor) else value == other
    other = attribution_graph(tiny("llama").double(), {}, setup.tokens, progress=False)
    assert other.provenance["model"]["weights"] != graph.provenance["model"]["weights"]


def test_damaged_folders_are_refused(tmp_path):
    folder = tmp_path / "graph"
    graph_of(case("gpt2")).save(folder)
    with pytest.raises(FileError, match="no such file"):
        AttributionGraph.load(tmp_path / "elsewhere")
    whole = load_file(folder / "graph.safetensors")
    for change, message in (
        ({"activations": whole["activations"][:-1]}, "activations has shape"),
        ({"weights": whole["weights"][:-1]}, "has shape"),
        ({"sources": whole["sources"] + 10_000}, "sources of edges go from"),
    ):
        save_file({**whole, **change}, folder / "graph.safetensors")
        with pytest.raises(FileError, match=f"graph: not a whole attribution graph .*{message}"):
            AttributionGraph.load(folder)
    save_file({k: v for k, v in whole.items() if k != "biases"}, folder / "graph.safetensors")
    with pytest.raises(FileError, match="biases"):
        AttributionGraph.load(folder)
    write_json(folder / "manifest.json", {**read_json(folder / "manifest.json"), "format": "kibitz-circuit-1"})
    with pytest.raises(FileError, match="format 'kibitz-circuit-1'"):
        AttributionGraph.load(folder)


def test_wrong_dictionaries_are_refused_in_one_sentence():
    model, tokens = tiny("gpt2").double(), some_tokens(1, 4)[0]
    mlp, resid, read = blocks(model)[0].mlp, blocks(model)[0].resid, mlp_input(model, 0)

    def of(reads, writes, width_in=16, width=16, dtype=torch.float64):
        shape = ReLUConfig(width, 4, width_in=width_in, center=False)
        return ReLUDictionary(shape, reads, writes).to(dtype)

    crosscoder = CrosscoderDictionary(
        CrosscoderDictionary.config_type(32, 4, widths=(16, 16)), [mlp, resid], [mlp, resid]
    ).double()
    for made, message in (
        (of([mlp], [mlp]), "mlp_0 is an autoencoder: attribution graphs need transcoders"),
        (crosscoder, "from mlp_0, resid_0 to mlp_0, resid_0: a transcoder reads one site and writes one MLP"),
        (of([read], [resid]), "writes resid_0, which is no MLP: it has to be one of mlp_0 to mlp_1"),
        (of([resid], [mlp]), "mlp_0 reads resid_0, which is not there before that MLP has run"),
        (of([read], [mlp], width=20), "writes width 20 and the site has 16"),
        (of([read], [mlp], dtype=torch.float32), "is in torch.float32 on cpu, the model in torch.float64 on cpu"),
    ):
        with pytest.raises(GraphError, match=message):
            attribution_graph(model, {made.reads[0]: made}, tokens, progress=False)
    with pytest.raises(SiteError, match="activations have width 16, the dictionary 20"):
        attribution_graph(model, {read: of([read], [mlp], width_in=20)}, tokens, progress=False)
    with pytest.raises(GraphError, match="two transcoders write mlp_0"):
        attribution_graph(model, {read: of([read], [mlp]), resid: of([read], [mlp])}, tokens, progress=False)


def test_wrong_prompts_and_settings_are_refused_in_one_sentence():
    model = tiny("gpt2")
    for tokens, message in (
        (torch.zeros(0, dtype=torch.long), r"shape \[0\] and dtype torch.int64: give one row of at least one token"),
        (torch.zeros(2, 3, dtype=torch.long), r"shape \[2, 3\]"),
        (torch.tensor([3, 97]), "token ids go from 3 to 97; the model has 0 to 96"),
        (torch.tensor([3, -1]), "token ids go from -1 to 3"),
    ):
        with pytest.raises(GraphError, match=message):
            attribution_graph(model, {}, tokens, progress=False)
    with pytest.raises(GraphError, match="training mode"):
        attribution_graph(tiny("gpt2").train(), {}, torch.tensor([1]), progress=False)
    for name, value in (("max_features", 0), ("max_logits", 0), ("batch_size", 0), ("probability", 0.0)):
        with pytest.raises(ValueError, match=f"{name} is {value}"):
            GraphConfig(**{name: value})


def test_a_transcoder_of_another_tool_is_known_by_its_sites_names():
    """Its module paths are that tool's; the model has a site of that name."""
    setup = case("gpt2")
    block = blocks(setup.model)[0]
    shape = {"width_in": 16, "width": 16, "features": 12}
    foreign = transcoder(
        ReLUDictionary,
        replace(find_site(setup.model, "resid_mid_0"), module="blocks.0.hook_resid_mid"),
        replace(block.mlp, module="blocks.0.hook_mlp_out"),
        **shape,
    ).double()
    own = transcoder(ReLUDictionary, find_site(setup.model, "resid_mid_0"), block.mlp, **shape).double()
    one, two = (attribution_graph(setup.model, {d.reads[0]: d}, setup.tokens, progress=False) for d in (foreign, own))
    assert torch.equal(dense(one), dense(two)) and len(one.features) > 0
    assert transcoders_for(setup.model).keys() != {foreign.reads[0]}
