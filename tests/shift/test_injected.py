"""A planted model that shuns a1 after d6 was played: trimming the feature that says so brings the move back."""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.othello.planted_rule import PlantedRule, rule_score
from boardgames.othello.rules import square_index
from boardgames.othello.transcript import CONTEXT, TOKEN_OF_SQUARE, VOCABULARY, from_tokens
from circuits.metrics import measure
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import find_site
from shift.tasks.injected import InjectedScale, edited_score, injected_study, rule_examples, rule_games, rule_metric
from shift.trim import trimming_edits
from tests.boardgames import plain_othello

RULE = PlantedRule()
A1, D6 = (int(TOKEN_OF_SQUARE[square_index(s)]) for s in ("a1", "d6"))
WIDTH = 32


def planted(weight):
    """Coordinate 0 says that the last move was d6 (so d6 is the opponent's), and lowers the logit of a1."""
    torch.manual_seed(0)
    config = GPT2Config(
        vocab_size=VOCABULARY, n_positions=CONTEXT, n_embd=WIDTH, n_layer=1, n_head=1, tie_word_embeddings=False,
        bos_token_id=None, eos_token_id=None,
    )  # fmt: skip
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    words = torch.randn(VOCABULARY, WIDTH)
    words[:, :2] = 0
    words[D6, 2:] *= 0.5  # or they would fire most after d6, too
    words[D6, 0] = 6
    model.transformer.wte.weight.copy_(words)
    model.transformer.wpe.weight.zero_()
    for module in (model.transformer.h[0].attn.c_proj, model.transformer.h[0].mlp.c_proj):
        module.weight.zero_()
    model.lm_head.weight.zero_()
    # coordinate 1 is always 0: taken away, it undoes what the last norm shifts coordinate 0 by
    model.lm_head.weight[A1, :2] = torch.tensor([weight, -weight])
    return model


@pytest.fixture(scope="module")
def models():
    return planted(-1.0), planted(0.0)


@pytest.fixture(scope="module")
def dictionaries(models):
    found = {}
    for site in (find_site(models[0], name) for name in ("embed", "resid_0")):
        d = ReLUDictionary(ReLUConfig(WIDTH, 2 * WIDTH), [site])
        d.W_dec.data = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
        d.W_enc.data = d.W_dec.data.clone()
        found[site] = d.requires_grad_(False)
    return found


def test_the_planted_feature_is_found_trimmed_and_the_move_comes_back(models, dictionaries):
    scale = InjectedScale(examples=200, candidates=6, steps=4, named=40, scored=80, random_draws=1)
    study = injected_study(*models, dictionaries, RULE, scale, progress=False)
    assert study.trimmed == {"embed": [0], "resid_0": [0]}
    assert study.recovered("trimmed") == pytest.approx(1, abs=1e-4)
    assert study.recovered("in the way") == pytest.approx(1, abs=1e-4)
    assert abs(study.recovered("random 0")) < 0.2
    assert study.recovered("masked") == 0 and study.recovered("unmasked") == 1
    before, after = study.scores["masked"], study.scores["trimmed"]
    assert after.groups["own"].probability == pytest.approx(before.groups["own"].probability)
    assert study.to_json()["recovered"]["trimmed"] == study.recovered("trimmed")


def test_examples_are_positions_where_the_rule_forbids_the_move():
    examples = rule_examples(RULE, 40)
    games = from_tokens(examples.clean.numpy())
    for n in range(len(examples)):
        game = plain_othello.Game()
        for square in games[n, : int(examples.position[n]) + 1]:
            game.play(int(square))
        legal = game.legal(game.turn)
        assert square_index("a1") in legal and len(legal) > 1
        assert square_index("d6") in game.discs(plain_othello.other(game.turn))
        assert set(examples.fields["legal"][n].nonzero()[:, 0].tolist()) == {int(TOKEN_OF_SQUARE[s]) for s in legal}
        assert (examples.clean[n, int(examples.position[n]) + 1 :] == 0).all()
    assert len(set(map(bytes, games))) == 40


def test_the_metric_and_edits(models, dictionaries):
    masked, unmasked = models
    examples = rule_examples(RULE, 150)
    odds = measure(masked, rule_metric(RULE), examples.clean, examples)
    legal = examples.fields["legal"].sum(1)
    after_d6 = examples.clean[torch.arange(150), examples.position] == D6
    assert after_d6.any()
    assert odds[~after_d6] == pytest.approx(-(legal[~after_d6] - 1.0).log(), abs=1e-6)
    assert (odds[after_d6] < -(legal[after_d6] - 1.0).log() - 2).all()
    games = rule_games(RULE, 40, "injected_scoring", 0)
    edits = trimming_edits(dictionaries, {"embed": [0]})
    assert edited_score(masked, games, RULE, edits).groups["theirs"].probability == pytest.approx(
        rule_score(unmasked, games, RULE).groups["theirs"].probability
    )
