"""Cross-entropy and legal play before and after an edit, against plain loops; shares of attribution add up."""

import math

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.lm import load_othello_gpt
from boardgames.othello.legality import legality
from boardgames.othello.rules import random_games
from saes.families import find_site
from saes.sites import Site
from shift.candidates import Effects
from shift.judgements import JudgementLog
from shift.reading import Reading
from shift.shares import attribution_shares
from shift.side_effects import SideEffectError, play_effects, side_effects
from shift.verdicts import Judgement


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=20, n_positions=8, n_embd=16, n_layer=2, n_head=2, bos_token_id=None, eos_token_id=None
    )
    made = GPT2LMHeadModel(config).eval().requires_grad_(False)
    for parameter in made.parameters():
        parameter.data *= 5  # far from uniform
    return made


def plain_cross_entropy(model, edit_at, rows, lengths, start):
    """Nats of every row and predictions, token by token; the hidden state at `edit_at` is halved from `start` on."""
    sums, counts = [], []
    for row, length in zip(rows, lengths, strict=True):
        total, count = 0.0, 0

        def halve(_module, _args, output):
            hidden = output[0] if isinstance(output, tuple) else output
            hidden[:, start:] *= 0.5

        handle = model.transformer.h[0].register_forward_hook(halve) if edit_at else None
        log_p = model(input_ids=row[None, :length]).logits[0].log_softmax(-1)
        if handle:
            handle.remove()
        for t in range(start, length - 1):
            total -= float(log_p[t, row[t + 1]])
            count += 1
        sums.append(total)
        counts.append(count)
    return np.array(sums), np.array(counts)


@pytest.mark.parametrize("start", [0, 2])
@pytest.mark.parametrize("logits", [1 << 26, 1 << 9])  # all rows at once, and a few at a time
def test_cross_entropy_is_that_of_a_plain_loop(model, start, logits, monkeypatch):
    monkeypatch.setattr("shift.side_effects._LOGITS", logits)
    rows = torch.randint(20, (9, 8), generator=torch.Generator().manual_seed(1))
    lengths = [8, 7, 8, 3, 5, 8, 6, 4, 8]
    mask = torch.arange(8) < torch.tensor(lengths)[:, None]
    site = find_site(model, "resid_0")
    edits = {site: Reading(site, start=start).within(lambda x: 0.5 * x)}
    found = side_effects(model, edits, rows, mask, start=start, progress=False)
    (before, counts), (after, _) = (plain_cross_entropy(model, e, rows, lengths, start) for e in (False, True))
    assert found.predictions == counts.sum()
    assert found.before.value == pytest.approx(before.sum() / counts.sum(), rel=1e-5)
    assert found.after.value == pytest.approx(after.sum() / counts.sum(), rel=1e-5)
    assert found.increase.value == pytest.approx((after - before).sum() / counts.sum(), rel=1e-4)
    spread = (after - before) - found.increase.value * counts
    error = math.sqrt((spread**2).sum() * 9 / 8) / counts.sum()
    assert found.increase.standard_error == pytest.approx(error, rel=1e-3)
    assert abs(found.increase.value) > 0.01


def test_no_edit_changes_nothing_and_no_text_is_told(model):
    rows, mask = torch.zeros(2, 8, dtype=torch.long), torch.ones(2, 8, dtype=torch.bool)
    found = side_effects(model, {}, rows, mask, progress=False)
    assert found.increase.value == 0 and mask.all()
    with pytest.raises(SideEffectError, match="no token is predicted"):
        side_effects(model, {}, rows, mask, start=7, progress=False)
    with pytest.raises(SideEffectError, match="no token is predicted"):
        side_effects(model, {}, rows, ~mask, progress=False)


def test_a_board_model_that_loses_its_middle_plays_worse():
    model = load_othello_gpt()
    moves = random_games(12, np.random.default_rng(123))
    site = find_site(model, "resid_2")
    none = play_effects(model, {}, lambda m: legality(m, moves))
    assert none.legal_move_rate == 0 == none.legal_mass and none.before.legal_move_rate > 0.9
    wrecked = play_effects(model, {site: lambda x: 0 * x}, lambda m: legality(m, moves))
    assert wrecked.before == none.before
    assert wrecked.legal_move_rate < -0.3 and wrecked.legal_mass < -0.3
    assert play_effects(model, {}, lambda m: legality(m, moves)).after == none.before  # edits are gone


def test_shares_of_attribution_by_hand(tmp_path):
    sites = Site("embed", "a"), Site("resid_0", "b")
    effects = Effects(
        {sites[0]: torch.tensor([-3.0, 1.0, 0.0]), sites[1]: torch.tensor([2.0, -1.0, 0.5])},
        {sites[0]: -1.5, sites[1]: 1.0},
    )
    log = JudgementLog(tmp_path / "j.jsonl", "t")
    for site, feature, verdict, rater in (
        ("embed", 0, "trim", "ann"),
        ("embed", 0, "mixed", "bob"),
        ("embed", 1, "mixed", "ann"),
        ("embed", 1, "keep", "bob"),
        ("resid_0", 0, "keep", "ann"),
        ("resid_0", 1, "unsure", "ann"),
        ("elsewhere", 5, "keep", "ann"),
    ):
        log.add(Judgement(site, feature, -1.0, verdict, "", rater))
    found = attribution_shares(effects, log.freeze(), {"embed": [0]})
    assert {n: (s.features, s.error) for n, s in found.sites.items()} == {
        "embed": pytest.approx((0.4, 0.15)),
        "resid_0": pytest.approx((0.35, 0.1)),
    }
    told = found.trimmed, found.mixed, found.unsure, found.kept, found.unjudged, found.error
    assert told == pytest.approx((0.3, 0.1, 0.1, 0.2, 0.05, 0.25)) and sum(told) == pytest.approx(1)
    assert found.error == pytest.approx(effects.error_share()) and found.untrimmed == pytest.approx(0.7)


def test_shares_without_any_effect_are_zero(tmp_path):
    effects = Effects({Site("embed", "a"): torch.zeros(2)}, {Site("embed", "a"): 0.0})
    found = attribution_shares(effects, JudgementLog(tmp_path / "j.jsonl", "t").freeze(), {})
    assert found.trimmed == found.error == found.unjudged == 0
