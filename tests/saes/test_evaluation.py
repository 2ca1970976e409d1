"""Quality of dictionaries whose scores are known beforehand, and one against a plain recomputation."""

import json
from dataclasses import asdict, replace

import numpy as np
import pytest
import torch

from saes.architectures import (
    CrosscoderConfig,
    CrosscoderDictionary,
    ReLUConfig,
    ReLUDictionary,
    TopKDictionary,
    transcoder,
)
from saes.corpus import Corpus, Layout
from saes.densities import cosine_histogram, frequency_histogram, nearest_rows
from saes.dictionary import IdentityDictionary
from saes.estimates import RowSums
from saes.evaluation import EvaluationError, evaluate, evaluate_all
from saes.families import find_site
from saes.harvest import harvest
from saes.saebench import core_result
from saes.samples import Sample, in_batches
from saes.sites import Site, SiteError, capture, intervene
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


def sparse(site, seed: int = 0, shift: float = 0.0) -> ReLUDictionary:
    """A dictionary with random encoder, some features silent and some dense."""
    dictionary = ReLUDictionary(ReLUConfig(width=16, features=24), [site], seed=seed).requires_grad_(False)
    dictionary.b_enc.copy_(torch.linspace(-12, 1, 24) + shift)
    dictionary.b_enc[0] = -1e6
    return dictionary


def numbers(evaluation) -> dict[str, float]:
    """All of it as one flat table, per-feature counts too."""
    q, counts = asdict(evaluation.quality), evaluation.features
    flat = {k: v for k, v in q.items() if k != "standard_errors"}
    flat |= {f"se {k}": v for k, v in q["standard_errors"].items()}
    for name in ("fires", "rows", "maxima"):
        flat |= {f"{name} {i}": float(v) for i, v in enumerate(getattr(counts, name))}
    return flat


def mixed(model) -> list:
    """Dictionaries of several sites and architectures, a transcoder with a skip term and a crosscoder among them."""
    a, b, c = (find_site(model, name) for name in ("resid_0", "mlp_1", "resid_mid_1"))
    skip = transcoder(TopKDictionary, c, b, width_in=16, width=16, features=20, k=3, skip=True, seed=1)
    skip.requires_grad_(False).W_skip.copy_(0.1 * torch.eye(16))
    cross = CrosscoderDictionary(CrosscoderConfig(32, 20, widths=(16, 16)), [a, b], seed=2).requires_grad_(False)
    return [sparse(a), sparse(a, 3, 4.0), sparse(b, 1), skip, cross, IdentityDictionary(b, 16)]


def test_many_together_equal_each_alone(setting):
    model, tokens, mask = setting
    dictionaries, batches = mixed(model), in_batches(tokens, mask, 4)
    together = evaluate_all(model, dictionaries, batches)
    for dictionary, found in zip(dictionaries, together, strict=True):
        (alone,) = evaluate_all(model, [dictionary], batches)
        assert numbers(found) == pytest.approx(numbers(alone), rel=1e-9, abs=1e-12, nan_ok=True)
    (batched,) = evaluate_all(model, dictionaries[:1], in_batches(tokens, mask, 1))
    assert numbers(batched) == pytest.approx(numbers(together[0]), rel=1e-3, abs=1e-5)
    assert hook_count(model) == 0


def test_features_encoded_in_parts_change_nothing(setting, monkeypatch):
    model, tokens, mask = setting
    dictionaries, batches = mixed(model), in_batches(tokens, mask)
    whole = evaluate_all(model, dictionaries, batches)
    monkeypatch.setattr("saes.evaluation._CHUNK", 24 * 20)
    monkeypatch.setattr("saes.passes._CHUNK", 97 * 7)
    for a, b in zip(whole, evaluate_all(model, dictionaries, batches), strict=True):
        assert numbers(a) == pytest.approx(numbers(b), rel=1e-4, abs=1e-6)


def test_one_pass_for_all_and_two_for_each_site(setting):
    """Passes with the head: one clean, two for each set of written sites, one for each dictionary."""
    model, tokens, mask = setting
    count = {"embed": 0, "head": 0}
    handles = [
        model.transformer.wte.register_forward_hook(lambda *_: count.__setitem__("embed", count["embed"] + 1)),
        model.lm_head.register_forward_hook(lambda *_: count.__setitem__("head", count["head"] + 1)),
    ]
    evaluate_all(model, mixed(model), in_batches(tokens, mask, 5))  # two batches, writing a, b, and both
    for handle in handles:
        handle.remove()
    assert count == {"embed": 2 * (1 + 1 + 2 * 3 + 6), "head": 2 * (1 + 2 * 3 + 6)}


def test_a_transcoder_against_the_rest_of_the_model(setting):
    """Its written site is replaced by what it makes of the site that it reads."""
    model, tokens, mask = setting
    dictionary = mixed(model)[3]
    (read,), (write,) = dictionary.reads, dictionary.writes
    with capture(model, [read, write]) as values:
        model(input_ids=tokens, use_cache=False)
    wanted = dictionary.reconstruct(values[read])
    with torch.no_grad(), intervene(model, {write: lambda x: wanted}):
        new = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(-1)
    old = model(input_ids=tokens, use_cache=False).logits.double().log_softmax(-1)
    predicts = mask[:, 1:]
    kl = (old.exp() * (old - new)).sum(-1)[:, :-1][predicts].mean()
    ce = -new[:, :-1].gather(2, tokens[:, 1:, None])[..., 0][predicts].mean()
    quality = evaluate(model, dictionary, tokens, mask)
    y, found = values[write][mask].double(), wanted[mask].double()
    assert quality.kl == pytest.approx(float(kl), rel=1e-4)
    assert quality.loss_reconstructed == pytest.approx(float(ce), rel=1e-5)
    assert quality.mse == pytest.approx(float((y - found).square().mean()), rel=1e-5)
    assert quality.cosine == pytest.approx(float(torch.cosine_similarity(y, found, dim=1).mean()), rel=1e-5)
    assert quality.norm_ratio == pytest.approx(float((found.norm(dim=1) / y.norm(dim=1)).mean()), rel=1e-5)
    bias = float(found.square().sum() / (y * found).sum())
    assert quality.reconstruction_bias == pytest.approx(bias, rel=1e-5)
    assert quality.l0 == pytest.approx(3) and quality.predictions == int(predicts.sum())


def test_kl_of_a_perfect_dictionary_is_zero_and_ablations_are_worse(setting):
    model, tokens, mask = setting
    quality = evaluate(model, IdentityDictionary(find_site(model, "resid_0"), 16), tokens, mask)
    assert quality.kl == 0 and quality.mse == 0 and quality.cosine == pytest.approx(1)
    assert quality.kl_zero > quality.kl_mean > 0.01
    assert quality.standard_errors["kl"] == 0 < quality.standard_errors["loss_original"]
    assert quality.standard_errors["loss_recovered"] == pytest.approx(0, abs=1e-9)
    assert (quality.dense, quality.dead) == (1, 0)


def test_dropped_positions_stay_as_they_are(setting):
    """BOS positions are neither replaced nor averaged over."""
    model, *_ = setting
    site = find_site(model, "resid_0")
    sample = Sample(corpus_of(bos="document"), 100, batch_rows=3, drop_bos=True)
    rows = [batch for batch in sample]
    tokens, keep = (torch.cat([part(b) for b in rows]) for part in (lambda b: b.rows.tokens, lambda b: b.keep))
    assert bool((~keep[:, 0]).all()) and not bool(keep[tokens == 1].any()) and bool((tokens[:, 1:] == 1).any())
    (found,) = evaluate_all(model, [constant(site, torch.zeros(16))], sample)
    with torch.no_grad(), intervene(model, {site: lambda x: x * ~keep[..., None]}):
        log_p = model(input_ids=tokens, use_cache=False).logits.log_softmax(-1)
    mask = torch.cat([b.rows.mask for b in rows])
    predicts = keep[:, :-1] & mask[:, 1:]
    ce = -log_p[:, :-1].gather(2, tokens[:, 1:, None])[..., 0][predicts].mean()
    assert found.quality.loss_reconstructed == pytest.approx(float(ce), rel=1e-5)
    assert found.quality.tokens == int(keep.sum())


def test_a_sample_ends_with_the_row_that_reaches_the_number():
    for batch_rows in (1, 3, 50):
        sample = Sample(corpus_of(), 100, batch_rows=batch_rows)
        kept = torch.cat([batch.keep.sum(1) for batch in sample])
        assert int(kept.sum()) >= 100 > int(kept[:-1].sum())
        assert torch.equal(kept, torch.cat([batch.keep.sum(1) for batch in sample]))  # again the same
    everything = sum(int(batch.keep.sum()) for batch in Sample(corpus_of(), 10**9))
    assert everything < 1000


def test_densities_against_plain_counts(setting):
    model, tokens, mask = setting
    dictionary = sparse(find_site(model, "resid_0"))
    (found,) = evaluate_all(model, [dictionary], in_batches(tokens, mask, 3))
    with capture(model, dictionary.reads) as values:
        model(input_ids=tokens, use_cache=False)
    f = dictionary.encode(values[dictionary.site]) * mask[..., None]
    counts, on = found.features, f > 0
    assert counts.fires.tolist() == on.sum((0, 1)).tolist() and counts.rows.tolist() == on.any(1).sum(0).tolist()
    torch.testing.assert_close(counts.maxima, f.amax((0, 1)), rtol=1e-4, atol=1e-4)
    share = on.sum((0, 1)) / mask.sum()
    assert found.quality.dense == pytest.approx(float((share > 0.1).float().mean()))
    assert found.quality.dead == pytest.approx(float((share == 0).float().mean())) and 0 < found.quality.dead < 1
    assert found.quality.l1 == pytest.approx(float(f.sum() / mask.sum()), rel=1e-5)
    histogram = frequency_histogram(counts)
    assert histogram.counts.sum() + histogram.outside == 24 and histogram.outside == int((share == 0).sum())
    for low, high, number in zip(histogram.edges, histogram.edges[1:], histogram.counts, strict=False):
        inside = (share.double().log10() >= low) & (share.double().log10() < (high if high < 0 else 0.1))
        assert int(inside.sum()) == number


@pytest.mark.parametrize("block", [1, 3 * 12, 1 << 20])
def test_nearest_rows(block):
    rows = torch.randn(12, 4, generator=torch.Generator().manual_seed(0))
    rows[3], rows[7] = -2 * rows[1], 0
    cosines = torch.nn.functional.normalize(rows, dim=1) @ torch.nn.functional.normalize(rows, dim=1).T
    others = cosines[~torch.eye(12, dtype=torch.bool)].view(12, 11)
    found = nearest_rows(rows, block_elements=block)
    torch.testing.assert_close(found.signed, others.amax(1))
    torch.testing.assert_close(found.absolute, others.abs().amax(1))
    assert float(found.absolute[1]) == pytest.approx(1) and float(found.signed[7]) == 0
    assert cosine_histogram(found.absolute).counts.sum() == 12
    assert nearest_rows(rows[:1]).absolute.tolist() == [0]


def planted_sums(rows: int, seed: int) -> dict[str, torch.Tensor]:
    """Rows of unequal length whose positions share a large common part."""
    random = torch.Generator().manual_seed(seed)
    n = torch.randint(5, 30, (rows,), generator=random).double()
    common = torch.randn(rows, generator=random).double()
    return {
        "n": n,
        "x": n * (3 + common) + n.sqrt() * torch.randn(rows, generator=random).double(),
        "y": n * (5 + 0.5 * common) + n.sqrt() * torch.randn(rows, generator=random).double(),
    }


STATISTICS = {
    "mean": lambda s: s["x"] / s["n"],
    "ratio": lambda s: 1 - s["x"] / s["y"],
    "recovered": lambda s: (s["y"] - s["x"]) / (s["y"] - s["n"]),
}


@pytest.mark.parametrize("name", STATISTICS)
def test_standard_errors_against_a_bootstrap_over_rows_and_against_repetition(name):
    statistic, rows = STATISTICS[name], 400
    sums = planted_sums(rows, 0)
    found = RowSums(list(sums))
    for start in (0, 1, 150):  # parts of unequal size
        end = {0: 1, 1: 150, 150: rows}[start]
        found.add({key: column[start:end] for key, column in sums.items()})
    value, error = found.estimate(statistic)
    assert value == pytest.approx(float(statistic({k: v.sum() for k, v in sums.items()})), rel=1e-12)
    random = torch.Generator().manual_seed(1)
    draws = torch.randint(rows, (3000, rows), generator=random)
    bootstrap = statistic({k: v[draws].sum(1) for k, v in sums.items()}).std()
    again = [float(statistic({k: v.sum() for k, v in planted_sums(rows, 100 + i).items()})) for i in range(600)]
    assert error == pytest.approx(float(bootstrap), rel=0.08)
    assert error == pytest.approx(float(np.std(again)), rel=0.15)
    # positions are not independent: a row's common part makes the error several times that of single positions
    if name == "mean":
        assert error > 3 * 2**0.5 / float(sums["n"].sum()) ** 0.5


def test_the_error_of_a_mean_over_rows_of_one_length_is_the_textbook_one():
    x = torch.randn(50, generator=torch.Generator().manual_seed(0)).double() * 3 + 1e6
    found = RowSums(["x", "n"])
    found.add({"x": x[:20], "n": torch.ones(20)})
    found.add({"x": x[20:], "n": torch.ones(30)})
    assert found.estimate(lambda s: s["x"] / s["n"]).standard_error == pytest.approx(float(x.std() / 50**0.5), rel=1e-7)
    one = RowSums(["x", "n"])
    one.add({"x": x[:1], "n": torch.ones(1)})
    assert np.isnan(one.estimate(lambda s: s["x"] / s["n"]).standard_error)


def test_mistakes_are_named(setting):
    model, tokens, mask = setting
    a, b = find_site(model, "resid_0"), find_site(model, "mlp_hidden_0")
    wide = ReLUDictionary(ReLUConfig(width=17, features=4), [a])
    writes = transcoder(ReLUDictionary, a, b, width_in=16, width=16, features=4)
    batches = in_batches(tokens, mask)
    with pytest.raises(SiteError, match="width 16, the dictionary 17"):
        evaluate_all(model, [sparse(a), wide], batches)
    with pytest.raises(SiteError, match="mlp_hidden_0: activations have width 64, the dictionary writes 16"):
        evaluate_all(model, [writes], batches)
    with pytest.raises(SiteError, match="no module"):
        evaluate_all(model, [sparse(Site("x", "transformer.h.9"))], batches)
    with pytest.raises(EvaluationError, match="not an iterator"):
        evaluate_all(model, [sparse(a)], iter(batches))
    with pytest.raises(EvaluationError, match="no position"):
        evaluate_all(model, [sparse(a)], in_batches(tokens, torch.zeros_like(mask)))
    with pytest.raises(EvaluationError, match="no token is predicted"):
        evaluate(model, sparse(a), tokens[:, :1], mask[:, :1])
    with pytest.raises(ValueError, match="tokens is 0"):
        Sample(corpus_of(), 0)
    assert hook_count(model) == 0


@pytest.mark.parametrize("index", range(5))
def test_saebench_layout(setting, index):
    """Names as SAEBench's readers expect them; features that never fire have -1 where they divide by zero."""
    model, tokens, mask = setting
    dictionary = mixed(model)[index]
    (found,) = evaluate_all(model, [dictionary], in_batches(tokens, mask))
    result = core_result(
        dictionary,
        found,
        name="a",
        release="r",
        model="m",
        corpus="c",
        context=9,
        batch_rows=4,
        drop_bos=False,
        model_dtype="float32",
    )
    result = json.loads(json.dumps(result, allow_nan=False))
    metrics, q = result["eval_result_metrics"], found.quality
    assert result["eval_type_id"] == "core" and result["eval_config"]["n_eval_reconstruction_batches"] == 3
    assert set(metrics) == {
        *("model_behavior_preservation", "model_performance_preservation", "reconstruction_quality", "shrinkage"),
        *("sparsity", "token_stats", "misc_metrics"),
    }
    behaviour = metrics["model_behavior_preservation"]
    assert behaviour["kl_div_score"] == pytest.approx(1 - behaviour["kl_div_with_sae"] / q.kl_zero)
    assert metrics["model_performance_preservation"]["ce_loss_score"] == q.loss_recovered
    assert metrics["misc_metrics"]["frac_alive"] == q.alive
    details = result["eval_result_details"]
    assert [each["index"] for each in details] == list(range(dictionary.features))
    share = sum(each["feature_density"] for each in details)
    assert share == pytest.approx(q.l0, rel=1e-6)
    dense = sum(each["feature_density"] for each in details if each["feature_density"] > 0.1)
    assert metrics["misc_metrics"]["normalized_freq_over_10_percent"] == pytest.approx(dense / share if share else 0)
    for each, fires, rows in zip(details, found.features.fires, found.features.rows, strict=True):
        expected = float(fires / rows) if rows else -1
        assert each["consistent_activation_heuristic"] == pytest.approx(expected)
