"""Othello with lists, loops and one game at a time: written from the rules alone, slow, and easy to read.

Squares are (row, column); row 0 is the letter a. Nothing here is shared with boardgames.othello.
"""

STEPS = [(-1, 0), (-1, 1), (0, 1), (1, 1), (1, 0), (1, -1), (0, -1), (-1, -1)]
CENTRE = {(3, 3): "white", (3, 4): "black", (4, 3): "black", (4, 4): "white"}


def other(colour: str) -> str:
    return "white" if colour == "black" else "black"


class Game:
    """A board and whose turn it is; None when nobody can move."""

    def __init__(self) -> None:
        self.board = [[CENTRE.get((r, c), "empty") for c in range(8)] for r in range(8)]
        self.turn: str | None = "black"

    def line(self, square: int, step: tuple[int, int], colour: str) -> list[int]:
        """Discs that `colour` would turn over in one direction by playing on a square."""
        found, r, c = [], square // 8 + step[0], square % 8 + step[1]
        while 0 <= r < 8 and 0 <= c < 8 and self.board[r][c] == other(colour):
            found.append(8 * r + c)
            r, c = r + step[0], c + step[1]
        closed = 0 <= r < 8 and 0 <= c < 8 and self.board[r][c] == colour
        return found if closed else []

    def legal(self, colour: str | None) -> list[int]:
        if colour is None:
            return []
        free = [s for s in range(64) if self.board[s // 8][s % 8] == "empty"]
        return [s for s in free if any(self.line(s, step, colour) for step in STEPS)]

    def play(self, square: int) -> list[list[int]]:
        """Play for the side to move; returns the discs turned over, by direction."""
        colour = self.turn
        assert colour is not None and square in self.legal(colour)
        turned = [self.line(square, step, colour) for step in STEPS]
        for s in [square, *sum(turned, [])]:
            self.board[s // 8][s % 8] = colour
        self.turn = next((side for side in (other(colour), colour) if self.legal(side)), None)
        return turned

    def discs(self, colour: str) -> list[int]:
        return [s for s in range(64) if self.board[s // 8][s % 8] == colour]
