"""Games that a language model plays: its own samples, at a temperature, many side by side with a key-value cache.

Every game has its own stream of random numbers, which follows from (seed, game), so the same seed gives the same games
and a larger number of them begins with those of a smaller. (In another batch size or on another device a probability
may differ in its last digits, and with it, rarely, a token.)
"""

from collections.abc import Iterator
from typing import Any, Literal, get_args

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.chess.transcript import CONTEXT as CHESS_CONTEXT
from boardgames.chess.transcript import START, ChessGame, decode
from boardgames.chess.transcript import VOCABULARY as CHARACTERS
from boardgames.game import unpack
from boardgames.othello.rules import MAX_PLIES, NO_MOVE, Table, pick_bit
from boardgames.othello.transcript import SQUARE_OF_TOKEN, TOKEN_OF_SQUARE, VOCABULARY, OthelloGames
from boardgames.skipped import Skipped

Illegal = Literal["mask", "cut", "drop"]
"""What becomes of an illegal move: it is never drawn, or the game ends before it, or the game is left out."""
BATCH = 256
_BARREN = 1000  # games in a row of which none could be kept: the model does not know the game


class PlayError(ValueError):
    """A model that cannot play this game, or a way of playing that does not exist."""


def othello_model_games(
    model: PreTrainedModel,
    seed: int,
    temperature: float = 1.0,
    illegal: Illegal = "mask",
    skipped: Skipped | None = None,
    batch: int = BATCH,
) -> Iterator[OthelloGames]:
    """Games without end, `batch` at a time. What is cut or left out is counted in `skipped`.

    A model of Othello has no token for the beginning, so the first move is drawn uniformly from the four legal ones.
    Padding is an illegal move too while somebody can move.
    """
    _check(model, VOCABULARY, temperature, illegal)
    skipped = skipped or Skipped()
    first = barren = 0
    while True:
        draws = _draws(seed, first, batch, MAX_PLIES)
        table, moves = Table(batch), np.full((batch, MAX_PLIES), NO_MOVE, np.uint8)
        alive, wrong = np.ones(batch, bool), np.zeros(batch, bool)
        cache: Any = None
        square = pick_bit(table.legal, (4 * draws[:, 0]).astype(np.uint8))
        for ply in range(MAX_PLIES):
            bit = np.uint64(1) << (square & 63).astype(np.uint64)
            fits = (square < 64) & ((bit & table.legal) != 0)
            wrong |= alive & ~fits
            alive &= fits
            moves[alive, ply] = square[alive]
            table.play(np.where(alive, bit, np.uint64(0)))
            alive &= table.legal != 0
            if ply == MAX_PLIES - 1 or not alive.any():
                break
            tokens = torch.from_numpy(TOKEN_OF_SQUARE[np.where(alive, square, NO_MOVE)])[:, None]
            logits, cache = _next(model, tokens, cache)
            allowed = np.ones_like(logits, bool)
            if illegal == "mask":
                allowed[:, 0] = False
                allowed[:, 1:] = unpack(table.legal)[:, SQUARE_OF_TOKEN[1:]]
                allowed[~alive] = True  # their draws are not looked at
            square = SQUARE_OF_TOKEN[draw(logits, draws[:, ply + 1], temperature, allowed)]
        numbers = np.arange(first, first + batch)
        for game in np.flatnonzero(wrong):
            done = int((moves[game] != NO_MOVE).sum())
            skipped.unwanted(_what(illegal), f"game {numbers[game]}, ply {done}")
        kept = ~wrong if illegal == "drop" else np.ones(batch, bool)
        barren = 0 if kept.any() else barren + batch
        if barren >= _BARREN:
            raise _unable(barren)
        games = OthelloGames.of_moves(moves)[kept]
        yield OthelloGames(games.moves, games.black_discs, numbers[kept])
        first += batch


def chess_model_games(
    model: PreTrainedModel,
    seed: int,
    temperature: float = 1.0,
    illegal: Illegal = "cut",
    skipped: Skipped | None = None,
    batch: int = BATCH,
    context: int = CHESS_CONTEXT,
) -> Iterator[ChessGame]:
    """Games without end, drawn character by character up to `context`.

    A model need not know where a game ends: what follows a mate or a stalemate is cut off and not counted, and so is
    what follows another START. A half move at the end goes; games without a legal move are left out.
    """
    from boardgames.chess.legal import is_over, legal_part

    if illegal == "mask":
        raise PlayError("illegal moves of chess cannot be masked, since moves are written in characters: cut or drop")
    _check(model, len(CHARACTERS), temperature, illegal)
    context = min(context, getattr(model.config, "max_position_embeddings", context) + 1)
    skipped = skipped or Skipped()
    first = barren = 0
    while True:
        for number, text in enumerate(_characters(model, seed, first, batch, temperature, context), first):
            whole = text.partition(START)[0] if START in text else text.rpartition(" ")[0]
            transcript, error = legal_part(whole.rstrip(), number)
            fault = error is not None and not is_over(transcript)
            if fault:
                skipped.unwanted(_what(illegal), str(error))
            if transcript and not (fault and illegal == "drop"):
                barren = 0
                yield ChessGame(transcript, number=number)
            elif (barren := barren + 1) >= _BARREN:
                raise _unable(barren)
        first += batch


def draw(
    logits: Float[np.ndarray, "games tokens"],
    uniform: Float[np.ndarray, " games"],
    temperature: float,
    allowed: Bool[np.ndarray, "games tokens"],
) -> Int[np.ndarray, " games"]:
    """A token of each game by inversion: the one in whose share `uniform` lies; the likeliest at temperature 0."""
    scores = np.where(allowed, logits, -np.inf)
    if temperature == 0:
        return scores.argmax(-1)
    odds = np.exp((scores - scores.max(-1, keepdims=True)) / temperature)
    heights = odds.cumsum(-1)
    return (heights <= (uniform * heights[:, -1])[:, None]).sum(-1)


@torch.no_grad()
def _next(model: PreTrainedModel, tokens: Int[Tensor, "games 1"], cache: Any) -> tuple[np.ndarray, Any]:
    """Logits [games, tokens] in float64 after one more token, and the cache that holds it."""
    out: Any = model(input_ids=tokens.to(model.device), past_key_values=cache, use_cache=True)
    return out.logits[:, -1].double().cpu().numpy(), out.past_key_values


def _characters(
    model: PreTrainedModel, seed: int, first: int, games: int, temperature: float, context: int
) -> list[str]:
    """Texts of `context` characters without START."""
    draws = _draws(seed, first, games, context)
    ids = np.full((games, context), CHARACTERS.index(START))
    cache: Any = None
    everything = np.ones((games, len(CHARACTERS)), bool)
    for place in range(1, context):
        logits, cache = _next(model, torch.from_numpy(ids[:, place - 1 : place]), cache)
        ids[:, place] = draw(logits, draws[:, place], temperature, everything)
    return [decode(row[1:]) for row in ids]


def _draws(seed: int, first: int, games: int, steps: int) -> Float[np.ndarray, "games steps"]:
    return np.stack([np.random.default_rng([seed, number]).random(steps) for number in range(first, first + games)])


def _unable(games: int) -> PlayError:
    return PlayError(f"none of the model's last {games} games is legal: it does not know this game")


def _what(illegal: Illegal) -> str:
    return "left out at an illegal move" if illegal == "drop" else "cut before an illegal move"


def _check(model: PreTrainedModel, vocabulary: int, temperature: float, illegal: Illegal) -> None:
    if not 0 <= temperature < float("inf"):
        raise PlayError(f"temperature is {temperature}: choose 0 or more")
    if illegal not in get_args(Illegal):
        raise PlayError(f"illegal is {illegal!r}: choose from {', '.join(get_args(Illegal))}")
    if model.config.vocab_size != vocabulary:
        raise PlayError(f"a model of {model.config.vocab_size} tokens does not play this game, which has {vocabulary}")
