"""Behaviours: contexts that are predicted well, what represents them, and clusters against planted groups."""

import numpy as np
import pytest
import torch

from circuits.behaviours import Contexts, normalised, predicted_contexts, projected_gradients, represent
from circuits.clusters import ClusterError, agreement, cluster
from circuits.examples import Examples
from circuits.feature_acts import states_of
from circuits.metrics import LogProbability, measure
from saes.samples import in_batches
from tests.circuits.small import dictionaries_for, small_model


@pytest.fixture(scope="module")
def model():
    return small_model()


def some_contexts(count: int = 6, length: int = 5) -> Contexts:
    generator = torch.Generator().manual_seed(3)
    clean = torch.randint(23, (count, length), generator=generator)
    lengths = torch.tensor([length - i % 3 for i in range(count)])
    answer = torch.randint(23, (count,), generator=generator)
    examples = Examples(clean, None, lengths - 1, {"answer": answer}, lengths)
    return Contexts(examples, np.zeros(count), np.arange(count))


def test_contexts_are_predicted_as_well_as_asked(model):
    tokens = torch.randint(23, (40, 8), generator=torch.Generator().manual_seed(0))
    mask = torch.ones(40, 8, dtype=torch.bool)
    mask[:, 6:] = False
    batches = in_batches(tokens, mask, batch_rows=7)
    found = predicted_contexts(model, batches, count=15, max_loss=2.5, shortest=2, progress=False)
    assert 5 < len(found) <= 15 and len(set(found.row)) == len(found)
    for i in range(len(found)):
        position, row = int(found.examples.position[i]), tokens[found.row[i]]
        assert 1 <= position <= 4  # the token after it is inside the mask
        assert torch.equal(found.examples.clean[i, : position + 1], row[: position + 1])
        assert int(found.examples.fields["answer"][i]) == int(row[position + 1])
        logits = model(input_ids=row[None, : position + 1]).logits[0, -1]
        loss = -float(logits.log_softmax(-1)[row[position + 1]])
        assert loss <= 2.5 and loss == pytest.approx(found.loss[i], abs=1e-5)
    with pytest.raises(ValueError, match=r"loss of 1e-06 nats"):
        predicted_contexts(model, batches, count=5, max_loss=1e-6, progress=False)


@pytest.mark.parametrize("positions", ["last", "all"])
def test_activations_are_those_of_the_dictionaries(model, positions):
    dictionaries, contexts = dictionaries_for(model), some_contexts()
    rows = represent(model, dictionaries, contexts, "activations", positions=positions, batch_size=4, progress=False)
    states = states_of(model, dictionaries, contexts.examples.clean)
    every = torch.cat([states[site].acts for site in dictionaries], -1)
    if positions == "last":
        expected = every[torch.arange(len(contexts)), contexts.examples.position]
    else:
        expected = (every * contexts.examples.mask()[..., None]).sum(1)
    np.testing.assert_allclose(rows.toarray(), (expected / expected.norm(dim=1, keepdim=True)).numpy(), atol=1e-12)


def test_effects_are_activation_times_gradient(model):
    dictionaries = dictionaries_for(model)
    contexts = some_contexts(4)
    rows = represent(model, dictionaries, contexts, "effects", positions="all", progress=False).toarray()
    site = list(dictionaries)[-1]
    x = states_of(model, dictionaries, contexts.examples.clean)[site]
    leaf = x.compose(dictionaries[site]).requires_grad_()
    value = measure(model, LogProbability(), contexts.examples.clean, contexts.examples, {site: lambda _: leaf})
    (gradient,) = torch.autograd.grad(value.sum(), leaf)
    expected = (x.acts * (gradient @ dictionaries[site].W_dec.T)).sum(1)
    ours = torch.from_numpy(rows[:, -24:])
    assert expected.abs().max() > 1e-3
    torch.testing.assert_close(
        ours / ours.norm(dim=1, keepdim=True), expected / expected.norm(dim=1, keepdim=True), rtol=1e-9, atol=1e-12
    )


def test_projections_keep_inner_products_of_gradients(model):
    contexts = some_contexts(4)
    before = [p.requires_grad for p in model.parameters()]
    rows = projected_gradients(model, contexts, 300_000, progress=False)
    assert [p.requires_grad for p in model.parameters()] == before
    weights = [p for n, p in model.named_parameters() if p.dim() > 1 and "wte" not in n and "lm_head" not in n]
    exact = []
    for i in range(4):
        one = contexts.examples.take(torch.tensor([i]))
        for weight in weights:
            weight.requires_grad_(True)
        loss = -measure(model, LogProbability(), one.clean[:, : int(one.ends)], one).sum()
        exact.append(torch.cat([g.flatten() for g in torch.autograd.grad(loss, weights)]))
        model.requires_grad_(False)
    exact = torch.stack(exact).numpy()
    scale = np.linalg.norm(exact, axis=1)
    np.testing.assert_allclose(
        rows @ rows.T / np.outer(scale, scale), exact @ exact.T / np.outer(scale, scale), atol=0.05
    )


@pytest.mark.parametrize("how", ["spectral", "kmeans"])
def test_planted_groups_are_found(how):
    random = np.random.default_rng(0)
    truth = np.repeat([0, 1, 2], [30, 20, 10])
    rows = np.zeros((60, 50))
    for i, group in enumerate(truth):
        rows[i, group * 10 : group * 10 + 10] = random.random(10) + 0.2
        rows[i, 30 + random.integers(20, size=3)] = 0.2
    found = cluster(normalised(rows), 3, how)
    assert agreement(found.label, truth) == pytest.approx(1)
    assert [len(found.members(c)) for c in range(3)] == [30, 20, 10]  # the largest first
    members = found.members(0)
    assert (np.diff(found.centrality[members]) <= 0).all()
    assert agreement(found.label, random.permutation(truth)) < 0.2


def test_what_cannot_be_clustered_is_told():
    rows = normalised(np.eye(4))
    with pytest.raises(ClusterError, match="9 clusters of 4 contexts"):
        cluster(rows, 9)
    with pytest.raises(ClusterError, match="1 of 4 contexts have no active feature"):
        cluster(normalised(np.diag([1.0, 1, 1, 0])), 2)
