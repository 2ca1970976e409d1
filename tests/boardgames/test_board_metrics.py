"""Coverage and reconstruction where the answer is known, and the whole report on a model that hides nothing."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.confusion import Confusion, count_confusion
from boardgames.coverage import always_on_floor, held_out_coverage, in_sample_coverage, occurrence_ceiling
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import CONTEXT
from boardgames.reconstruction import f1_by_threshold, held_out_reconstruction, micro_f1, precise_labels
from boardgames.report import Positions, activations, board_score, floor_and_ceiling, probe_score
from saes.dictionary import IdentityDictionary
from saes.families import find_site
from saes.sites import Site, SiteError

SITE = Site("resid_0", "x")


@pytest.fixture(scope="module")
def splits():
    """(selection, scoring): labels of the positions of 120 and of 80 random games."""
    return tuple(Positions(random_games(n, np.random.default_rng(s))) for n, s in ((120, 0), (80, 1)))


def counts_of(features: torch.Tensor, labels: np.ndarray) -> Confusion:
    return count_confusion([(features, labels)], features.amax(0))


def noise(rows: int, width: int, seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, width, generator=generator) * (torch.rand(rows, width, generator=generator) < 0.3)


def test_planted_features_have_coverage_1_and_spell_out_the_board(splits):
    boards = [torch.from_numpy(s.board.matrix).float() * 2.5 for s in splits]
    data = [
        (torch.cat([noise(len(b), 10, i), b], 1), s.board) for i, (b, s) in enumerate(zip(boards, splits, strict=True))
    ]
    score = board_score(IdentityDictionary(SITE, 138), *data)
    assert score.coverage.score == 1 and score.coverage_in_sample == 1
    assert score.coverage.feature.tolist() == list(range(10, 138))
    assert score.reconstruction.score == 1
    assert score.reconstruction.labelled_features == 128
    floor, ceiling = floor_and_ceiling(score)
    assert 0.2 < floor < 0.6 and ceiling == 1


def test_one_planted_feature_covers_its_property_and_no_other(splits):
    labels = splits[0].board.matrix
    planted = noise(len(labels), 20, 3)
    planted[:, 7] = torch.from_numpy(labels[:, 40]) * (1 + torch.arange(len(labels)) % 7)  # of varying loudness
    coverage = held_out_coverage(*[counts_of(planted, labels)] * 2)
    assert coverage.f1[40] == 1 and coverage.feature[40] == 7 and coverage.threshold[40] == 0
    assert np.delete(coverage.f1, 40).max() < 0.99


def test_choice_is_made_on_the_selection_split():
    true = np.arange(200) % 2 == 0
    right, wrong = torch.from_numpy(true).float()[:, None], torch.from_numpy(~true).float()[:, None]
    labels = true[:, None]
    selection, scoring = (
        counts_of(torch.cat([right, wrong], 1), labels),
        counts_of(torch.cat([wrong, right], 1), labels),
    )
    assert held_out_coverage(selection, selection).score == 1
    assert held_out_coverage(selection, scoring).score == 0
    assert in_sample_coverage(scoring) == 1


def test_in_sample_coverage_takes_one_threshold_for_all_properties():
    # feature 0 needs a low threshold for property 0, feature 1 a high one for property 1
    loud, quiet = torch.tensor([1.0, 0.05]), torch.tensor([0.95, 0.5])
    label0 = np.array([True, True, False, False])
    label1 = np.array([True, False, False, True])
    features = torch.stack([torch.tensor([*loud, 0, 0]), torch.tensor([quiet[0], quiet[1], 0.5, 1.0])], 1)
    counts = counts_of(features, np.stack([label0, label1], 1))
    per_threshold = counts.f1().max(1)
    assert per_threshold[0, 0] == 1 and per_threshold[6, 1] == 1
    assert in_sample_coverage(counts) == per_threshold.mean(1).max() < per_threshold.max(0).mean()


def test_the_floor_is_the_coverage_of_an_actual_always_on_feature(splits):
    counts = [counts_of(torch.ones(len(s.board.matrix), 1), s.board.matrix) for s in splits]
    assert always_on_floor(counts[1]) == pytest.approx(held_out_coverage(*counts).score, abs=1e-12)
    assert always_on_floor(counts[1]) == pytest.approx(in_sample_coverage(counts[1]), abs=1e-12)


def test_the_ceiling_is_what_a_perfect_detector_reaches_on_properties_that_may_not_occur():
    labels = np.zeros((50, 4), bool)
    labels[:20, 0] = labels[10:, 2] = True
    counts = counts_of(torch.from_numpy(labels).float(), labels)
    assert occurrence_ceiling(counts) == 0.5
    assert held_out_coverage(counts, counts).score == 0.5
    assert always_on_floor(counts) == pytest.approx((2 * 0.4 / 1.4 + 2 * 0.8 / 1.8) / 4)


@pytest.mark.parametrize(
    ("tp", "fires", "precise"),
    [
        (19, 20, True),
        (18, 19, False),
        (10, 10, True),
        (9, 9, False),
        (437, 460, True),  # exactly 0.95, which float32 arithmetic refuses
        (436, 459, False),
        (950_001, 1_000_001, True),
        (0, 0, False),
    ],
)
def test_precision_is_compared_in_exact_integers(tp, fires, precise):
    counts = Confusion(np.array([[[tp]]]), np.array([[fires]]), np.array([fires]), fires + 1)
    assert precise_labels(counts).item() is precise


def test_reconstruction_equals_a_plain_loop(splits):
    labels = splits[0].board.matrix[:400, ::9]
    features = torch.cat([noise(400, 8, 5), torch.from_numpy(labels[:, :4]).float() + 0.2 * noise(400, 4, 6)], 1)
    maxima = features.amax(0)
    given = precise_labels(counts_of(features, labels))
    assert given.any((1, 2)).sum() >= 5 and not given.all()
    batches = iter([(features[:150], labels[:150]), (features[150:], labels[150:])])
    scores = f1_by_threshold(batches, given, maxima)
    for t in range(11):
        hits = predicted = 0
        for n in range(400):
            named = set()
            for i in range(12):
                if features[n, i] > torch.arange(0, 1.1, 0.1)[t] * maxima[i]:
                    named |= set(np.flatnonzero(given[t, i]))
            predicted += len(named)
            hits += len(named & set(np.flatnonzero(labels[n])))
        assert scores[t] == pytest.approx(2 * hits / (predicted + labels.sum()))


def test_reconstruction_scores_on_the_other_split_at_the_chosen_threshold():
    true = np.arange(200) % 2 == 0
    labels = np.stack([true, ~true], 1)
    right = torch.from_numpy(labels).float()
    selection = counts_of(right, labels)
    maxima = right.amax(0)
    perfect = held_out_reconstruction(selection, [(right, labels)], [(right, labels)], maxima)
    assert (perfect.score, perfect.labelled_features) == (1, 2)
    swapped = held_out_reconstruction(selection, [(right, labels)], [(right.flip(1), labels)], maxima)
    assert swapped.score == 0
    assert swapped.by_threshold[swapped.threshold] == swapped.score
    assert micro_f1(0, 0, 0) == 0 and micro_f1(3, 4, 6) == 0.6


@pytest.fixture(scope="module")
def telling_model():
    """Its embedding at ply p of token t is (t, p, t, p, ...)."""
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=1, n_head=2, vocab_size=61, n_positions=CONTEXT))
    model.eval().requires_grad_(False)
    model.transformer.wte.weight.zero_()[:, ::2] = torch.arange(61.0)[:, None]
    model.transformer.wpe.weight.zero_()[:, 1::2] = torch.arange(59.0)[:, None]
    return model


def test_activations_come_in_the_order_of_the_labels(telling_model, splits):
    positions = splits[0]
    x = activations(telling_model, find_site(telling_model, "embed"), positions)
    labels = positions.everything
    assert len(x) == len(labels.matrix) == positions.mask.sum()
    assert np.array_equal(x[:, 1].numpy(), labels.ply)
    assert np.array_equal(x[:, 0].numpy(), positions.tokens.numpy()[labels.game, labels.ply])
    assert labels.ply.max() == CONTEXT - 1
    assert np.array_equal(labels.matrix[:, :128], positions.board.matrix)


def test_a_dictionary_of_another_width_is_refused(telling_model, splits):
    data = [(torch.zeros(len(s.board.matrix), 8), s.board) for s in splits]
    with pytest.raises(SiteError, match="width 8, the dictionary 9"):
        board_score(IdentityDictionary(SITE, 9), *data)


def encoded(positions: Positions, noise_size: float, seed: int) -> torch.Tensor:
    """The board, rotated into 160 dimensions."""
    mix = torch.linalg.qr(torch.randn(160, 129, generator=torch.Generator().manual_seed(9)))[0].T
    board = torch.from_numpy(positions.board.matrix).float()
    generator = torch.Generator().manual_seed(seed)
    return torch.cat([board, torch.ones(len(board), 1)], 1) @ mix + noise_size * torch.randn(
        len(board), 160, generator=generator
    )


def test_a_probe_reads_a_linearly_encoded_board(splits):
    x = [encoded(s, 0.05, i) for i, s in enumerate(splits)]
    score = probe_score(*zip(x, [s.board for s in splits], strict=True))
    assert score.coverage > 0.97 and score.reconstruction > 0.98
    assert score.f1.shape == (128,)


def test_a_probe_of_nothing_scores_like_nothing(splits):
    x = [torch.randn(len(s.board.matrix), 12, generator=torch.Generator().manual_seed(i)) for i, s in enumerate(splits)]
    score = probe_score(*zip(x, [s.board for s in splits], strict=True))
    assert score.coverage < 0.45
