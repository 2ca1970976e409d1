"""What SHIFT is compared with, one idea to a module; docs/shift.md has the table."""

from shift.baselines import (
    concept_bottleneck,
    erasing,
    heads,
    neurons,
    random_features,
    scr_tpp,
    tokens,
)
from shift.methods import CORE, Method

ALL: tuple[Method, ...] = (
    *CORE,
    *random_features.METHODS,
    *tokens.METHODS,
    *concept_bottleneck.METHODS,
    *erasing.METHODS,
    *heads.METHODS,
    *neurons.METHODS,
    *scr_tpp.METHODS,
)
"""every way to repair a classifier; run_methods leaves out those that a contest has nothing for"""

__all__ = ["ALL"]
