"""What people read and write of board models, which have no tokenizer: moves as text, features as properties."""

from collections.abc import Mapping, Sequence
from itertools import islice
from pathlib import Path
from typing import Any

from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedModel, PreTrainedTokenizerBase, PreTrainedTokenizerFast

from boardgames.chess import transcript as chess
from boardgames.labelled import label_chess
from boardgames.labelled_rows import LabelledRows
from boardgames.lm import BoardGame, game_of
from boardgames.othello.rules import random_games, square_name
from boardgames.othello.streams import stream
from boardgames.othello.transcript import SQUARE_OF_TOKEN
from boardgames.report import Positions
from boardgames.skipped import Skipped
from kibitz.board_games import read_all
from kibitz.players import need_chess_rules
from saes.files import FileError

_UNKNOWN = "?"


def board_game(model: PreTrainedModel) -> BoardGame | None:
    """What a model plays, by its vocabulary."""
    try:
        return game_of(model.config.vocab_size)
    except FileError:
        return None


def board_tokenizer(game: BoardGame) -> PreTrainedTokenizerBase:
    """Characters of a chess transcript, begun with ";" ("1.e4 e5"), or squares of Othello with spaces ("f5 d6 c3").

    What is none of them is a token behind those of the model.
    """
    words = list(chess.VOCABULARY) if game == "chess" else ["<pad>", *map(square_name, SQUARE_OF_TOKEN[1:].tolist())]
    vocabulary = {word: i for i, word in enumerate([*words, _UNKNOWN])}
    inner = Tokenizer(models.WordLevel(vocabulary, unk_token=_UNKNOWN))
    each = pre_tokenizers.Split(Regex("[\\s\\S]"), "isolated")
    inner.pre_tokenizer = each if game == "chess" else pre_tokenizers.WhitespaceSplit()  # type: ignore[assignment]
    bos = chess.START if game == "chess" else None
    return PreTrainedTokenizerFast(tokenizer_object=inner, unk_token=_UNKNOWN, bos_token=bos)


def some_games(game: BoardGame, files: Sequence[Path], count: int, seed: int) -> Any:
    """`count` games at most, those of the files, by default uniformly random ones: moves of Othello, or transcripts."""
    if files:
        return read_all(game, files, Skipped())[:count]
    if game == "othello":
        return random_games(count, stream("circuit_names", seed))
    need_chess_rules()
    from boardgames.chess import play

    return [each.transcript for each in islice(play.random_games(seed), count)]


def named_positions(game: BoardGame, files: Sequence[Path], count: int, seed: int) -> Positions | LabelledRows:
    """`count` games at most with all properties: those of the files, by default uniformly random ones."""
    return labelled_positions(game, some_games(game, files, count, seed))


def labelled_positions(game: BoardGame, games: Any) -> Positions | LabelledRows:
    """Games of `some_games` with all properties; of Othello every ply is a position, of chess the space behind every
    move."""
    if game == "othello":
        return Positions(games)
    need_chess_rules()
    from boardgames.chess.properties import CORRECTED

    groups: Mapping[str, list] = {name: [asked] for name, asked in CORRECTED.items()}
    return label_chess(games, groups, "moves")
