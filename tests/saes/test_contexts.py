"""Contexts against a plain search through all positions: planted features of every strength, many batch sizes."""

import json
import math

import numpy as np
import pytest
import torch

from saes.architectures import ReLUConfig, ReLUDictionary, TopKConfig, TopKDictionary
from saes.contexts import ContextCollector, ContextError, collect_contexts, write_contexts
from saes.dictionary import IdentityDictionary
from saes.families import find_site
from saes.reservoirs import random_keys
from saes.samples import Sample, in_batches
from saes.sites import capture
from tests.saes.models_for_tests import hook_count, some_tokens, tiny
from tests.saes.test_evaluation import corpus_of

ROWS, LENGTH, F = 40, 12, 24
COUNT, WINDOW, BANDS = 5, 3, 4


@pytest.fixture(scope="module")
def planted():
    """A tiny model, a dictionary with rare, common, silent and always firing features, ragged rows."""
    model = tiny("gpt2")
    site = find_site(model, "resid_0")
    tokens = some_tokens(rows=ROWS, length=LENGTH, seed=3)
    lengths = torch.randint(2, LENGTH + 1, (ROWS, 1), generator=torch.Generator().manual_seed(1))
    mask = torch.arange(LENGTH) < lengths
    dictionary = ReLUDictionary(ReLUConfig(width=16, features=F), [site]).requires_grad_(False)
    dictionary.b_enc.copy_(torch.linspace(-30, 5, F))
    dictionary.b_enc[3], dictionary.b_enc[4] = -1e6, 1e3
    with capture(model, [site]) as values:
        model(input_ids=tokens, use_cache=False)
    pre = dictionary.pre_activation(values[site])
    for feature in range(3):  # fire at so many positions, less one
        top = pre[..., feature][mask].topk(feature + 2).values
        dictionary.b_enc[feature] -= (top[-1] + top[-2]) / 2
    return model, dictionary, tokens, mask, dictionary.encode(values[site])


def firing(f, mask, feature: int) -> list[tuple[float, int]]:
    """(activation, position in the corpus) of every firing, in order of the corpus."""
    return [
        (float(f[r, t, feature]), r * LENGTH + t)
        for r in range(ROWS)
        for t in range(LENGTH)
        if mask[r, t] and f[r, t, feature] > 0
    ]


def places(contexts) -> list[int]:
    return [c.document * LENGTH + c.offset for c in contexts]


@pytest.mark.parametrize("batch_rows", [1, 7, 40])
def test_equal_to_a_plain_search(planted, batch_rows):
    model, dictionary, tokens, mask, f = planted
    batches = in_batches(tokens, mask, batch_rows)
    found = collect_contexts(model, dictionary, batches, count=COUNT, window=WINDOW, bands=BANDS, seed=5)
    assert hook_count(model) == 0 and [each.feature for each in found] == list(range(F))
    kinds = {len(firing(f, mask, i)) for i in range(F)}
    assert 0 in kinds and max(kinds) == int(mask.sum()) and any(0 < n < COUNT for n in kinds)
    for each in found:
        all_of_it = firing(f, mask, each.feature)
        keys = dict(
            zip(
                [p for _, p in all_of_it],
                random_keys(5, np.array([p for _, p in all_of_it], np.int64), np.full(len(all_of_it), each.feature)),
                strict=True,
            )
        )
        assert each.fires == len(all_of_it)
        if not all_of_it:
            assert each.maximum == 0 and not each.top and not each.bands and not each.random
            continue
        strongest = sorted(all_of_it, key=lambda pair: -pair[0])[:COUNT]
        assert [c.activation for c in each.top] == pytest.approx([a for a, _ in strongest], rel=1e-4, abs=1e-5)
        assert each.maximum == each.top[0].activation
        assert places(each.random) == sorted(keys, key=keys.__getitem__)[:COUNT]
        top_octave = math.floor(math.log2(each.maximum))
        for b, band in enumerate(each.bands):
            low = 0.0 if b == BANDS - 1 else 2.0 ** (top_octave - b)
            assert (band.low, band.high) == (low, 2.0 ** (top_octave - b + 1))
            inside = [p for a, p in all_of_it if low <= a < band.high]
            assert band.fires == len(inside)
            assert places(band.contexts) == sorted(inside, key=keys.__getitem__)[:COUNT]
        for c in (*each.top, *each.random, *(c for band in each.bands for c in band.contexts)):
            row, column = c.document, c.offset
            first, last = max(0, column - WINDOW), min(int(mask[row].sum()), column + WINDOW + 1)
            assert c.tokens == tuple(tokens[row, first:last].tolist())
            assert c.activations == pytest.approx(f[row, first:last, each.feature].tolist(), rel=1e-4, abs=1e-4)
            assert c.tokens[c.position] == tokens[row, column]
            assert c.activation == c.activations[c.position]


def test_a_choice_of_features_gives_the_same_of_those(planted):
    model, dictionary, tokens, mask, _ = planted
    batches = in_batches(tokens, mask, 7)
    whole = collect_contexts(model, dictionary, batches, count=3)
    some = collect_contexts(model, dictionary, batches, [9, 2, 9], count=3)
    assert [each.feature for each in some] == [2, 9]
    for each in some:
        assert places(each.random) == places(whole[each.feature].random)
        assert [b.fires for b in each.bands] == [b.fires for b in whole[each.feature].bands]


def test_a_growing_maximum_moves_bands_and_loses_no_sample(planted):
    """Strongest last: every row is louder than the one before, so that all bands move again and again."""
    model, _, tokens, _, _ = planted
    site = find_site(model, "resid_0")
    dictionary = IdentityDictionary(site, 16)
    mask = torch.ones_like(tokens, dtype=torch.bool)
    order = np.random.default_rng(0).permutation(16)
    values = {}
    for rows in (1, 40):
        collector = ContextCollector(dictionary, count=COUNT, bands=BANDS, seed=1)
        for i, batch in enumerate(in_batches(tokens, mask, rows)):
            first = i * rows
            scale = 1.7 ** torch.arange(first, first + rows)[:, None, None]
            x = torch.from_numpy(order + 1.0).float() * scale * torch.ones(rows, LENGTH, 1)
            collector.observe(batch, {site: x})
        values[rows] = list(collector.contexts())
    assert values[1] == values[40]
    for each in values[1]:
        assert each.fires == ROWS * LENGTH == sum(band.fires for band in each.bands)
        assert all(len(band.contexts) == min(COUNT, band.fires) for band in each.bands)
        assert each.bands[-1].fires > 20 * LENGTH  # nearly all are weak beside the last
        assert {c.document for c in each.top} == {ROWS - 1}
        assert places(each.top) == [(ROWS - 1) * LENGTH + t for t in range(COUNT)]  # equal ones: the earlier first


def test_random_samples_are_uniform(planted):
    """Over many features that fire everywhere each position is drawn equally often, whatever its strength."""
    model, _, tokens, _, _ = planted
    site = find_site(model, "resid_0")
    mask = torch.ones_like(tokens, dtype=torch.bool)
    dictionary = IdentityDictionary(site, 2000)
    collector = ContextCollector(dictionary, count=5, window=0, bands=3)
    for batch in in_batches(tokens[:4], mask[:4], 1):
        ramp = torch.arange(1.0, LENGTH + 1)[None, :, None] * torch.ones(1, LENGTH, 2000)
        collector.observe(batch, {site: ramp})
    drawn = np.bincount([p for each in collector.contexts() for p in places(each.random)], minlength=4 * LENGTH)
    expected = 2000 * 5 / (4 * LENGTH)
    assert ((drawn - expected) ** 2 / expected).sum() < 90  # chi-square with 47 degrees of freedom: 4.4 sigma
    seeds = [ContextCollector(dictionary, [0], count=5, seed=seed) for seed in (0, 1)]
    for each in seeds:
        each.observe(batch, {site: ramp})
    assert len({tuple(places(one.random)) for each in seeds for one in each.contexts()}) == 2


def test_rows_of_a_corpus_keep_documents_and_leave_out_bos(planted):
    model, dictionary, *_ = planted
    sample = Sample(corpus_of(bos="document"), 150, batch_rows=4, drop_bos=True)
    for each in collect_contexts(model, dictionary, sample, count=4, window=2):
        for c in (*each.top, *each.random):
            assert c.offset >= 0 and c.tokens[c.position] != 1
    always = collect_contexts(model, dictionary, Sample(corpus_of(bos="document"), 150), [4], count=1000)
    assert {c.tokens[c.position] for c in always[0].random} >= {1}  # BOS tokens count where they are not dropped
    assert min(c.offset for c in always[0].random) == -1


def test_features_that_compete(planted):
    model, _, tokens, mask, _ = planted
    dictionary = TopKDictionary(TopKConfig(16, F, k=3), [find_site(model, "resid_0")]).requires_grad_(False)
    batches = in_batches(tokens, mask)
    assert sum(each.fires for each in collect_contexts(model, dictionary, batches)) == 3 * int(mask.sum())
    (alone,) = collect_contexts(model, dictionary, batches, [5])
    assert alone == collect_contexts(model, dictionary, batches)[5]


def test_jsonl(planted, tmp_path):
    model, dictionary, tokens, mask, _ = planted
    found = collect_contexts(model, dictionary, in_batches(tokens, mask), [3, 4, 9], count=2)
    write_contexts(tmp_path / "a.jsonl", found, lambda token: f"w{token}")
    lines = [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()]
    assert [line["feature"] for line in lines] == [3, 4, 9]
    assert lines[0]["top"] == [] and lines[1]["fires"] == int(mask.sum())
    context = lines[1]["bands"][0]["contexts"][0]
    assert context["texts"] == [f"w{token}" for token in context["tokens"]]
    assert context["activation"] == pytest.approx(found[1].bands[0].contexts[0].activation, rel=1e-5)
    write_contexts(tmp_path / "b.jsonl", found)
    assert '"texts"' not in (tmp_path / "b.jsonl").read_text()


@pytest.mark.parametrize(
    ("features", "options", "said"),
    [
        ([F], {}, "feature 24: the dictionary has features 0 to 23"),
        ([-1], {}, "feature -1"),
        ([], {}, "no feature"),
        ([0], {"count": 0}, "count is 0"),
        ([0], {"window": -1}, "window is -1"),
        ([0], {"bands": 0}, "bands is 0"),
        ([0], {"seed": -1}, "seed is -1"),
    ],
)
def test_mistakes(planted, features, options, said):
    with pytest.raises(ContextError, match=said):
        ContextCollector(planted[1], features, **options)
