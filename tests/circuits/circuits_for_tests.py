"""Circuits made up for files, pictures and pages: any number of nodes, sites and places."""

import random

from circuits.circuit import Circuit, Node
from saes.sites import Site

HOSTILE = '</script><script>alert("1")</script>\'--><!-- &amp; \\ \x00\x1b ]]> \u2028 \ud800 "}{ 盤面 é\n%'
"""what a label or a token may hold, however unlikely"""


def sites_of(layers: int) -> tuple[Site, ...]:
    blocks = (f"{kind}_{i}" for i in range(layers) for kind in ("attn", "mlp", "resid"))
    return tuple(Site(name, f"modules.{name}") for name in ("embed", *blocks))


def circuit_of(nodes: int, edges: int, *, layers: int = 2, places=("all",), seed: int = 0, **provenance) -> Circuit:
    """Random nodes, one in six of them an error node, and random edges upwards between them."""
    rng = random.Random(seed)
    sites = sites_of(layers)
    order = {site.name: i for i, site in enumerate(sites)}
    chosen: dict[Node, float] = {}
    while len(chosen) < nodes:
        feature = None if rng.random() < 1 / 6 else rng.randrange(32768)
        chosen[Node(rng.choice(sites).name, feature, rng.choice(places))] = rng.gauss(0, 1) ** 3
    names, column = list(chosen), {place: i for i, place in enumerate(places)}
    pairs = [
        (up, down)
        for up in names
        for down in names
        if order[up.site] < order[down.site] <= order[up.site] + 3 and column[up.place] <= column[down.place]
    ]
    found = {pair: rng.gauss(0, 0.5) ** 3 for pair in rng.sample(pairs, min(edges, len(pairs)))}
    return Circuit(sites, chosen, found, provenance, tuple(places))
