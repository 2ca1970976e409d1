"""Transcoders (Dunefsky et al. 2024) and skip transcoders (Paulo et al. 2025): read one site, write another.

An MLP's input is read and its output reconstructed; with `skip` a linear path x W_skip is learnt beside the features.
Every architecture can be one: nothing but the sites, the widths and the missing centring differ.
"""

from typing import Any, TypeVar

from saes.architectures.affine import AffineDictionary
from saes.sites import Site

A = TypeVar("A", bound=AffineDictionary)


def transcoder(
    kind: type[A],
    read: Site,
    write: Site,
    *,
    width_in: int,
    width: int,
    features: int,
    skip: bool = False,
    seed: int = 0,
    **options: Any,
) -> A:
    """A dictionary of class `kind` from `read` (width_in) to `write` (width); `options` go to its config."""
    config = kind.config_type(width, features, width_in=width_in, center=False, skip=skip, **options)
    return kind(config, [read], [write], seed)
