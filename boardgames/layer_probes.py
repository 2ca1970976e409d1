"""How well the board can be read off each layer of a language model: linear probes at embed and at resid sites."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.chess.transcript import encode
from boardgames.game import Labels, label
from boardgames.legality import ratio
from boardgames.linear_probe import exclusive_states, fit_probe, score_probe, squares_right
from boardgames.othello import properties as othello
from boardgames.othello.rules import replay
from boardgames.othello.transcript import CONTEXT, to_tokens
from saes.families import blocks, find_site
from saes.harvest import harvest
from saes.sites import Site


@dataclass(frozen=True)
class BoardRows:
    """Games as tokens, and the whole board at some of their places: exactly one state of every square is true."""

    tokens: Int[Tensor, "games length"]
    game: Int[np.ndarray, " rows"]
    place: Int[np.ndarray, " rows"]
    labels: Labels  # the column "empty SQUARE" of each square, and one for each disc or piece that may stand there

    @property
    def occupied(self) -> Bool[np.ndarray, " P"]:
        """The columns that speak of discs or pieces: those that dictionaries are scored on."""
        return np.array([not name.startswith("empty ") for name in self.labels.columns])


def othello_rows(moves: UInt8[np.ndarray, "games 60"]) -> BoardRows:
    """Every ply of the first 59, with empty, mine and yours."""
    games = replay(moves)
    mask = games.played[:, :CONTEXT]
    properties = [othello.CORRECTED[name] for name in ("empty", "mine", "yours")]
    game, place = np.nonzero(mask)
    return BoardRows(torch.from_numpy(to_tokens(moves[:, :CONTEXT])), game, place, label(games.at(mask), properties))


def chess_rows(games: Sequence[str]) -> BoardRows:
    """The first dots of every game, with empty and the mover's and the opponent's six kinds of pieces."""
    from boardgames.chess import positions, properties  # python-chess, which is not needed for Othello

    found = positions.positions(games, "dots")
    labels = label(found, [properties.CORRECTED[name] for name in ("empty", "pieces")])
    tokens = torch.from_numpy(encode(games, int(found.character.max(initial=0)) + 1))  # nothing is scored behind
    return BoardRows(tokens, found.game, found.character, labels)


@dataclass(frozen=True)
class LayerProbe:
    """One probe on the scoring games; errors are standard errors over games."""

    site: str
    accuracy: float  # share of squares whose most probable state is right
    accuracy_error: float | None
    f1: float  # mean over the columns of discs or pieces that occur
    pooled_f1: float  # the same columns, pooled
    pooled_f1_error: float | None


def probe_layers(
    model: PreTrainedModel, selection: BoardRows, scoring: BoardRows, *, seed: int = 0
) -> Iterator[LayerProbe]:
    """A probe for embed and each resid site, fitted on `selection` and scored on `scoring`; one pass of the model."""
    sites = [find_site(model, "embed"), *(block.resid for block in blocks(model))]
    fitted, scored = _activations(model, sites, selection), _activations(model, sites, scoring)
    groups, occupied = exclusive_states(scoring.labels.squares), scoring.occupied
    truth, games = scoring.labels.matrix, len(scoring.tokens)
    per_game = np.bincount(scoring.game, minlength=games)
    for site in sites:
        probe = fit_probe(fitted[site], selection.labels.matrix, seed=seed)
        predicted, right = probe.predict(scored[site]), squares_right(probe, scored[site], truth, groups)
        accuracy = ratio(np.bincount(scoring.game, right.mean(1), games), per_game)
        hits, fires, true = (
            np.bincount(scoring.game, x[:, occupied].sum(1), games) for x in (predicted & truth, predicted, truth)
        )
        pooled = ratio(2 * hits, fires + true)
        f1 = score_probe(probe, scored[site], truth).f1[occupied & truth.any(0)]
        yield LayerProbe(site.name, *accuracy, float(f1.mean()), *pooled)


def _activations(model: PreTrainedModel, sites: Sequence[Site], rows: BoardRows) -> dict[Site, Float[Tensor, "rows d"]]:
    """Activations of the rows at all sites; what is not scored is dropped batch by batch."""
    kept: dict[Site, list[Tensor]] = {site: [] for site in sites}
    start = 0
    for values in harvest(model, rows.tokens, sites, batch_size=64):
        end = start + len(values[sites[0]])
        here = (rows.game >= start) & (rows.game < end)
        game, place = torch.from_numpy(rows.game[here] - start), torch.from_numpy(rows.place[here])
        for site in sites:
            kept[site].append(values[site][game.to(model.device), place.to(model.device)])
        start = end
    return {site: torch.cat(parts) for site, parts in kept.items()}
