"""Board games as ground truth: rules, labels, and how well features know the board."""

from boardgames.dictionaries import load_dictionaries
from boardgames.lm import load_chess_gpt, load_othello_gpt
from boardgames.matching import match_features
from boardgames.othello.counterfactuals import counterfactuals
from boardgames.othello.rules import random_games, replay, square_index
from boardgames.othello.transcript import to_tokens
from boardgames.report import Positions, activations, board_score

__all__ = [
    "Positions",
    "activations",
    "board_score",
    "counterfactuals",
    "load_chess_gpt",
    "load_dictionaries",
    "load_othello_gpt",
    "match_features",
    "random_games",
    "replay",
    "square_index",
    "to_tokens",
]
