"""The legal part of a chess transcript: what the rules of python-chess allow of it."""

from collections.abc import Iterable, Iterator
from typing import Literal

import chess

from boardgames.chess.positions import IllegalMoveError, replay
from boardgames.chess.transcript import CONTEXT, START, ChessGame
from boardgames.skipped import Skipped

Check = Literal["all", "context"]
"""every move, or those in the characters that models read"""


def legal_part(transcript: str, game: int = 0, context: int | None = None) -> tuple[str, IllegalMoveError | None]:
    """The moves before the first illegal one and the error that names it; everything and None for a legal game.

    `context`: only so many characters, START included, are looked at; a half move at their end is no fault.
    """
    text = START + transcript
    plies = -1
    try:
        for _ in replay(text, game, context or len(text) + 1):
            plies += 1
    except IllegalMoveError as error:
        return " ".join(transcript.split(" ")[:plies]), error
    return transcript, None


def is_over(transcript: str) -> bool:
    """Whether a legal game has ended in a mate or a stalemate."""
    moves: list[chess.Move] = []
    for board in replay(START + transcript, 0, len(transcript) + 2):
        moves = list(board.generate_legal_moves())
    return not moves


def only_legal(games: Iterable[ChessGame], check: Check, skipped: Skipped, source: str) -> Iterator[ChessGame]:
    """Games without those that the rules forbid, which `skipped` counts and names by `source`, game, ply and text."""
    for game in games:
        _, error = legal_part(game.transcript, game.number, CONTEXT if check == "context" else None)
        if error is None:
            yield game
        else:
            skipped.broken(f"{source}: {error}", "with an illegal move")
