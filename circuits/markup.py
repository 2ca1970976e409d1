"""Words and numbers as text that is safe in HTML, SVG, XML and Graphviz' language."""

import html
import math

NONE = "–"
_PLUS, _MINUS = "#2166ac", "#c25a12"  # apart for every common kind of colour blindness


def printable(value: object) -> str:
    """Any value without control characters, lone surrogates and the like, which XML cannot hold."""
    return "".join(c for c in str(value) if c.isprintable() or c in "\n\t")


def text(value: object) -> str:
    """Any value as escaped text, for content and for attributes in quotes."""
    return html.escape(printable(value), quote=True)


def number(value: float | None, digits: int = 2) -> str:
    """'0.57', with a true minus sign."""
    return NONE if value is None or not math.isfinite(value) else _minus(value, digits)


def signed(value: float, digits: int = 2) -> str:
    """'+0.57' or '−0.57'."""
    return ("+" if value > 0 else "") + number(value, digits)


def significant(value: float, digits: int = 2) -> str:
    """'+0.0021', '+12', '−3.4e-07': signed, with so many digits that count."""
    if not math.isfinite(value):
        return NONE
    return f"{value:+.{digits}g}".replace("-", "\u2212", 1) if value < 0 else f"{value:+.{digits}g}"


def effect_colour(effect: float) -> str:
    """Blue, or orange for negative effects."""
    return _PLUS if effect >= 0 else _MINUS


def quoted_dot(words: str) -> str:
    """A quoted string of the DOT language, where a label's backslashes would be read once more."""
    escaped = printable(words).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'


def _minus(value: float, digits: int) -> str:
    written = f"{value:.{digits}f}"
    if float(written) == 0:
        written = written.lstrip("-")
    return written.replace("-", "\u2212")
