"""Edges against finite differences of the real model, and against the node effects they have to add up to."""

import pytest
import torch

from circuits import vjp
from circuits.attribution import node_effects
from circuits.edges import Chosen, edge_effects
from circuits.feature_acts import states_of
from circuits.frozen import Recording, Replaying
from circuits.metrics import LogitDifference
from saes.families import blocks
from saes.sites import capture, intervene
from tests.circuits.small import dictionaries_for, pairs, small_model


@pytest.fixture(scope="module")
def case():
    model, examples = small_model(), pairs()
    dictionaries = dictionaries_for(model)
    nodes = node_effects(model, dictionaries, examples, LogitDifference(), steps=3)
    return model, examples, dictionaries, nodes, {s: Chosen.every(d.features) for s, d in dictionaries.items()}


def test_edges_into_a_residual_node_add_up_to_its_effect(case):
    """The stream is a sum, so with secant slopes this is an identity, for features and for error nodes."""
    model, examples, dictionaries, nodes, every = case
    edges = edge_effects(model, dictionaries, examples, nodes, every)
    for block in blocks(model):
        total = sum(edges[up, block.resid].sum(1) for up in (block.before, block.attn, block.mlp))
        effect = nodes[block.resid].dense(24).sum_positions().mean_examples().joined()
        assert effect.abs().max() > 1e-3
        torch.testing.assert_close(total, effect, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("path", ["before->attn", "before->mlp", "attn->mlp"])
def test_edges_through_attention_and_mlp_equal_finite_differences(case, path):
    """Move one upstream node a little along its change, hold the sites in between, watch the downstream site."""
    model, examples, dictionaries, _, every = case
    nodes = node_effects(model, dictionaries, examples, LogitDifference(), steps=3, slope="clean")
    edges = edge_effects(model, dictionaries, examples, nodes, every)
    block = blocks(model)[1]
    up, down = ({"before": block.before, "attn": block.attn, "mlp": block.mlp}[end] for end in path.split("->"))
    tokens, eps = examples.clean, 1e-6
    with capture(model, [up, block.attn, down], stop_after=False) as clean:
        model(input_ids=tokens)
    dictionary = dictionaries[down]
    patch = states_of(model, {up: dictionaries[up]}, examples.patch)[up]
    change = patch - states_of(model, {up: dictionaries[up]}, examples.clean)[up]
    strongest = int(edges[up, down][:, :-1].abs().sum(0).argmax())
    directions = {
        strongest: change.acts[..., strongest, None] * dictionaries[up].W_dec[strongest],
        dictionaries[up].features: change.error,
    }
    for column, direction in directions.items():

        def site_when_moved(sign, direction=direction):
            edits = {up: lambda x: x + sign * eps * direction}
            if path == "before->mlp":
                edits[block.attn] = lambda _: clean[block.attn]
            with intervene(model, edits), capture(model, [down]) as values:
                model(input_ids=tokens)
            return values[down]

        moved = (site_when_moved(1) - site_when_moved(-1)) / (2 * eps)
        f = dictionary.encode(clean[down] + eps * moved) - dictionary.encode(clean[down] - eps * moved)
        f /= 2 * eps
        gradient = nodes[down].gradient
        expected = torch.cat(
            [
                ((gradient @ dictionary.W_dec.T) * f).sum(1).mean(0),
                (gradient * (moved - f @ dictionary.W_dec)).sum(-1).sum(1).mean()[None],
            ]
        )
        assert expected.abs().max() > 1e-4
        torch.testing.assert_close(edges[up, down][:, column], expected, rtol=1e-5, atol=1e-7)


def test_on_the_path_edges_into_attention_and_mlp_nodes_add_up_too(case, monkeypatch):
    """The mean derivative of a module over the line times the line is what the module's output gains."""
    model, examples, dictionaries, nodes, every = case
    missed = {}
    for derivative, points in (("full", 1), ("path", 1), ("path", 4), ("path", 16)):
        monkeypatch.setattr(vjp, "POINTS", points)
        edges = edge_effects(model, dictionaries, examples, nodes, every, derivative=derivative)
        for block in blocks(model):
            for down, writers in ((block.attn, [block.before]), (block.mlp, [block.attn, block.before])):
                total = sum(edges[up, down].sum(1) for up in writers)
                effect = nodes[down].dense(24).sum_positions().mean_examples().joined()
                assert effect.abs().max() > 1e-3
                missed[derivative, points, down.name] = float((total - effect).abs().max() / effect.abs().max())
    for site in ("attn_0", "mlp_0", "attn_1", "mlp_1"):
        full, one, four, many = (
            missed[way, points, site] for way, points in (("full", 1), ("path", 1), ("path", 4), ("path", 16))
        )
        assert many < 1e-2 * full and many < four < one, site  # midpoints: the miss falls as their number squared
        assert many < 5e-3


@pytest.mark.parametrize("end", ["attn", "mlp"])
def test_frozen_edges_are_exact_where_patterns_and_scales_are_held(case, end):
    """Attention is then affine: a whole move gives the edge, whatever its size. MLPs keep their activation function."""
    model, examples, dictionaries, _, every = case
    nodes = node_effects(model, dictionaries, examples, LogitDifference(), steps=3, slope="clean")
    frozen = edge_effects(model, dictionaries, examples, nodes, every, derivative="frozen")
    full = edge_effects(model, dictionaries, examples, nodes, every)
    block = blocks(model)[1]
    up, down = block.before, getattr(block, end)
    assert (frozen[up, down] - full[up, down]).abs().max() > 1e-3 * full[up, down].abs().max()
    torch.testing.assert_close(frozen[up, block.resid], full[up, block.resid])  # nothing to hold in between
    record, tokens, size = [], examples.clean, 1.0 if end == "attn" else 1e-6
    with Recording(record), capture(model, [up, block.attn, down], stop_after=False) as clean:
        model(input_ids=tokens)
    column = int(frozen[up, down][:, :-1].abs().sum(0).argmax())
    states = [states_of(model, {up: dictionaries[up]}, t)[up] for t in (examples.clean, examples.patch)]
    step = (states[1] - states[0]).acts[..., column, None] * dictionaries[up].W_dec[column]

    def moved(sign):
        edits = {up: lambda x: x + sign * size * step}
        if end == "mlp":
            edits[block.attn] = lambda _: clean[block.attn]
        with Replaying(record), intervene(model, edits), capture(model, [down]) as values:
            model(input_ids=tokens)
        return values[down]

    change = (moved(1) - moved(-1)) / (2 * size)
    dictionary, gradient = dictionaries[down], nodes[down].gradient
    slope = dictionary.activation_slope(dictionary.pre_activation(clean[down]))
    features = slope * (change @ dictionary.encoder_rows(torch.arange(24)).T)
    expected = ((gradient @ dictionary.W_dec.T) * features).sum(1).mean(0)
    torch.testing.assert_close(frozen[up, down][:-1, column], expected, rtol=1e-6, atol=1e-9)


def test_chosen_nodes_give_the_same_numbers_as_all(case):
    model, examples, dictionaries, nodes, every = case
    whole = edge_effects(model, dictionaries, examples, nodes, every)
    few = {
        s: Chosen(torch.tensor([2, 5, 11]), torch.zeros(3, dtype=torch.long), torch.zeros(0, dtype=torch.long))
        for s in every
    }
    for (up, down), matrix in edge_effects(model, dictionaries, examples, nodes, few).items():
        assert matrix.abs().max() > 0 or up.name == "embed"
        torch.testing.assert_close(matrix, whole[up, down][[2, 5, 11]][:, [2, 5, 11]])
