"""The games that `kibitz board` chooses features on and scores them on, and which of their positions count."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from boardgames.labelled import Game, LabelledGames, groups_of, label_chess, label_othello
from boardgames.othello.pretraining import held_out_games
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import to_tokens
from boardgames.prefixes import first_seen
from boardgames.splits import split

if TYPE_CHECKING:
    from kibitz.board import BoardConfig
