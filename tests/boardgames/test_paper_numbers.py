"""GameScoreboard.paper against dense tensors that know nothing of the metrics' code, only what the original does.

Model and dictionary are made of small integers, so that activations are exact whatever is batched with what. On some
squares of the board labels are planted, so that the original's odd rules come to bear.
"""

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.game import Labels
from boardgames.game_scoreboard import GameScoreboard
from boardgames.labelled import LabelledGames, groups_of, label_othello
from boardgames.othello.rules import NO_MOVE, random_games
from boardgames.othello.transcript import CONTEXT
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import find_site

WIDTH = 64  # of the model: a coordinate for each token; those behind them tell the place
TENS, ODD, LATE = 61, 62, 63
SHORT = 30  # plies of the games in the first half of each split
THRESHOLDS = torch.arange(0, 1.1, 0.1)[:, None, None]
PLANTED = [5, 7, 7, 7] * 7  # thresholds of the first squares' labels
GROUPS = {"board": (slice(128), 192), "legal": (slice(128, 192), 64)}


def exact_model() -> GPT2LMHeadModel:
    """Its embedding holds token, place and some noise."""
    generator = torch.Generator().manual_seed(0)
    model = GPT2LMHeadModel(GPT2Config(n_embd=WIDTH, n_layer=1, n_head=2, vocab_size=61, n_positions=CONTEXT))
    model.eval().requires_grad_(False)
    tokens = torch.zeros(61, WIDTH)
    tokens[:, :61] = 6 * torch.eye(61) + (torch.rand(61, 61, generator=generator) < 0.2)
    places = torch.zeros(CONTEXT, WIDTH)
    places[:, :61] = torch.randint(0, 3, (CONTEXT, 61), generator=generator).float()
    places[:, TENS], places[:, ODD] = torch.arange(CONTEXT) // 10, torch.arange(CONTEXT) % 2
    places[SHORT:, LATE] = 5
    model.transformer.wte.weight.copy_(tokens)
    model.transformer.wpe.weight.copy_(places)
    return model


def exact_dictionary(model: GPT2LMHeadModel) -> ReLUDictionary:
    """Features of single moves and of several, of the place in the game, and one that short games never turn on."""
    generator = torch.Generator().manual_seed(1)
    weights = torch.zeros(61 + 40 + 9 + 2, WIDTH)
    weights[:61, :61] = torch.eye(61)
    weights[61:101, :61] = (torch.rand(40, 61, generator=generator) < 0.05).float()
    weights[61:101, TENS:LATE] = torch.randint(-2, 3, (40, 2), generator=generator).float()
    weights[101:110] = torch.randint(-1, 2, (9, WIDTH), generator=generator).float()
    weights[110, LATE] = weights[111, ODD] = 1
    dictionary = ReLUDictionary(ReLUConfig(WIDTH, len(weights)), [find_site(model, "embed")])
    with torch.no_grad():
        for parameter in dictionary.parameters():
            parameter.zero_()
        dictionary.W_enc.copy_(weights)
        dictionary.b_enc[:61] = -2  # low enough that noise fires as well, at low thresholds
        dictionary.b_enc[61:101] = -4
    return dictionary


def split(seed: int, games: int) -> LabelledGames:
    """Of 920 positions at odd places and some at even ones; the others do not count."""
    rng = np.random.default_rng([seed, 99])
    moves = random_games(games, rng)
    moves[: games // 2, SHORT:] = NO_MOVE
    groups = groups_of("othello", "paper")
    keep = label_othello(moves, groups).mask.numpy() & (rng.random((games, CONTEXT)) < 0.75)
    odd = np.argwhere(keep & (np.arange(CONTEXT) % 2 == 1))
    assert len(odd) > 920
    keep[tuple(odd[920:].T)] = False
    return label_othello(moves, groups, keep)


def activations(model: GPT2LMHeadModel, dictionary: ReLUDictionary, tokens: torch.Tensor) -> torch.Tensor:
    """[games, places, features]."""
    with torch.no_grad():
        x = model.transformer.wte(tokens) + model.transformer.wpe(torch.arange(tokens.shape[1]))
        return (x @ dictionary.W_enc.T + dictionary.b_enc).clamp_min(0)


def dense_firing(model, dictionary, selection, scoring) -> list[torch.Tensor]:
    """[threshold, row, feature] of both splits, from maxima of all tokens of half of the games, 1,000 at most."""
    first = min(len(selection.tokens) // 2, 1000)
    x = activations(model, dictionary, selection.tokens[:first])
    largest = x[selection.tokens[:first] != 0].amax(0)
    return [
        (activations(model, dictionary, rows.tokens)[rows.mask] > THRESHOLDS * largest) & (largest > 0)
        for rows in (selection, scoring)
    ]


def plant(selection: LabelledGames, scoring: LabelledGames, fires: list[torch.Tensor], lost: int) -> None:
    """Labels that pairs of features tell, one for each side; those at threshold 5 sometimes both for one square.

    Of each that is told at threshold 7 so many are `lost` on the scoring split.
    """
    for q, t in enumerate(PLANTED):
        at = fires[0][t].double()
        on, both = at.sum(0), at.T @ at
        rare = (both > 0.02 * on[:, None]) & (both <= 0.05 * on[:, None]) if t == 5 else both == 0
        pairs = (rare & (on[:, None] >= 20) & (on >= 20)).nonzero()
        mine, yours = pairs[(q * 37) % len(pairs)]
        for rows, firing in zip((selection, scoring), fires, strict=True):
            rows.labels.matrix[:, q] = firing[t, :, mine] & ~firing[t, :, yours]
            rows.labels.matrix[:, 64 + q] = firing[t, :, yours]
        if t == 7:
            scoring.labels.matrix[np.flatnonzero(scoring.labels.matrix[:, q])[:lost], q] = False
    t, feature = (fires[0].sum(1) == 10).nonzero()[0]  # as many as a label needs
    for rows, firing in zip((selection, scoring), fires, strict=True):
        rows.labels.matrix[:, 40], rows.labels.matrix[:, 64 + 40] = firing[t, :, feature], False
    odd = [firing[0, :, 111].numpy() for firing in fires]
    for rows, on in zip((selection, scoring), odd, strict=True):
        rows.labels.matrix[:, 30] = on
        rows.labels.matrix[:, 64 + 30] = False
    selection.labels.matrix[np.flatnonzero(odd[0])[874:], 30] = False  # of 920: .95, but not in float32


def by_hand(fires, selection: LabelledGames, scoring: LabelledGames, columns: slice, denominator: int):
    """The original's numbers of one group; pooled F1, and the other F1, of every threshold and the last slot."""
    truth, tested = (torch.from_numpy(rows.labels.matrix[:, columns]) for rows in (selection, scoring))
    true_positives = torch.stack([at.double().T @ truth.double() for at in fires[0]])  # [threshold, feature, property]
    on = fires[0].sum(1)[..., None].double()
    per_property = torch.nan_to_num(2 * true_positives / (on + truth.sum(0))).amax(1)
    precision = true_positives.float() * (1 / on.clamp_min(1).float())
    labelled = (precision >= 0.95) & (true_positives >= 10)

    boards = [at.double() @ given.double() > 0 for at, given in zip(fires[1], labelled, strict=True)]
    highest = torch.full(fires[1].shape[1:], -1)  # threshold that a feature exceeds and has a label at
    for t in range(11):
        highest[fires[1][t] & labelled[t].any(-1)] = t
    boards[-1] = torch.stack([(highest == t).double() @ labelled[t].double() for t in range(11)]).sum(0) > 0

    by_class, by_square = [], []
    for board in boards:
        right, wrong, missed = board & tested, board & ~tested, int((tested & ~board).sum())
        hits, false = int(right.sum()), int(wrong.sum())
        by_class.append(2 * hits / (2 * hits + false + missed))
        right_there, wrong_there = (x.reshape(len(x), -1, 64).sum(1) for x in (right, wrong))
        found = int(
            right_there[wrong_there != 1].sum()
        )  # right with one wrong class beside it: neither found nor missed
        by_square.append(2 * found / (2 * found + false + missed))
    numbers = {
        "coverage": float(per_property.sum(1).max()) / denominator,
        "coverage_any_threshold": float(per_property.amax(0).sum()) / denominator,
        "denominator": denominator,
        "reconstruction": by_class[int(np.argmax(by_square[:-1]))],
        "reconstruction_last": by_class[-1],
    }
    return numbers, by_class, by_square


@pytest.fixture(scope="module", params=[12, 20], ids=["two F1 differ", "splits differ"])
def case(request):
    """(what GameScoreboard.paper says, what fires, the two splits)."""
    model, splits = exact_model(), (split(0, 64), split(1, 70))
    dictionary = exact_dictionary(model)
    fires = dense_firing(model, dictionary, *splits)
    plant(*splits, fires, request.param)
    _, pooled, other = by_hand(fires, *splits, *GROUPS["board"])
    _, _, selected = by_hand([fires[0], fires[0]], splits[0], splits[0], *GROUPS["board"])
    best = [int(np.argmax(f1[:-1])) for f1 in (pooled, other, selected)]
    # so that it shows which F1, on which split, the threshold of the reconstruction is chosen by
    assert best == {12: [5, 7, 7], 20: [5, 5, 7]}[request.param]
    board = GameScoreboard(model, [dictionary.site], *splits, resampled=0)
    return board.paper(dictionary), fires, splits


@pytest.mark.parametrize("group", GROUPS)
def test_the_papers_numbers_are_those_of_dense_tables(case, group):
    found, fires, splits = case
    expected, *_ = by_hand(fires, *splits, *GROUPS[group])
    assert found[group] == pytest.approx(expected, abs=1e-12)


def test_maxima_are_of_a_thousand_games_at_most():
    tokens = torch.arange(2500)[:, None].expand(-1, 3)
    none = np.zeros(0, np.int64)
    labels = Labels((), (), np.zeros((0, 0), bool), none, none)
    rows = LabelledGames(tokens, tokens >= 0, tokens >= 0, labels, {}, "othello")
    assert rows.first_half()[0][:, 0].tolist() == list(range(1000))
