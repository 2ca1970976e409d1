"""Othello boards as SVG: discs on green, or one number per square as heat.

Rows are the letters a..h from top to bottom and columns the digits 1..8: square = 8 * row + col.
"""

from collections.abc import Collection, Sequence

from boardgames.othello.rules import square_name
from circuits.markup import number, text
from kibitz.report.markup import percent

CELL = 30
EDGE = 18  # room for letters and digits
SIZE = EDGE + 8 * CELL + 4


def _corner(square: int) -> tuple[int, int]:
    """Upper left corner of a square: (x, y)."""
    return EDGE + CELL * (square % 8), EDGE + CELL * (square // 8)


def _frame(kind: str, label: str, inner: str) -> str:
    letters = "".join(
        f'<text x="{EDGE / 2:g}" y="{EDGE + CELL * (i + 0.5):g}">{"abcdefgh"[i]}</text>'
        f'<text x="{EDGE + CELL * (i + 0.5):g}" y="{EDGE / 2:g}">{i + 1}</text>'
        for i in range(8)
    )
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" class="board {kind}" viewBox="0 0 {SIZE} {SIZE}" role="img" '
        f'aria-label="{text(label)}"><g class="coords">{letters}</g>{inner}</svg>'
    )


def _grid() -> str:
    side = 8 * CELL
    lines = "".join(f"M{EDGE + CELL * i} {EDGE}v{side}M{EDGE} {EDGE + CELL * i}h{side}" for i in range(9))
    return f'<path class="grid" d="{lines}"/>'


def _ring(square: int) -> str:
    x, y = _corner(square)
    return f'<rect class="ring" x="{x + 1.5}" y="{y + 1.5}" width="{CELL - 3}" height="{CELL - 3}" rx="4"/>'


def disc_board(
    black: Collection[int],
    white: Collection[int],
    *,
    label: str,
    last: int | None = None,
    target: int | None = None,
    marks: Collection[int] = (),
) -> str:
    """A position: a dot on the last move, a ring around the target square, dashes around squares to compare."""
    parts = [f'<rect class="felt" x="{EDGE}" y="{EDGE}" width="{8 * CELL}" height="{8 * CELL}"/>', _grid()]
    for colour, squares in (("black", black), ("white", white)):
        for square in sorted(squares):
            x, y = _corner(square)
            parts.append(f'<circle class="{colour}" cx="{x + CELL / 2:g}" cy="{y + CELL / 2:g}" r="11.5"/>')
    if last is not None and 0 <= last < 64:
        x, y = _corner(last)
        parts.append(f'<circle class="last" cx="{x + CELL / 2:g}" cy="{y + CELL / 2:g}" r="3.6"/>')
    for square in sorted(marks):
        x, y = _corner(square)
        parts.append(f'<rect class="mark" x="{x + 2.5}" y="{y + 2.5}" width="{CELL - 5}" height="{CELL - 5}" rx="3"/>')
    if target is not None:
        parts.append(_ring(target))
    return _frame("discs", label, "".join(parts))


def heat_board(values: Sequence[float], *, label: str) -> str:
    """One number in 0..1 per square: the deeper the colour the larger; written into the square in hundredths."""
    parts = []
    for square, value in enumerate(values):
        x, y = _corner(square)
        share = min(max(value, 0.0), 1.0)
        parts.append(
            f'<rect class="heat" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill-opacity="{share:.2f}">'
            f"<title>{square_name(square)}: {number(value)}</title></rect>"
        )
        tone = "strong" if share > 0.7 else "weak"
        written = "1" if value >= 0.995 else f".{round(100 * share):02d}"
        parts.append(f'<text class="{tone}" x="{x + CELL / 2:g}" y="{y + CELL / 2:g}">{written}</text>')
    return _frame("heatmap", label, "".join(parts) + _grid())


def owner_board(mine: Sequence[float], yours: Sequence[float], *, label: str, target: int | None = None) -> str:
    """Shares of mine and yours per square: blue where mine prevails, orange where yours does, pale where neither."""
    parts = []
    for square, (m, y_share) in enumerate(zip(mine, yours, strict=True)):
        x, y = _corner(square)
        lean = max(-1.0, min(1.0, m - y_share))
        side = "plus" if lean >= 0 else "minus"
        parts.append(
            f'<rect class="{side}" x="{x}" y="{y}" width="{CELL}" height="{CELL}" fill-opacity="{abs(lean):.2f}">'
            f"<title>{square_name(square)}: mine {percent(m)}, yours {percent(y_share)}</title></rect>"
        )
    ring = "" if target is None else _ring(target)
    return _frame("heatmap", label, "".join(parts) + _grid() + ring)
