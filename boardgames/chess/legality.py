"""How well a chess model plays by the rules: its cross-entropy, its greedy moves, and the mass on all legal moves.

A move is written as python-chess writes SAN, with the space that ends it. The probability of each legal move is exact:
the moves of a position are a tree of characters, and one forward pass over the transcript and that tree, where a
character sees the transcript and the characters before it in its own move only, gives all of them.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import chess
import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.chess.positions import replay
from boardgames.chess.transcript import CONTEXT, PAD, START, VOCABULARY, TranscriptError, decode, encode, lengths
from boardgames.legality import Legality, ratio

LONGEST_MOVE = len("Qa1xb2#")
SPACE = VOCABULARY.index(" ")
_READ = CONTEXT - 1  # characters that a model reads in training; the last one is only predicted


@dataclass(frozen=True)
class ChessLegality(Legality):
    """Moves over a sample of positions, cross-entropies (nats) over whole games; by ply: index = plies played."""

    accepted_move_rate: float  # as legal_move_rate, where python-chess's parser takes the move: "Qh4" for "Qh4+"
    accepted_move_rate_error: float | None
    cross_entropy_per_character: float
    cross_entropy_per_character_error: float | None
    cross_entropy_per_move: float  # of the played moves with the space that ends them, without their numbers
    cross_entropy_per_move_error: float | None


@dataclass(frozen=True)
class MoveStart:
    """A position at the character where a move begins."""

    game: int
    ply: int  # moves made so far
    text: str  # the transcript up to there, START and the number of White's move included
    board: chess.Board
    legal: tuple[str, ...]  # every legal move, in SAN


def move_starts(text: str) -> list[int]:
    """The place of the first character of every move in a transcript that begins with START."""
    starts, place = [], len(START)
    for ply, word in enumerate(text[len(START) :].split(" ")):
        before = word.find(".") + 1 if ply % 2 == 0 else 0
        if len(word) > before:
            starts.append(place + before)
        place += len(word) + 1
    return starts


def sample_positions(games: Sequence[str], count: int, seed: int = 0) -> list[MoveStart]:
    """`count` of the positions from which a move was played, all of them if there are fewer; in order.

    Each is equally likely, whatever its game and ply; positions so late that a model could not read the longest move
    behind them are left out.
    """
    texts = [game if game.startswith(START) else START + game for game in games]
    places = [
        (game, ply, start)
        for game, text in enumerate(texts)
        for ply, start in enumerate(move_starts(text))
        if start + LONGEST_MOVE <= _READ
    ]
    if not places:
        raise TranscriptError(f"{len(texts)} games hold no move to look at; expected transcripts such as '1.e4 e5'")
    chosen = np.random.default_rng(seed).permutation(len(places))[:count]
    wanted: dict[int, dict[int, int]] = {}
    for game, ply, start in (places[i] for i in np.sort(chosen)):
        wanted.setdefault(game, {})[ply] = start
    found = []
    for game, plies in wanted.items():
        for ply, board in enumerate(replay(texts[game], game)):
            if ply in plies:
                here, text = board.copy(stack=False), texts[game][: plies[ply]]
                found.append(MoveStart(game, ply, text, here, tuple(map(here.san, here.legal_moves))))
            if ply >= max(plies):
                break
    return found


class _Tree:
    """The legal moves of one position as a tree of characters behind its transcript: one row of a batch.

    `place[t]` is where in the row the text t stands, a beginning of some move; "" is the transcript's last character.
    """

    def __init__(self, position: MoveStart) -> None:
        begin = len(position.text) - 1
        self.moves = position.legal
        self.place = {"": begin}
        for move in self.moves:
            for end in range(1, len(move) + 1):
                self.place.setdefault(move[:end], begin + len(self.place))
        self.ids = np.concatenate(
            [encode([position.text], begin + 1)[0], [VOCABULARY.index(t[-1]) for t in self._nodes()]]
        )
        self.depth = np.concatenate([np.arange(begin + 1), [begin + len(t) for t in self._nodes()]])
        self.sees = np.tri(len(self.ids), dtype=bool)
        for text in self._nodes():
            row = self.place[text]
            self.sees[row] = self.sees[self.place[text[:-1]]]
            self.sees[row, row] = True

    def _nodes(self) -> list[str]:
        return list(self.place)[1:]

    def log_probabilities(self, log_p: Float[np.ndarray, "places 32"]) -> Float[np.ndarray, " moves"]:
        """Of every move with its space, from the log-probabilities of the character behind each place."""
        return np.array(
            [
                sum(log_p[self.place[move[:end]], VOCABULARY.index(move[end])] for end in range(len(move)))
                + log_p[self.place[move], SPACE]
                for move in self.moves
            ]
        )


@torch.no_grad()
def move_log_probabilities(
    model: PreTrainedModel, positions: Sequence[MoveStart], batch_size: int = 16
) -> list[Float[np.ndarray, " moves"]]:
    """log P(move and space | transcript) in nats of every legal move, in the order of `position.legal`."""
    found: dict[int, Float[np.ndarray, " moves"]] = {}
    order = sorted(range(len(positions)), key=lambda i: len(positions[i].text))  # little padding
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        trees = [_Tree(positions[i]) for i in rows]
        length = max(len(tree.ids) for tree in trees)
        ids, depth = np.full((2, len(rows), length), PAD, np.int64)
        sees = np.broadcast_to(np.eye(length, dtype=bool), (len(rows), length, length)).copy()  # padding sees itself
        for row, tree in enumerate(trees):
            n = len(tree.ids)
            ids[row, :n], depth[row, :n], sees[row, :n, :n] = tree.ids, tree.depth, tree.sees
        hidden = torch.zeros(len(rows), 1, length, length, dtype=model.dtype, device=model.device)
        hidden.masked_fill_(~torch.from_numpy(sees)[:, None].to(model.device), torch.finfo(model.dtype).min)
        ids_BL, depth_BL = (torch.from_numpy(x).to(model.device) for x in (ids, depth))
        logits = model(input_ids=ids_BL, attention_mask=hidden, position_ids=depth_BL, use_cache=False).logits
        log_p = logits.float().log_softmax(-1).cpu().numpy()
        found |= {i: tree.log_probabilities(log_p[row]) for row, (i, tree) in enumerate(zip(rows, trees, strict=True))}
    return [found[i] for i in range(len(positions))]


@torch.no_grad()
def greedy_moves(model: PreTrainedModel, texts: Sequence[str], batch_size: int = 64) -> list[str]:
    """The most likely next characters of each text, one after another, up to and including the first space.

    A text without a space at its end is no move: it is as long as a move with its space can be, or the model's context.
    """
    moves: dict[int, str] = {}
    order = sorted(range(len(texts)), key=lambda i: len(texts[i]))
    for start in range(0, len(order), batch_size):
        rows = order[start : start + batch_size]
        length = len(texts[rows[-1]])
        ids: Int[Tensor, "batch length"] = torch.full((len(rows), length), PAD)
        seen = torch.zeros_like(ids)
        for row, i in enumerate(rows):
            ids[row, length - len(texts[i]) :] = torch.from_numpy(encode([texts[i]], len(texts[i]))[0])
            seen[row, length - len(texts[i]) :] = 1
        made = model.generate(  # type: ignore[operator]  # every causal language model has it
            input_ids=ids.to(model.device),
            attention_mask=seen.to(model.device),
            max_new_tokens=LONGEST_MOVE + 1,
            do_sample=False,
            eos_token_id=SPACE,
            pad_token_id=SPACE,
        )
        for i, move in zip(rows, made[:, length:].cpu().numpy(), strict=True):
            text = decode(move)
            moves[i] = text[: text.find(" ") + 1] or text
    return [moves[i] for i in range(len(texts))]


def _accepts(board: chess.Board, move: str) -> bool:
    try:
        return bool(board.parse_san(move))  # a null move is false
    except ValueError:
        return False


@torch.no_grad()
def _cross_entropies(
    model: PreTrainedModel, games: Sequence[str], batch_size: int
) -> tuple[Float[np.ndarray, "2 games"], Int[np.ndarray, "2 games"]]:
    """(nats, count) of the characters behind START and of the whole moves with their space, in each game."""
    nats, counts = np.zeros((2, len(games))), np.zeros((2, len(games)), np.int64)
    for start in range(0, len(games), batch_size):
        texts = [game if game.startswith(START) else START + game for game in games[start : start + batch_size]]
        ids = torch.from_numpy(encode(texts)).to(model.device)
        logits = model(input_ids=ids[:, :-1], use_cache=False).logits.float()
        loss = torch.nn.functional.cross_entropy(logits.transpose(1, 2), ids[:, 1:], reduction="none")
        for row, (text, length, losses) in enumerate(
            zip(texts, lengths(texts), loss.double().cpu().numpy(), strict=True)
        ):
            ends = [(place, text.find(" ", place, length)) for place in move_starts(text[:length])]
            whole = [losses[place - 1 : end].sum() for place, end in ends if end > 0]
            nats[:, start + row] = losses[: length - 1].sum(), sum(whole)
            counts[:, start + row] = length - 1, len(whole)
    return nats, counts


def legality(
    model: PreTrainedModel, games: Sequence[str], count: int = 500, seed: int = 0, batch_size: int = 16
) -> ChessLegality:
    """Score a model on transcripts: cross-entropies on all of them, moves at `count` positions drawn with `seed`.

    A greedy move is legal if it is the text of a legal move and a space. A game that ends is no move: the data has no
    sign for it.
    """
    positions = sample_positions(games, count, seed)
    sure = move_log_probabilities(model, positions, batch_size)
    greedy = greedy_moves(model, [p.text for p in positions])
    legal = np.array([m.endswith(" ") and m[:-1] in p.legal for m, p in zip(greedy, positions, strict=True)])
    accepted = np.array([m.endswith(" ") and _accepts(p.board, m[:-1]) for m, p in zip(greedy, positions, strict=True)])
    mass = np.array([np.exp(x).sum() for x in sure])
    game, ply = np.array([p.game for p in positions]), np.array([p.ply for p in positions])
    looked_at, by_ply = np.bincount(game), np.bincount(ply)
    rate, parsed, given = (ratio(np.bincount(game, x), looked_at) for x in (legal, accepted, mass))
    nats, counts = _cross_entropies(model, games, batch_size)
    per_character, per_move = (ratio(n, c) for n, c in zip(nats, counts, strict=True))
    hits = np.bincount(ply, legal)
    return ChessLegality(
        games=len(games),
        positions=len(positions),
        legal_move_rate=rate.value,
        legal_move_rate_error=rate.error,
        legal_mass=given.value,
        legal_mass_error=given.error,
        legal_move_rate_by_ply=[float(h / n) if n else None for h, n in zip(hits, by_ply, strict=True)],
        positions_by_ply=by_ply.tolist(),
        accepted_move_rate=parsed.value,
        accepted_move_rate_error=parsed.error,
        cross_entropy_per_character=per_character.value,
        cross_entropy_per_character_error=per_character.error,
        cross_entropy_per_move=per_move.value,
        cross_entropy_per_move_error=per_move.error,
    )
