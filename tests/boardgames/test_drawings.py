"""docs/boards.md says what the labels say: it is drawn from them again and compared."""

import runpy
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def test_the_page_of_boards_is_up_to_date():
    drawn = runpy.run_path(str(ROOT / "scripts" / "draw_boards.py"))["document"]()
    assert (ROOT / "docs" / "boards.md").read_text() == drawn, "run `python scripts/draw_boards.py`"
