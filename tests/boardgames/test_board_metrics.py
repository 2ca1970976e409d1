"""Coverage and reconstruction where the answer is known, and the whole report on a model that hides nothing."""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames import paper
from boardgames.confusion import Confusion, count_confusion
from boardgames.coverage import always_on_f1, choose, count_games
from boardgames.firing import THRESHOLDS, SparseActivations, SparseLabels
from boardgames.game import Labels
from boardgames.group_scores import Summary
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import CONTEXT
from boardgames.reconstruction import Votes, boards, by_threshold, from_enough_games, micro_f1, precise_labels
from boardgames.report import Positions, activations, board_score, probe_score
from boardgames.scoring import Referee, ScoringError, Truth
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
    assert score.coverage == 1 and Summary.of(score.board).normalised == 1
    assert score.board.coverage.bounds == (1, 1) and score.board.reconstruction.bounds == (1, 1)
    assert score.board.feature.tolist() == list(range(10, 138))
    assert score.reconstruction == 1 and score.board.reconstruction_floor == 0
    assert score.board.labelled_features == 128
    assert 0.2 < score.board.always_on < 0.6 and score.board.limit == 1
    # the board of another position is no better than firing always
    assert 0.2 < score.board.permuted < score.board.always_on + 0.02


def test_one_planted_feature_covers_its_property_and_no_other(splits):
    labels = splits[0].board.matrix
    planted = noise(len(labels), 20, 3)
    planted[:, 7] = torch.from_numpy(labels[:, 40]) * (1 + torch.arange(len(labels)) % 7)  # of varying loudness
    chosen = choose(counts_of(planted, labels))
    assert chosen.f1[40] == 1 and chosen.feature[40] == 7 and chosen.threshold[40] == 0
    assert np.delete(chosen.f1, 40).max() < 0.99


def of_rows(matrix: np.ndarray, games: int = 20) -> Labels:
    """Rows as positions of so many games of equal length."""
    names = tuple(f"p{i}" for i in range(matrix.shape[1]))
    game, ply = np.divmod(np.arange(len(matrix)), -(-len(matrix) // games))
    return Labels(names, ("",) * len(names), matrix, game, ply)


def score(selection: tuple, scoring: tuple, groups: dict | None = None, **options):
    """Score (features, label matrix) of two splits."""
    truths = [Truth(of_rows(labels), groups or {"all": labels.shape[1]}) for _, labels in (selection, scoring)]
    found = Referee(*truths, **options).score(*(SparseActivations.of([f]) for f, _ in (selection, scoring)))
    return found if groups else found["all"]


def test_choice_is_made_on_the_selection_split():
    true = np.arange(200) % 2 == 0
    right, wrong = torch.from_numpy(true).float()[:, None], torch.from_numpy(~true).float()[:, None]
    labels = true[:, None]
    selection, scoring = torch.cat([right, wrong], 1), torch.cat([wrong, right], 1)
    assert score((selection, labels), (selection, labels)).coverage.score == 1
    found = score((selection, labels), (scoring, labels))
    assert found.coverage.score == 0 and found.reconstruction.score == 0
    assert paper.coverage(counts_of(scoring, labels), 1).best == 1


def test_in_sample_coverage_takes_one_threshold_for_all_properties():
    # feature 0 needs a low threshold for property 0, feature 1 a high one for property 1
    loud, quiet = torch.tensor([1.0, 0.05]), torch.tensor([0.95, 0.5])
    label0 = np.array([True, True, False, False])
    label1 = np.array([True, False, False, True])
    features = torch.stack([torch.tensor([*loud, 0, 0]), torch.tensor([quiet[0], quiet[1], 0.5, 1.0])], 1)
    counts = counts_of(features, np.stack([label0, label1], 1))
    per_threshold = counts.f1().max(1)
    assert per_threshold[0, 0] == 1 and per_threshold[6, 1] == 1
    assert paper.coverage(counts, 2).best == per_threshold.mean(1).max() < per_threshold.max(0).mean()


def test_the_floor_is_the_coverage_of_an_actual_always_on_feature(splits):
    data = [(torch.ones(len(s.board.matrix), 1), s.board) for s in splits]
    found = board_score(IdentityDictionary(SITE, 1), *data).board
    assert found.always_on == pytest.approx(found.coverage.score, abs=1e-12)
    assert found.reconstruction_floor == pytest.approx(found.reconstruction.score, abs=1e-12)
    assert Summary.of(found).normalised == pytest.approx(0, abs=1e-9)


def test_a_property_that_nearly_always_holds_has_a_reconstruction_floor():
    labels = np.ones((400, 2), bool)
    labels[::50, 0], labels[::2, 1] = False, False
    found = score(*[(torch.ones(400, 1), labels)] * 2)
    assert found.reconstruction_floor == found.reconstruction.score == pytest.approx(2 * 392 / (400 + 392 + 200))


def test_properties_that_never_occur_are_left_out_and_counted():
    labels = np.zeros((60, 4), bool)
    labels[:20, 0] = labels[10:, 2] = True
    found = score(*[(torch.from_numpy(labels).float(), labels)] * 2)
    assert found.limit == 0.5 and found.coverage.score == 1
    assert found.occurs.tolist() == [True, False, True, False] and found.feature.tolist() == [0, -1, 2, -1]
    assert found.always_on == pytest.approx((2 * 20 / 80 + 2 * 50 / 110) / 2)


def test_a_label_needs_true_positives_of_ten_games():
    labels = np.zeros((200, 2), bool)  # 20 games of 10 positions
    labels[:40, 0] = True  # 40 positions of 4 games
    labels[::10, 1] = True  # 20 positions of 20 games
    features = torch.from_numpy(labels).float()
    found = score(*[(features, labels)] * 2)
    assert found.coverage.score == 1 and found.labelled_features == 1
    assert found.reconstruction.score == pytest.approx(2 * 20 / (20 + 60))
    assert score(*[(features, labels)] * 2, least_games=4).reconstruction.score == 1
    assert score(*[(features, labels)] * 2, least_games=21).reconstruction.score == 0


def test_games_behind_labels_equal_a_plain_loop():
    f, labels = noise(300, 6, 0), np.random.default_rng(0).random((300, 7)) < 0.4
    game = np.arange(300) // 12
    firing, every = SparseActivations.of([f]).firing(f.amax(0)), np.ones((11, 6, 7), bool)
    for least in (1, 5, 12):
        enough = from_enough_games(every, firing, SparseLabels.of(labels), game, least)
        for t in range(11):
            for i in range(6):
                fires = (f[:, i] > THRESHOLDS[t] * f[:, i].max()).numpy()
                for p in range(7):
                    assert enough[t, i, p] == (len(set(game[fires & labels[:, p]])) >= least)


def test_intervals_are_those_of_weighting_whole_games():
    rng = np.random.default_rng(3)
    labels = rng.random((400, 3)) < 0.3
    features = torch.from_numpy(labels ^ (rng.random((400, 3)) < 0.1)).float()
    found = score(*[(features, labels)] * 2, resampled=5)
    weights = Referee(*[Truth(of_rows(labels), {"all": 3})] * 2, resampled=5).weights
    assert weights.sum(1) == pytest.approx(20) and (weights > 0).all()
    fires, game = features.numpy() > 0, np.arange(400) // 20
    for sample, pooled, weight in zip(found.coverage.samples, found.reconstruction.samples, weights, strict=True):
        w = weight[game][:, None]
        assert sample == pytest.approx(np.mean(2 * (w * (fires & labels)).sum(0) / (w * (fires * 1 + labels)).sum(0)))
        assert 0 <= pooled <= 1
    low, high = score(*[(features, labels)] * 2).coverage.bounds
    assert low < found.coverage.score < high < 1


def test_rare_properties_do_not_push_the_interval_away_from_the_score():
    rng = np.random.default_rng(0)
    labels = np.zeros((600, 60), bool)
    labels[:, :10] = rng.random((600, 10)) < 0.3
    for p in range(10, 60):
        labels[rng.integers(600), p] = True  # in one game only
    features = torch.from_numpy(labels[:, :10] ^ (rng.random((600, 10)) < 0.1)).float()
    found = score(*[(features, labels)] * 2, resampled=400)
    low, high = found.coverage.bounds
    assert low < found.coverage.score < high
    assert found.coverage.samples.mean() == pytest.approx(found.coverage.score, abs=0.01)


def test_the_spread_of_the_samples_is_that_of_the_score_over_new_games():
    rng = np.random.default_rng(4)
    scores, widths = [], []
    for _ in range(40):
        rate = rng.random((30, 1)).repeat(10, 0)  # positions of one game are alike
        labels = rng.random((300, 4)) < rate
        features = torch.from_numpy(labels ^ (rng.random((300, 4)) < 0.3 * rate)).float()
        found = score(*[(features, labels)] * 2, resampled=200, groups=None).coverage
        scores.append(found.score)
        widths.append(found.samples.std())
    assert 0.6 < np.mean(widths) / np.std(scores) < 1.6


def test_a_difference_of_paired_scores_is_far_narrower_than_its_parts():
    rng = np.random.default_rng(3)
    labels = rng.random((400, 3)) < rng.random((20, 1)).repeat(20, 0)
    features = torch.from_numpy(labels ^ (rng.random((400, 3)) < 0.2)).float()
    one = score(*[(features, labels)] * 2).coverage
    worse = features.clone()
    worse[::50] = 1 - worse[::50]
    low, high = (one - score(*[(worse, labels)] * 2).coverage).bounds
    assert high - low < (one.bounds[1] - one.bounds[0]) / 2 and low > 0


def test_groups_are_scored_as_if_alone():
    rng = np.random.default_rng(5)
    labels = rng.random((400, 5)) < np.array([0.1, 0.2, 0.3, 0.4, 0.5])
    halves = [(noise(400, 6, i) + torch.from_numpy(labels @ rng.random((5, 6))).float(), labels) for i in range(2)]
    together = score(*halves, groups={"first": 2, "second": 3})
    for name, columns in (("first", slice(0, 2)), ("second", slice(2, 5))):
        alone = score(*[(f, y[:, columns]) for f, y in halves])
        assert together[name].coverage.score == pytest.approx(alone.coverage.score)
        assert together[name].reconstruction.score == alone.reconstruction.score
        assert together[name].always_on == alone.always_on


def test_splits_that_do_not_belong_together_are_refused():
    rows = of_rows(np.ones((40, 2), bool))
    with pytest.raises(ScoringError, match="groups of 3"):
        Truth(rows, {"all": 3})
    with pytest.raises(ScoringError, match="no positions"):
        Truth(of_rows(np.ones((0, 2), bool)), {"all": 2})
    with pytest.raises(ScoringError, match="39 rows of features for 40"):
        few = SparseActivations.of([torch.ones(39, 2)])
        Referee(Truth(rows, {"all": 2}), Truth(rows, {"all": 2})).score(few, few)


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
    firing = SparseActivations.of([features[:150], features[150:]]).firing(maxima)
    game = np.arange(400) // 7
    found = by_threshold(firing, given, labels, game, np.array([0, 5]))
    every_threshold = []
    for t in range(11):
        hits = predicted = 0
        said = [set() for _ in range(400)]
        for n in range(400):
            for i in range(12):
                if features[n, i] > torch.arange(0, 1.1, 0.1)[t] * maxima[i]:
                    said[n] |= set(np.flatnonzero(given[t, i]))
            predicted += len(said[n])
            hits += len(said[n] & set(np.flatnonzero(labels[n])))
        assert found[t].hits.sum() == hits and found[t].predicted.sum() == predicted
        of_game = [len({p for p in said[n] if p >= 5}) for n in range(14, 21)]
        assert found[t].predicted[2, 1] == sum(of_game)
        every_threshold.append(said)
    votes = Votes(given)
    highest = np.concatenate([board for _, board in boards(firing, votes, votes.highest())])
    for n in range(400):
        expected = set()
        for i in range(12):
            exceeded = [t for t in range(11) if features[n, i] > THRESHOLDS[t] * maxima[i] and given[t, i].any()]
            expected |= set(np.flatnonzero(given[max(exceeded), i])) if exceeded else set()
        assert set(np.flatnonzero(highest[n])) == expected


def test_pooled_f1():
    assert micro_f1(0, 0, 0) == 0 and micro_f1(3, 4, 6) == 0.6


def test_counts_by_game_add_up_to_those_of_the_split():
    rng = np.random.default_rng(1)
    labels = rng.random((300, 4)) < 0.3
    f = noise(300, 5, 2)
    firing, game = SparseActivations.of([f]).firing(f.amax(0)), np.arange(300) // 9
    chosen = choose(counts_of(f, labels))
    by_game = count_games(chosen, firing, labels, game)
    assert by_game.f1() == pytest.approx(chosen.f1)
    assert by_game.positives[3].tolist() == labels[27:36].sum(0).tolist() and by_game.rows.sum() == 300
    assert always_on_f1(labels.sum(0), 300).tolist() == pytest.approx(
        [2 * n / (300 + n) for n in labels.sum(0).tolist()]
    )


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
