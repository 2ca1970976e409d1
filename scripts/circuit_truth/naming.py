"""Which squares a circuit names: its features by the board property that each matches best, by F1 on other games.

A feature names the squares that its property depends on, on the clean or on the patch board: `mine c3` names c3,
`legal b4` the line that makes b4 legal (boardgames.othello.dependence). Nodes weigh as much as their effects.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.game import label
from boardgames.labelled_rows import LabelledRows
from boardgames.matching import match_features
from boardgames.othello.dependence import dependence
from boardgames.othello.properties import CORRECTED, EVERYTHING
from boardgames.othello.rules import random_games, square_name
from boardgames.othello.streams import stream
from boardgames.report import Positions
from circuit_truth.behaviours import Behaviour
from circuits.feature_acts import Dictionaries, NodeScores
from saes.sites import Site

PROPERTIES = (*EVERYTHING, CORRECTED["line of mine"], CORRECTED["line of yours"])
Composites = Literal["none", "others", "all"]
"""which features of several squares count: none, all but those about the target itself (its legality, lines from it),
or all"""
OF_ONE_SQUARE = ("mine", "yours", "empty", "flipped", "last move", "black", "white")


@dataclass(frozen=True)
class Names:
    """The best-matching column of every feature of a site (-1: it never fired) and its F1."""

    column: dict[Site, Int[np.ndarray, " f"]]
    f1: dict[Site, Float[np.ndarray, " f"]]
    columns: tuple[str, ...]


def name_features(model: PreTrainedModel, dictionaries: Dictionaries, games: int, seed: int) -> Names:
    """Match every feature of every dictionary with all properties, on random games of their own."""
    positions = Positions(random_games(games, stream("circuit_names", seed)))
    labels = label(positions.replay.at(positions.mask), PROPERTIES)
    mask = torch.from_numpy(positions.mask)
    rows = LabelledRows(positions.tokens, mask, mask, labels, {})
    index = {name: i for i, name in enumerate(labels.columns)}
    names = Names({}, {}, labels.columns)
    for site, dictionary in tqdm(dictionaries.items(), desc="names", unit="site"):
        every = torch.arange(dictionary.features)
        matches = match_features(model, {site: dictionary}, {site: every}, rows)
        names.column[site] = np.full(len(every), -1)
        names.f1[site] = np.zeros(len(every))
        for (_, feature), match in matches.items():
            names.column[site][feature], names.f1[site][feature] = index[match.column], match.f1
    return names


@dataclass(frozen=True)
class NodeTable:
    """All nodes of one behaviour that move in some pair: their effects, and the squares that each names.

    `depends[node]` is all false for error nodes and features whose F1 is below the threshold; `kind` is "error",
    "unnamed", "composite" or "square".
    """

    effects: Float[np.ndarray, "pairs nodes"]
    depends: Bool[np.ndarray, "pairs nodes 64"]
    kind: Sequence[str]

    def strongest(self, count: int) -> Int[np.ndarray, " chosen"]:
        """The circuit: nodes of largest mean absolute effect over pairs."""
        return np.argsort(-np.abs(self.effects).mean(0), kind="stable")[:count]


def node_table(
    behaviour: Behaviour, effects: Mapping[Site, NodeScores], names: Names, threshold: float, composites: Composites
) -> NodeTable:
    """Effects [pairs, 1, F] and [pairs, 1] of every site, with names; composites that do not count name no square."""
    single = np.array([name.rsplit(" ", 1)[0] in OF_ONE_SQUARE for name in names.columns])
    own = np.array([name.endswith(f" {square_name(behaviour.target)}") for name in names.columns])
    counting = {"none": single, "others": single | ~own, "all": np.ones_like(single)}[composites]
    depends_PCS = np.logical_or(*(dependence(p, PROPERTIES) for p in behaviour.positions()))
    effect, depends, kind = [], [], []
    for site, found in effects.items():
        acts = found.acts.sum(1).cpu().numpy()
        moved = np.flatnonzero(acts.any(0))
        column, f1 = names.column[site][moved], names.f1[site][moved]
        named = f1 >= threshold
        counts = named & counting[column]
        effect += [acts[:, moved], found.error.sum(1).cpu().numpy()[:, None]]
        depends += [depends_PCS[:, column] & counts[None, :, None], np.zeros((len(acts), 1, 64), bool)]
        kind += [
            ("square" if s else "composite") if n else "unnamed" for n, s in zip(named, single[column], strict=True)
        ]
        kind.append("error")
    return NodeTable(np.concatenate(effect, 1), np.concatenate(depends, 1), kind)
