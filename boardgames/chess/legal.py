"""The legal part of a chess transcript: what the rules of python-chess allow of it."""

from collections.abc import Iterable, Iterator
from typing import Literal

from boardgames.chess.positions import IllegalMoveError, replay
from boardgames.chess.transcript import CONTEXT, START, ChessGame
from boardgames.skipped import Skipped

Check = Literal["all", "context", "none"]


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


def finished_part(transcript: str) -> str:
    """What a model wrote, up to the end of the game by the rules: moves behind a mate are none. It must be legal."""
    for ply, board in enumerate(replay(START + transcript, 0, len(transcript) + 2)):
        if not any(board.generate_legal_moves()):
            return " ".join(transcript.split(" ")[:ply])
    return transcript


def only_legal(games: Iterable[ChessGame], check: Check, skipped: Skipped, source: str) -> Iterator[ChessGame]:
    """Games without those that the rules forbid, which `skipped` counts and names by `source`, game, ply and text."""
    for game in games:
        if check != "none":
            _, error = legal_part(game.transcript, game.number, CONTEXT if check == "context" else None)
            if error is not None:
                skipped.broken(f"{source}: {error}", "with an illegal move")
                continue
        yield game
