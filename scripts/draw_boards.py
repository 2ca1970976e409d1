"""Write docs/boards.md: every board property with its definition and an example, drawn from the labels themselves.

python scripts/draw_boards.py [FILE]
"""

from pathlib import Path
from typing import Annotated

import chess
import numpy as np
import tyro

from boardgames.chess import properties as chess_properties
from boardgames.chess.positions import ChessPositions, of_boards, positions
from boardgames.game import BoardProperty
from boardgames.othello import properties as othello_properties
from boardgames.othello.rules import NO_MOVE, OthelloPositions, replay, square_index

PAGE = Path(__file__).resolve().parents[1] / "docs" / "boards.md"

# where a property is seen: a FEN, or a transcript whose last space is the position
CHESS = {
    "pieces": "1.e4 e5 2.Nf3 ",
    "pieces off start": "1.e4 e5 2.Nf3 ",
    "pieces earlier": "1.e4 e5 2.Nf3 Nc6 3.Bb5 a6 4.Ba4 Nf6 5.O-O Be7 6.Re1 b5 7.Bb3 d6 8.c3 O-O 9.h3 Nb8 10.d4 Nbd7 "
    "11.c4 c6 12.cxb5 axb5 13.Nc3 Bb7 ",
    "colours": "1.e4 e5 2.Nf3 ",
    "empty": "1.e4 e5 2.Nf3 ",
    "threatened": "4k3/8/8/2n5/8/8/4P3/4K3 w - - 0 1",
    "legal": "4r1k1/8/8/8/8/8/4N3/R3K3 w Q - 0 1",
    "pseudo-legal": "4r1k1/8/8/8/8/8/4N3/R3K3 w Q - 0 1",
    "last move": "1.e4 e5 2.Nf3 ",
    "last own move": "1.e4 e5 2.Nf3 ",
    "check": "4r1k1/8/8/8/8/8/8/4K3 w - - 0 1",
    "can check next": "4k3/4N3/8/8/8/8/8/4R1K1 w - - 0 1",
    "has queen": "4k3/8/8/8/8/8/8/Q3K3 w - - 0 1",
    "bishop pair": "4k3/8/8/8/8/4B3/8/2B1K3 w - - 0 1",
    "can capture queen": "4k2q/8/8/8/8/8/q7/R5K1 w - - 0 1",
    "castling rights": "4k3/8/8/8/8/8/8/R3K3 w Q - 0 1",
    "kingside castling rights": "4k3/8/8/8/8/8/8/4K2R w K - 0 1",
    "queenside castling rights": "4k3/8/8/8/8/8/8/R3K3 w Q - 0 1",
    "fork": "r1q1k3/8/1N6/8/8/8/8/4K3 w - - 0 1",
    "knight fork": "6k1/4r3/8/3N1N2/8/8/8/4K3 w - - 0 1",
    "pin": "4r1k1/8/8/8/8/8/4N3/4K3 w - - 0 1",
    "legal en passant": "4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 2",
    "ambiguous move": "4k3/8/8/3p4/2P1P3/8/8/4K3 w - - 0 1",
    "mate threat": "r5k1/5ppp/8/8/8/8/5PPP/6K1 w - - 0 1",
    "connected rooks": "4k3/8/8/8/8/8/5PPP/R4RK1 w - - 0 1",
    "can claim draw": "1.Nf3 Nf6 2.Ng1 Ng8 3.Nf3 Nf6 4.Ng1 Ng8 ",
    "stalemate": "7k/5Q2/6K1/8/8/8/8/8 b - - 0 1",
    "white moves": "1.e4 e5 2.Nf3 ",
    "material": "QQQQQ1k1/8/8/8/8/8/8/K7 w - - 0 1",
    "piece count": "4k3/8/8/3pP3/8/8/8/4K3 w - d6 0 2",
}
# why the two sets differ where they do
REASONS = {
    "pieces": "The original names colours; ours the mover. At dots White moves, and they are the same.",
    "threatened": "The original has Black's attacks wherever it looks, which is right at dots only.",
    "legal": "The original keeps White's moves only, which is right at dots only.",
    "bishop pair": "The original counts bishops, whatever the colour of their squares.",
    "can capture queen": "The original looks at one queen only.",
    "fork": "The original counts one type of target at a time, and sums over attackers: it misses this fork, and "
    "sees one where two knights attack the same rook.",
    "knight fork": "The original sums over knights: here two knights attack one rook, and nothing is forked.",
    "ambiguous move": "The original counts pawns: cxd5 and exd5, which SAN always tells apart.",
    "mate threat": "The original mirrors the board, which is the same position with colours exchanged: it answers "
    "whether the mover has a mate in one. Here Black threatens Ra1, and White threatens nothing.",
    "material": "The original has no column above 39.",
}
OTHELLO_ABOUT = {
    "mine": "Discs of the side that has just moved.",
    "yours": "Discs of the other side.",
    "empty": "Empty squares.",
    "legal": "Where the side that moves next may play; passes are taken into account.",
    "flipped": "Discs turned over by the last move.",
    "last move": "The square of the last move.",
    "black": "Black's discs.",
    "white": "White's discs.",
    "ply": "How many moves came before the last one, in tens.",
    "occupied": "Squares with a disc.",
    "who moves": "Who moves next; the game is over; the side that has just moved moves again (the other must pass).",
    "line of mine": "By direction: empty squares from which a run of my discs is closed by one of yours.",
    "line of yours": "The same with the sides exchanged.",
    "closed line of mine": "By length (1 to 6) and direction: the closed lines of mine, with how many discs they hold.",
    "run of mine": "The same lengths, whatever comes after the run; 6 stands for 6 or more.",
}


def chess_positions(example: str) -> tuple[ChessPositions, chess.Board]:
    """One position and its board."""
    if not example.endswith(" "):
        board = chess.Board(example)
        return of_boards([board]), board
    found = positions([example], at="moves")
    board = chess.Board()
    for word in example.split():
        board.push_san(word.split(".")[-1])
    return found[np.array([len(found) - 1])], board


def chess_drawing(board: chess.Board, marked: set[str]) -> str:
    """The board with rank 8 on top; marked squares in brackets."""
    lines = []
    for rank in range(7, -1, -1):
        cells = []
        for file in range(8):
            piece = board.piece_at(chess.square(file, rank))
            symbol = piece.symbol() if piece else "."
            cells.append(f"[{symbol}]" if chess.square_name(chess.square(file, rank)) in marked else f" {symbol} ")
        lines.append(f"{rank + 1} " + "".join(cells).rstrip())
    return "\n".join([*lines, "   a  b  c  d  e  f  g  h"])


def true_columns(asked: BoardProperty, found: ChessPositions | OthelloPositions) -> list[str]:
    """Names of the columns that hold."""
    return [asked.columns[i] for i in np.flatnonzero(asked.labels(found)[0])]


def _answer(asked: BoardProperty, true: list[str]) -> str:
    if len(asked.columns) == 1:
        return "true" if true else "false"
    if len(true) > 6:
        return f"{len(true)} columns, such as `{true[0]}` and `{true[-1]}`"
    return ", ".join(f"`{c}`" for c in true) or "none"


def chess_sections() -> list[str]:
    """One section a property."""
    out = []
    for name, asked in chess_properties.CORRECTED.items():
        original, (found, board) = chess_properties.PAPER[name], chess_positions(CHESS[name])
        true = true_columns(asked, found)
        marked = {c.split()[-1] for c, s in zip(asked.columns, asked.squares, strict=True) if s and c in true}
        same = asked is original
        lines = [f"### {name}", " ".join(asked.description.split()), "", "```", chess_drawing(board, marked), "```"]
        lines.append(f"`{board.fen()}`: {_answer(asked, true)}.")
        if not same:
            lines.append(
                f"\nPaper: {' '.join(original.description.split())} "
                f"Here: {_answer(original, true_columns(original, found))}."
            )
            lines.append(REASONS.get(name, "Colours in place of the mover's perspective."))
        out.append("\n".join(lines))
    return out


def othello_position(transcript: str) -> OthelloPositions:
    """The position after the last move."""
    moves = np.full((1, 60), NO_MOVE, np.uint8)
    squares = [square_index(name) for name in transcript.split()]
    moves[0, : len(squares)] = squares
    games = replay(moves)
    last = np.zeros_like(games.played)
    last[0, len(squares) - 1] = True
    return games.at(last)


def othello_drawing(found: OthelloPositions, marked: set[str]) -> str:
    """Rows are letters and columns digits; x is Black, o White."""
    lines = ["   1  2  3  4  5  6  7  8"]
    for row in range(8):
        cells = []
        for column in range(8):
            bit = 1 << (8 * row + column)
            symbol = "x" if int(found.black[0]) & bit else "o" if int(found.white[0]) & bit else "."
            cells.append(f"[{symbol}]" if f"{'abcdefgh'[row]}{column + 1}" in marked else f" {symbol} ")
        lines.append(f"{'abcdefgh'[row]} " + "".join(cells).rstrip())
    return "\n".join(lines)


def othello_sections() -> list[str]:
    """One section a property, all at the same position."""
    found = othello_position(OTHELLO_EXAMPLE)
    out = []
    for name, asked in othello_properties.CORRECTED.items():
        true = true_columns(asked, found)
        marked = {c.split()[-1] for c, s in zip(asked.columns, asked.squares, strict=True) if s and c in true}
        drawing = ["", "```", othello_drawing(found, marked), "```"] if any(asked.squares) else [""]
        out.append("\n".join([f"### {name}", OTHELLO_ABOUT[name], *drawing, f"{_answer(asked, true)}."]))
    return out


OTHELLO_EXAMPLE = "d3 c3 c4 e3 f2"

HEAD = """# Boards: what is asked of positions

Written by `scripts/draw_boards.py` from the labels themselves; a test keeps it so. Brackets mark squares for which the
property holds. Two label sets: `corrected` (the default) asks from the mover's side and is right at every character;
`paper` repeats the original implementation exactly, where a published number is compared. `scripts/check_golden.py
board-labels DIR` compares both with reference arrays.

## Chess (`boardgames/chess/`)
A character belongs to the board after as many moves as there are spaces up to and including it. "The mover" is the
side to move on that board. Positions are scored at dots (the first 20 of a game, as the paper does: White to move),
after every move (at the space behind it), or at every character. The rating of the players is not a label yet.
"""
MIDDLE = """
## Othello (`boardgames/othello/`)
A position is the board after a move. Squares are a letter (row) and a digit (column). Directions: N is towards row a,
E towards column 8. After a forced pass "mine" has two readings: the side that has just moved (`CORRECTED`, the
default), or the opponent of the side that moves next (`BY_NEXT`); they differ right before a pass only. `PAPER` takes
the parity of the ply instead of the mover, which exchanges mine and yours after each forced pass, and its `run of mine`
counts a square without any run as a run of 6 (a negative index that wraps around). All of these are drawn after
"""


def document() -> str:
    """The whole page."""
    othello = MIDDLE + f"`{OTHELLO_EXAMPLE}` (x is Black and has just moved).\n"
    return "\n".join([HEAD, "\n\n".join(chess_sections()), othello, "\n\n".join(othello_sections())]) + "\n"


def main(
    file: Annotated[Path, tyro.conf.Positional] = PAGE,
) -> None:
    file.write_text(document())
    print(file)


if __name__ == "__main__":
    tyro.cli(main)
