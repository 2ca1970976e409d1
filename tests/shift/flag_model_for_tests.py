"""An Othello model whose stream says one thing: 2 in one dimension where a certain move was made, 0 elsewhere."""

import numpy as np
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.othello.rules import random_games
from boardgames.report import Positions


def flag_model(dimension: int, games: int) -> tuple[GPT2LMHeadModel, Positions, int]:
    """The model, some games, and the token of the move: the eleventh of the first game."""
    config = GPT2Config(
        vocab_size=61, n_positions=59, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    positions = Positions(random_games(games, np.random.default_rng(2)))
    token = int(positions.tokens[0, 10])
    model.transformer.wte.weight.zero_()
    model.transformer.wte.weight[token, dimension] = 2.0
    model.transformer.wpe.weight.zero_()
    for module in (model.transformer.h[0].attn.c_proj, model.transformer.h[0].mlp.c_proj):
        module.weight.zero_()
    return model, positions, token
