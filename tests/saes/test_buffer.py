"""Which activations come in which batch. In these models the embedding tells which token it came from."""

import numpy as np
import pytest
import torch

from saes.buffer import ActivationBuffer
from saes.families import find_site
from saes.harvest import harvest
from tests.saes.models_for_tests import some_tokens, tiny

ROWS, LENGTH, VALID = 12, 8, 7


def telling_model():
    """The embedding of token t at any position is t in every coordinate."""
    model = tiny("gpt2")
    model.transformer.wpe.weight.zero_()
    model.transformer.wte.weight.copy_(torch.arange(97.0)[:, None].expand(97, 16))
    return model


def make(batch_size=5, rows_per_refill=4, seed=0, rows=ROWS):
    """Every token occurs once; the last position of each row is masked."""
    model = telling_model()
    tokens = torch.arange(ROWS * LENGTH).view(ROWS, LENGTH)[:rows]
    mask = torch.arange(LENGTH).expand(rows, LENGTH) < VALID
    sites = [find_site(model, "embed"), find_site(model, "resid_0")]
    options = {"batch_size": batch_size, "rows_per_refill": rows_per_refill, "seed": seed}
    return ActivationBuffer(model, sites, tokens, mask, **options), sites, tokens, mask, model


def tokens_of(batches, site, count):
    return [batch[site][:, 0].long().tolist() for batch, _ in zip(batches, range(count), strict=False)]


PER_REFILL = 4 * VALID // 5
PER_EPOCH = 3 * PER_REFILL


def test_positions_come_at_most_once_an_epoch_and_masked_ones_never():
    buffer, (embed, _), tokens, mask, _ = make()
    batches = tokens_of(buffer.batches(), embed, 4 * PER_EPOCH)
    assert {len(b) for b in batches} == {5}
    masked = set(tokens[~mask].tolist())
    orders = []
    for epoch in range(4):
        drawn = sum(batches[epoch * PER_EPOCH : (epoch + 1) * PER_EPOCH], [])
        assert len(set(drawn)) == len(drawn) == PER_EPOCH * 5
        assert not masked & set(drawn)
        orders.append(drawn)
    assert orders[0] != orders[1], "every epoch is shuffled anew"
    assert set(orders[0]) != set(orders[1]), "and leaves out other positions"
    assert set().union(*orders) == set(tokens[mask].tolist())


def test_positions_of_a_refill_are_mixed_across_rows():
    buffer, (embed, _), *_ = make(batch_size=7, rows_per_refill=ROWS)
    batches = tokens_of(buffer.batches(), embed, 12)
    assert np.mean([len({t // LENGTH for t in b}) for b in batches]) > 4
    assert sum(batches, []) != sorted(sum(batches, []))


@pytest.mark.parametrize("n", [0, 1, PER_REFILL - 1, PER_REFILL, PER_EPOCH - 1, PER_EPOCH, 2 * PER_EPOCH + 7])
def test_batches_can_start_anywhere(n):
    buffer, (embed, resid), *_ = make()
    whole = [b for b, _ in zip(buffer.batches(), range(n + 3), strict=False)][n:]
    part = [b for b, _ in zip(make()[0].batches(n), range(3), strict=False)]
    for a, b in zip(whole, part, strict=True):
        assert torch.equal(a[embed], b[embed]) and torch.equal(a[resid], b[resid])


def test_skipped_refills_are_not_harvested(monkeypatch):
    buffer, (_embed, _), *_ = make()
    calls = []
    monkeypatch.setattr("saes.buffer.harvest", lambda *args: calls.append(1) or harvest(*args))
    next(buffer.batches(2 * PER_EPOCH + PER_REFILL))
    assert len(calls) == 1


def test_seeds_give_other_orders_and_the_same_seed_the_same():
    drawn = [tokens_of(make(seed=s)[0].batches(), make()[1][0], PER_EPOCH) for s in (0, 1, 0)]
    assert drawn[0] == drawn[2] != drawn[1]


def test_rows_of_all_sites_belong_together_and_equal_a_direct_harvest():
    buffer, (embed, resid), tokens, _, model = make()
    truth = torch.cat([v[resid] for v in harvest(model, tokens, [resid])]).flatten(0, 1)
    for batch, _ in zip(buffer.batches(), range(PER_EPOCH), strict=False):
        torch.testing.assert_close(batch[resid], truth[batch[embed][:, 0].long()], rtol=1e-5, atol=1e-5)


def test_harvest_keeps_the_order_of_rows_for_every_batch_size():
    model, tokens = tiny("llama"), some_tokens(rows=7)
    sites = [find_site(model, "resid_1"), find_site(model, "mlp_0")]
    whole = next(iter(harvest(model, tokens, sites)))
    parts = list(harvest(model, tokens, sites, batch_size=3))
    assert [len(p[sites[0]]) for p in parts] == [3, 3, 1]
    for site in sites:
        torch.testing.assert_close(torch.cat([p[site] for p in parts]), whole[site], rtol=1e-5, atol=1e-5)


def test_the_sample_holds_valid_positions_only():
    buffer, (embed, _), tokens, mask, _ = make()
    seen = buffer.sample()[embed][:, 0].long().tolist()
    assert len(seen) == len(set(seen)) == 4 * VALID
    assert set(seen) <= set(tokens[mask].tolist())


def test_too_few_tokens_are_refused_with_the_numbers():
    assert len(next(make(batch_size=4 * VALID)[0].batches())[make()[1][0]]) == 4 * VALID
    with pytest.raises(ValueError, match=rf"{ROWS * VALID} positions in refills of 4 rows never fill a batch of 29"):
        make(batch_size=4 * VALID + 1)


def test_fewer_rows_than_a_refill_are_enough():
    buffer, (embed, _), *_ = make(rows=2, rows_per_refill=100, batch_size=14)
    assert sorted(tokens_of(buffer.batches(), embed, 1)[0]) == [*range(7), *range(8, 15)]


def test_positions_within_a_refill_are_shuffled_anew_every_epoch():
    buffer, (embed, _), *_ = make(rows=1, batch_size=VALID)  # one row: only the order of its positions can change
    first, second = tokens_of(buffer.batches(), embed, 2)
    assert sorted(first) == sorted(second) and first != second
