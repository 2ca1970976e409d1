"""Labelling chess positions, beside the way the original does it, on the same games in one run and with equal results.

    OMP_NUM_THREADS=1 python benchmarks/chess_labels.py [--games FILE] [--count 20]

The slow way (adamkarvonen/SAE_BoardGameEval): a board is copied for every ply of the first 256 characters, python-chess
is asked square by square for each property, and each board's one-hot states are repeated for all its characters; the
20 dots are picked at the end. Without a file, the games are random legal play.
"""

import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated

import chess
import numpy as np
import tyro

from boardgames.chess.positions import CONTEXT, DOTS, positions
from boardgames.chess.properties import PAPER, STRATEGY
from boardgames.chess.transcript import START, read_transcripts
from boardgames.game import label

MORE = ("knight fork", "mate threat", "connected rooks", "can claim draw")
PROPERTIES = ("pieces", "pieces off start", "colours", "pseudo-legal", *STRATEGY, *MORE)  # the original's pipeline
PREY = {"P": "NBRQK", "N": "RQK", "B": "RQK", "R": "QK"}
START_BOARD = chess.Board()


def _per_square(ask: Callable[[chess.Square], bool]) -> np.ndarray:
    return np.array([ask(square) for square in chess.SQUARES])


def _pieces(board: chess.Board, off_start: bool) -> np.ndarray:
    state = np.zeros((12, 64), bool)
    for square in chess.SQUARES:
        piece = board.piece_at(square)
        if piece and not (off_start and START_BOARD.piece_at(square) == piece):
            state["PNBRQKpnbrqk".index(piece.symbol()), square] = True
    return state


def _colours(board: chess.Board, colour: chess.Color) -> np.ndarray:
    return _per_square(lambda square: (piece := board.piece_at(square)) is not None and piece.color == colour)


def _hits(board: chess.Board, kind: str, prey: str) -> int:
    total = 0
    for square in board.pieces(chess.Piece.from_symbol(kind).piece_type, board.turn):
        if not board.is_pinned(board.turn, square):
            for target in board.attacks(square):
                piece = board.piece_at(target)
                total += piece is not None and piece.color != board.turn and piece.symbol().upper() in prey
    return total


def _can_check(board: chess.Board) -> bool:
    for move in board.legal_moves:
        board.push(move)
        checks = board.is_check()
        board.pop()
        if checks:
            return True
    return False


def _can_mate(board: chess.Board) -> bool:
    for move in board.legal_moves:
        board.push(move)
        mates = board.is_checkmate()
        board.pop()
        if mates:
            return True
    return False


def _destinations(moves: Iterator[chess.Move]) -> np.ndarray:
    state = np.zeros(64, bool)
    for move in moves:
        state[move.to_square] = True
    return state


def _ambiguous(board: chess.Board) -> bool:
    ways: dict[tuple[int | None, int], set[int]] = {}
    for move in board.legal_moves:
        ways.setdefault((board.piece_type_at(move.from_square), move.to_square), set()).add(move.from_square)
    return any(len(origins) > 1 for origins in ways.values())


def _queen_capture(board: chess.Board) -> bool:
    queens = [s for s, p in board.piece_map().items() if p.piece_type == chess.QUEEN and p.color != board.turn]
    return bool(queens) and any(move.to_square == queens[0] for move in board.legal_moves)


def _connected_rooks(board: chess.Board) -> bool:
    rooks = list(board.pieces(chess.ROOK, board.turn))
    return any(b in board.attacks(a) for a in rooks for b in rooks)


def _pin(board: chess.Board) -> bool:
    return any(
        (piece := board.piece_at(square)) is not None and board.is_pinned(piece.color, square)
        for square in chess.SQUARES
    )


SLOW: dict[str, Callable[[chess.Board], np.ndarray | bool]] = {
    "pieces": lambda b: _pieces(b, False),
    "pieces off start": lambda b: _pieces(b, True),
    "colours": lambda b: np.stack([_colours(b, chess.WHITE), _colours(b, chess.BLACK)]),
    "pseudo-legal": lambda b: _destinations(iter(b.pseudo_legal_moves)),
    "threatened": lambda b: _per_square(lambda s: b.is_attacked_by(chess.BLACK, s)),
    "legal": lambda b: _destinations(m for m in b.legal_moves if b.color_at(m.from_square) == chess.WHITE),
    "check": lambda b: b.is_check(),
    "can check next": _can_check,
    "has queen": lambda b: len(b.pieces(chess.QUEEN, b.turn)) > 0,
    "bishop pair": lambda b: len(b.pieces(chess.BISHOP, b.turn)) >= 2,
    "can capture queen": _queen_capture,
    "castling rights": lambda b: b.has_castling_rights(b.turn),
    "kingside castling rights": lambda b: b.has_kingside_castling_rights(b.turn),
    "queenside castling rights": lambda b: b.has_queenside_castling_rights(b.turn),
    "fork": lambda b: any(_hits(b, kind, prey) >= 2 for kind, targets in PREY.items() for prey in targets),
    "pin": _pin,
    "legal en passant": lambda b: any(b.is_en_passant(m) for m in b.legal_moves),
    "ambiguous move": _ambiguous,
    "knight fork": lambda b: _hits(b, "N", PREY["N"]) >= 2,
    "mate threat": _can_mate,
    "connected rooks": _connected_rooks,
    "can claim draw": lambda b: b.can_claim_draw(),
}


def slow_labels(games: list[str]) -> np.ndarray:
    """[dots, columns], columns in the order of PROPERTIES."""
    rows = []
    for game in games:
        text = (START + game)[:CONTEXT]
        board, boards = chess.Board(), [chess.Board()]
        for word in text[len(START) :].split(" ")[:-1]:
            board.push_san(word.split(".")[-1])
            boards.append(board.copy())
        states = [np.concatenate([np.ravel(SLOW[name](b)) for name in PROPERTIES]).astype(np.int8) for b in boards]
        spaces = np.cumsum([character == " " for character in text])
        by_character = np.stack(states)[spaces]
        rows.append(by_character[[i for i, character in enumerate(text) if character == "."][:DOTS]])
    return np.concatenate(rows)


def fast_labels(games: list[str]) -> np.ndarray:
    """The same from boardgames."""
    return label(positions(games), [PAPER[name] for name in PROPERTIES]).matrix


def random_game(rng: random.Random) -> str:
    """A transcript of random legal play."""
    board, words = chess.Board(), []
    while not board.is_game_over() and len(words) < 70:
        move = rng.choice(list(board.legal_moves))
        words.append((f"{len(words) // 2 + 1}." if board.turn else "") + board.san(move))
        board.push(move)
    return " ".join(words)


def main(games: Annotated[Path | None, tyro.conf.arg(help="a file of transcripts")] = None, count: int = 20) -> None:
    rng = random.Random(0)
    chosen = (
        [g for g in read_transcripts(games) if len(g) > 300][:count]
        if games
        else [random_game(rng) for _ in range(count)]
    )
    seconds, labels = {}, {}
    for name, work in {"slow": slow_labels, "fast": fast_labels}.items():
        times = []
        for _ in range(1 if name == "slow" else 3):
            begun = time.process_time()
            labels[name] = work(chosen)
            times.append(time.process_time() - begun)
        seconds[name] = min(times)
        rows = len(labels[name])
        print(f"{name}: {seconds[name]:7.2f} s for {rows} positions, {1e6 * seconds[name] / rows:7.0f} us/position")
    same = np.array_equal(labels["slow"].astype(bool), labels["fast"])
    print(f"equal: {same}; {seconds['slow'] / seconds['fast']:.1f} times the rate (target: at least 10)")


if __name__ == "__main__":
    tyro.cli(main)
