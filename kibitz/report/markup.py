"""Small pieces of HTML: numbers, tables, figures. Everything here returns a string that is safe to insert."""

import math
from collections.abc import Iterable, Sequence

from circuits.markup import NONE, number


def percent(share: float | None, digits: int = 0) -> str:
    """'97 %' for 0.97."""
    return NONE if share is None or not math.isfinite(share) else f"{number(100 * share, digits)}\u202f%"


def count(value: int | None) -> str:
    """'20 000', with thin spaces."""
    return NONE if value is None else f"{value:,}".replace(",", "\u202f").replace("-", "\u2212")


def seconds(value: float) -> str:
    """'4 min 12 s', '42 s', '0.3 s'."""
    if value >= 60:
        return f"{round(value) // 60} min {round(value) % 60} s"
    return f"{value:.0f} s" if value >= 10 else f"{value:.1f} s"


def intro(meaning: str, bad: str) -> str:
    """How a section begins: what is shown, then, more quietly, what would be bad. Both are markup."""
    return f'<p>{meaning}</p><p class="bad">{bad}</p>'


def table(header: Sequence[str], rows: Iterable[Sequence[str]], *, words: int = 1, caption: str = "") -> str:
    """A table in a box that scrolls sideways. Cells are markup already; the first `words` columns hold words."""

    def cell(i: int, inner: str, tag: str) -> str:
        if inner.startswith(("<td", "<th")):
            return inner
        kind = "" if i < words else ' class="n"'
        return f"<{tag}{kind}>{inner}</{tag}>"

    head = "".join(cell(i, h, "th") for i, h in enumerate(header))
    body = "".join(f"<tr>{''.join(cell(i, c, 'td') for i, c in enumerate(row))}</tr>" for row in rows)
    said = f"<caption>{caption}</caption>" if caption else ""
    return (
        '<div class="scroll"'
        f' tabindex="0"><table>{said}<thead><tr>{head}</tr></thead><tbody>{body}</tbody></table></div>'
    )


def folded(summary: str, inner: str) -> str:
    """Something that opens on a click."""
    return f"<details><summary>{summary}</summary>{inner}</details>"


def figure(picture: str, caption: str = "", *, kind: str = "") -> str:
    """A picture with a caption (markup)."""
    said = f"<figcaption>{caption}</figcaption>" if caption else ""
    return f'<figure class="{kind}">{picture}{said}</figure>' if kind else f"<figure>{picture}{said}</figure>"
