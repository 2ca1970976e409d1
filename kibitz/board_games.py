"""The games that `kibitz board` chooses features on and scores them on, and which of their positions count."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    pass
