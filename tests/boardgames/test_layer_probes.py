"""Probes per layer on a model whose one layer spells out the board, and cards made of what was measured."""

from dataclasses import asdict

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.chess import legality as chess
from boardgames.chess.pretraining import ChessTraining, chess_gpt
from boardgames.chess.transcript import CONTEXT, VOCABULARY
from boardgames.layer_probes import BoardRows, _activations, chess_rows, othello_rows, probe_layers
from boardgames.lm import load_board_model, load_chess_gpt, random_weights, save_board_model
from boardgames.model_card import write_card
from boardgames.othello import legality as othello
from boardgames.othello.pretraining import OthelloTraining, othello_gpt
from boardgames.othello.rules import random_games
from boardgames.pretrain import training_record
from saes.families import find_site
from saes.files import FileError, read_json, write_json
from saes.sites import intervene
from tests.boardgames.test_chess_legality import GAMES

TINY = {"layers": 2, "width": 16, "heads": 2, "steps": 4, "games_per_step": 4}
MOVES = random_games(60, np.random.default_rng(0))


def test_every_square_has_exactly_one_state():
    rows = othello_rows(MOVES)
    assert rows.labels.matrix.reshape(-1, 3, 64).sum(1).min() == rows.labels.matrix.reshape(-1, 3, 64).sum(1).max() == 1
    assert rows.occupied.sum() == 128
    rows = chess_rows(GAMES)
    states = rows.labels.matrix.reshape(-1, 13, 64)
    assert (states.sum(1) == 1).all() and rows.occupied.sum() == 768
    text = [[VOCABULARY[i] for i in row] for row in rows.tokens]
    assert [text[g][p] for g, p in zip(rows.game, rows.place, strict=True)] == ["."] * len(rows.game)
    assert len(rows.game) == sum(game.count(".") for game in GAMES)


@pytest.mark.parametrize("rows", [othello_rows(MOVES[:5]), chess_rows(GAMES)], ids=["othello", "chess"])
def test_activations_are_those_of_the_rows(rows, monkeypatch):
    vocabulary = 61 if rows.tokens.shape[1] == 59 else len(VOCABULARY)
    model = GPT2LMHeadModel(GPT2Config(n_embd=8, n_layer=2, n_head=2, vocab_size=vocabulary, n_positions=CONTEXT))
    site = find_site(model, "resid_1")
    found = _activations(model.eval(), [site], rows)[site]
    hidden = model(input_ids=rows.tokens, output_hidden_states=True)
    with torch.no_grad():  # transformers gives the last hidden state behind the final norm
        normed = model.transformer.ln_f(found)
    torch.testing.assert_close(normed, hidden.hidden_states[-1].detach()[rows.game, rows.place])


def test_the_layer_that_spells_out_the_board_is_found():
    config = GPT2Config(n_embd=200, n_layer=2, n_head=2, vocab_size=61, n_positions=59)
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    selection, scoring = othello_rows(MOVES[:40]), othello_rows(MOVES[40:])
    mix = torch.linalg.qr(torch.randn(200, 192, generator=torch.Generator().manual_seed(0)))[0].T

    def board(rows: BoardRows) -> torch.Tensor:
        x = torch.zeros(*rows.tokens.shape, 200)
        x[rows.game, rows.place] = torch.from_numpy(rows.labels.matrix).float() @ mix
        return x

    planted = {len(rows.tokens): board(rows) for rows in (selection, scoring)}
    with intervene(model, {find_site(model, "resid_0"): lambda x: planted[len(x)]}):
        embed, first, second = probe_layers(model, selection, scoring)
    assert [p.site for p in (embed, first, second)] == ["embed", "resid_0", "resid_1"]
    assert first.accuracy > 0.99 and first.pooled_f1 > 0.99 and first.f1 > 0.98
    assert embed.accuracy < 0.75 and embed.pooled_f1 < 0.8
    assert 0 < embed.accuracy_error < 0.02 and 0 < embed.pooled_f1_error < 0.03


def test_random_weights_are_of_the_same_shape_and_by_seed():
    model = othello_gpt(OthelloTraining(**TINY)).eval()
    state = torch.get_rng_state()
    first, again, other = (random_weights(model, seed) for seed in (1, 1, 2))
    assert torch.equal(state, torch.get_rng_state()), "nobody else's random numbers are moved"
    assert first.config.to_dict() == model.config.to_dict() and first.config is not model.config
    assert not first.training and not any(p.requires_grad for p in first.parameters())
    for name, weight in model.state_dict().items():
        assert torch.equal(first.state_dict()[name], again.state_dict()[name])
        if weight.ndim == 2:
            values = [m.state_dict()[name] for m in (model, first, other)]
            assert not torch.equal(values[0], values[1]) and not torch.equal(values[1], values[2])
            assert 0.8 < values[0].std() / values[1].std() < 1.25


def save_tiny(game: str, folder):
    if game == "othello":
        config = OthelloTraining(**TINY)
        record = training_record(config, [{"step": 0, "loss": 4.0}], 7200.0, "cpu", games=16)
        save_board_model(othello_gpt(config), folder, record, lambda m: othello.legality(m, MOVES[:3]))
    else:
        config = ChessTraining(**TINY)
        files = [{"name": "a.csv", "sha256": "0123456789abcdef" * 4, "games": 5}]
        record = training_record(
            config,
            [{"step": 0, "loss": 3.4}],
            7200.0,
            "cpu",
            games=4,
            characters=160,
            part="language_model",
            files=files,
            source="From a friend, CC0.",
        )
        save_board_model(chess_gpt(config), folder, record, lambda m: chess.legality(m, GAMES, 5))


@pytest.mark.parametrize("game", ["othello", "chess"])
def test_a_card_says_what_the_records_say(tmp_path, game):
    save_tiny(game, tmp_path)
    write_card(tmp_path)
    digits = 4 if game == "othello" else 3
    card, quality = (tmp_path / "README.md").read_text(), read_json(tmp_path / "training.json")["quality"]
    assert f"{quality['legal_mass']:.{digits}f}" in card and f"± {quality['legal_mass_error']:.{digits}f}" in card
    assert "2 layers, width 16, 2 heads" in card and "2.0 hours on one CPU thread" in card
    assert f"pretrain_{game}.py" in card and "--training.steps 4" in card and "linear probe" not in card
    parameters = sum(p.numel() for p in load_board_model(game, tmp_path).parameters())  # tied ones once
    assert f"{parameters / 1e6:.2f} M parameters" in card
    if game == "chess":
        assert "From a friend, CC0." in card and "`a.csv`, 5 games" in card
        assert "16 games were seen, 4.00 epochs or 0.0 M" in card
    rows = othello_rows(MOVES[:8]) if game == "othello" else chess_rows(GAMES)
    model = load_board_model(game, tmp_path)
    probes = [asdict(p) for p in probe_layers(model, rows, rows)]
    write_json(
        tmp_path / "probes.json", {"selection_games": 8, "scoring_games": 8, "trained": probes, "random": probes}
    )
    write_card(tmp_path)
    with_probes = (tmp_path / "README.md").read_text()
    assert f"| resid_1 | {probes[2]['accuracy']:.4f} ± {probes[2]['accuracy_error']:.4f} |" in with_probes
    assert set(card.splitlines()) <= set(with_probes.splitlines()), "the rest stays"


def test_cards_and_models_of_what_is_not_there_or_another_game_are_refused(tmp_path):
    with pytest.raises(FileError, match=r"config\.json: no such file"):
        write_card(tmp_path)
    save_tiny("othello", tmp_path)
    with pytest.raises(FileError, match="reads 61 different tokens, but transcripts of chess are written in 32"):
        load_chess_gpt(tmp_path)
    record = read_json(tmp_path / "training.json")
    write_json(tmp_path / "training.json", {**record, "quality": {}})
    with pytest.raises(FileError, match="lack what a model card says .'games'"):
        write_card(tmp_path)
