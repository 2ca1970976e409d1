"""Compare Kibitz with a folder of numeric references, print a table of the differences, exit with 1 if there are any.

    python scripts/check_golden.py dictionary-learning DIR
    python scripts/check_golden.py board-labels DIR
    python scripts/check_golden.py board-metrics DIR
    python scripts/check_golden.py feature-circuits DIR
    python scripts/check_golden.py eap-ig DIR
    python scripts/check_golden.py peap DIR

DIR is one case or a folder of cases in the layout that its README describes.
"""

import sys
from pathlib import Path
from typing import Annotated

import tyro
from golden import board_labels, board_metrics, dictionary_learning, eap_ig, feature_circuits, peap

from saes.files import FileError

REFERENCES = {
    "dictionary-learning": dictionary_learning.check,
    "board-labels": board_labels.check,
    "board-metrics": board_metrics.check,
    "feature-circuits": feature_circuits.check,
    "eap-ig": eap_ig.check,
    "peap": peap.check,
}


def main(
    reference: Annotated[str, tyro.conf.Positional],
    folder: Annotated[Path, tyro.conf.Positional],
    /,
) -> None:
    """`reference`: one of those above. `folder`: one case, or a folder of cases."""
    if reference not in REFERENCES:
        sys.exit(f"check_golden: no reference {reference!r}; there are {', '.join(REFERENCES)}")
    try:
        passed = REFERENCES[reference](folder)
    except FileError as error:
        sys.exit(f"check_golden: {error}")
    sys.exit(0 if passed else 1)


if __name__ == "__main__":
    tyro.cli(main)
