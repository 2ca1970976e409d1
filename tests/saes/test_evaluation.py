"""Quality of dictionaries whose scores are known beforehand, and one against a plain recomputation."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.corpus import Corpus, Layout
from saes.dictionary import IdentityDictionary
from saes.evaluation import evaluate
from saes.families import find_site
from saes.harvest import harvest
from saes.sites import capture
from saes.sources import TokenSource
from tests.saes.models_for_tests import hook_count, some_tokens, tiny


@pytest.fixture
def setting():
    model, tokens = tiny("gpt2"), some_tokens(rows=10)
    mask = torch.arange(9).expand(10, 9) < torch.tensor([9, 9, 4, 7, 9, 9, 9, 2, 9, 9])[:, None]
    return model, tokens, mask


def corpus_of(**options) -> Corpus:
    """Documents of one to nine tokens from 2 on, in packed rows of 12."""
    rng = np.random.default_rng(0)
    tokens = np.zeros((60, 9), np.int64)
    for row, length in zip(tokens, rng.integers(1, 10, 60), strict=True):
        row[:length] = rng.integers(2, 97, length)
    return Corpus(TokenSource(tokens, pad=0), Layout(12, bos_id=1, **options), 97)


def constant(site, value: torch.Tensor) -> ReLUDictionary:
    """A dictionary that never fires and always writes `value`."""
    dictionary = ReLUDictionary(ReLUConfig(width=16, features=8), [site]).requires_grad_(False)
    dictionary.b_enc.fill_(-1e6)
    dictionary.b_dec.copy_(value)
    return dictionary


@pytest.mark.parametrize("name", ["resid_0", "attn_1", "mlp_0"])
def test_a_perfect_dictionary(setting, name):
    model, tokens, mask = setting
    quality = evaluate(model, IdentityDictionary(find_site(model, name), 16), tokens, mask)
    assert quality.tokens == int(mask.sum())
    assert quality.variance_explained == 1
    assert quality.loss_recovered == pytest.approx(1, abs=1e-9)
    assert quality.loss_recovered_mean == pytest.approx(1, abs=1e-9)
    assert quality.loss_reconstructed == quality.loss_original
    assert (quality.l0, quality.alive) == (16, 1)


def test_a_dictionary_that_writes_zeros_recovers_nothing(setting):
    model, tokens, mask = setting
    site = find_site(model, "resid_0")
    quality = evaluate(model, constant(site, torch.zeros(16)), tokens, mask)
    assert quality.loss_recovered == pytest.approx(0, abs=1e-9)
    assert quality.loss_reconstructed == quality.loss_zero
    assert quality.variance_explained <= 0
    assert (quality.l0, quality.alive) == (0, 0)


def test_a_dictionary_that_writes_the_mean_explains_nothing(setting):
    model, tokens, mask = setting
    site = find_site(model, "resid_0")
    mean = torch.cat([v[site][mask] for v in harvest(model, tokens, [site])]).double().mean(0).float()
    quality = evaluate(model, constant(site, mean), tokens, mask)
    assert quality.variance_explained == pytest.approx(0, abs=1e-6)
    assert quality.loss_recovered_mean == pytest.approx(0, abs=1e-6)
    assert quality.loss_mean == pytest.approx(quality.loss_reconstructed, abs=1e-6)
    assert quality.loss_mean != pytest.approx(quality.loss_zero, abs=1e-3)


def test_all_numbers_equal_a_plain_recomputation(setting):
    model, tokens, mask = setting
    site = find_site(model, "resid_0")
    dictionary = ReLUDictionary(ReLUConfig(width=16, features=24), [site]).requires_grad_(False)
    dictionary.b_enc.copy_(torch.linspace(-40, 1, 24))
    with capture(model, [site]) as values:
        model(input_ids=tokens, use_cache=False)
    x = values[site]
    f, error, whole, count = [], 0.0, 0.0, 0
    mean = x[mask].mean(0)
    for row, keep in zip(x, mask, strict=True):
        for vector, valid in zip(row, keep, strict=True):
            if valid:
                f.append(dictionary.encode(vector))
                error += float((vector - dictionary.decode(f[-1])).square().sum())
                whole += float((vector - mean).square().sum())
                count += 1
    fired = torch.stack(f) > 0
    assert 0 < fired.any(0).sum() < 24

    def loss(replacement):
        # the rest of the model, run on its own modules: block 1, final norm, head
        hidden = model.transformer.ln_f(model.transformer.h[1](replacement))
        log_p = model.lm_head(hidden[0] if isinstance(hidden, tuple) else hidden).log_softmax(-1)
        picked = [-float(log_p[r, t - 1, tokens[r, t]]) for r in range(10) for t in range(1, 9) if mask[r, t]]
        return sum(picked) / len(picked)

    losses = [loss(v) for v in (x, dictionary.decode(dictionary.encode(x)), torch.zeros_like(x), mean.expand_as(x))]
    quality = evaluate(model, dictionary, tokens, mask)
    assert quality.tokens == count
    assert quality.l0 == pytest.approx(float(fired.float().sum(1).mean()))
    assert quality.alive == pytest.approx(float(fired.any(0).float().mean()))
    assert quality.variance_explained == pytest.approx(1 - error / whole, rel=1e-4)
    found = (quality.loss_original, quality.loss_reconstructed, quality.loss_zero, quality.loss_mean)
    assert found == pytest.approx(losses, rel=1e-4)
    assert quality.loss_recovered == pytest.approx((losses[2] - losses[1]) / (losses[2] - losses[0]), rel=1e-3)
    assert quality.loss_recovered_mean == pytest.approx((losses[3] - losses[1]) / (losses[3] - losses[0]), rel=1e-3)
    in_parts = evaluate(model, dictionary, tokens, mask, batch_size=3)
    for name in ("variance_explained", "loss_recovered", "l0", "alive"):
        assert getattr(in_parts, name) == pytest.approx(getattr(quality, name), rel=1e-4)
    assert hook_count(model) == 0


def test_loss_agrees_with_transformers(setting):
    model, tokens, _ = setting
    mask = torch.ones_like(tokens, dtype=torch.bool)
    expected = float(model(input_ids=tokens, labels=tokens, use_cache=False).loss)
    identity = IdentityDictionary(find_site(model, "resid_1"), 16)
    assert evaluate(model, identity, tokens, mask).loss_original == pytest.approx(expected, rel=1e-5)


def test_masked_positions_count_for_nothing(setting):
    model, tokens, mask = setting
    site = find_site(model, "mlp_1")
    dictionary = ReLUDictionary(ReLUConfig(width=16, features=24), [site]).requires_grad_(False)
    changed = torch.where(mask, tokens, (tokens + 1) % 97)  # the mask cuts tails, so nothing valid can see these
    a, b = evaluate(model, dictionary, tokens, mask), evaluate(model, dictionary, changed, mask)
    assert replace(a) == replace(b)
