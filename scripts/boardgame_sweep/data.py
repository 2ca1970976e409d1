"""Models and games of the sweep: disjoint games to train dictionaries on, to choose features with and to score on."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgame_sweep.plan import Game
from boardgame_sweep.training import Reading
from boardgames.chess.transcript import CONTEXT as CHESS_CONTEXT
from boardgames.chess.transcript import encode, lengths, read_transcripts
from boardgames.othello.planted_rule import PlantedRule
from boardgames.othello.rules import random_games
from boardgames.othello.streams import stream
from boardgames.othello.transcript import CONTEXT as OTHELLO_CONTEXT
from boardgames.othello.transcript import PAD, to_tokens
from boardgames.splits import Part, part_of
from saes.sites import Site

HELD_OUT = 1000  # games of the dictionaries' part that the pilot is scored on and nothing is trained on
Games = Any  # uint8 [games, 60] of Othello, or transcripts of chess


@dataclass(frozen=True)
class GameParts:
    """One game's parts, and how its games become rows of tokens."""

    game: Game
    parts: dict[Part, Games]
    source: str

    def rows(self, games: Games) -> tuple[Int[Tensor, "games length"], Bool[Tensor, "games length"]]:
        """Tokens, and which of them are of a game and not behind its end."""
        if self.game == "othello":
            tokens = torch.from_numpy(to_tokens(games[:, :OTHELLO_CONTEXT]))
            return tokens, tokens != PAD
        tokens = torch.from_numpy(encode(games))
        return tokens, torch.arange(CHESS_CONTEXT) < torch.from_numpy(lengths(games))[:, None]

    def reading(self, model: PreTrainedModel, *sites: Site) -> Reading:
        """What dictionaries are trained on, and the held-out rows of the same part."""
        games = self.parts["dictionary"]
        tokens, mask = self.rows(games[HELD_OUT:])
        held_out, held_out_mask = self.rows(games[:HELD_OUT])
        return Reading(model, sites, tokens, mask, held_out, held_out_mask, 1024 if self.game == "othello" else 256)


def othello_parts(dictionary: int, split: int, seed: int = 0, rule: PlantedRule | None = None) -> GameParts:
    """Uniformly random games, each part from a stream of its own, without games that an earlier part has.

    With a rule those of a player who follows it.
    """
    known: set[bytes] = set()
    parts: dict[Part, Games] = {}
    for part in ("dictionary", "selection", "scoring"):
        count = dictionary + HELD_OUT if part == "dictionary" else split
        moves = random_games(count, stream(part, seed), None if rule is None else rule.shunned)
        fresh = [n for n, game in enumerate(moves) if (key := game.tobytes()) not in known and not known.add(key)]
        parts[part] = moves[fresh]
    of_rule = "" if rule is None else f", no {rule.move} while {rule.cue} is the opponent's"
    return GameParts("othello", parts, f"uniformly random legal play{of_rule}")


def chess_parts(files: Sequence[Path], split: int) -> GameParts:
    """Games of files of transcripts, split by their hashes; `split` of each of the parts that are scored."""
    parts: dict[Part, list[str]] = {"language_model": [], "dictionary": [], "selection": [], "scoring": []}
    for game in dict.fromkeys(game for path in files for game in read_transcripts(path)):
        parts[part_of(game)].append(game)
    rng = np.random.default_rng(0)
    shuffled: dict[Part, Games] = {
        part: [games[i] for i in rng.permutation(len(games))] for part, games in parts.items()
    }
    for part in ("selection", "scoring"):
        if len(shuffled[part]) < split:
            raise ValueError(f"{len(shuffled[part])} games are for {part}: give files with more, {split} are needed")
        shuffled[part] = shuffled[part][:split]
    return GameParts("chess", shuffled, ", ".join(path.name for path in files))
