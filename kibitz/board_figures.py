"""Figures of `kibitz board`: the paper's Pareto plots with a score as colour, F1 over the board, features drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from boardgames.labelled import Game
from boardgames.scoring import GroupScore
from saes.sweep import MARKERS, save_figure

if TYPE_CHECKING:
    from boardgames.game_scoreboard import DrawnFeature

SQUARES, SIDE = 64, 8


def draw_pareto(points: Sequence[tuple[str, float, float, float]], kind: str, path: Path) -> None:
    """(name, L0, loss recovered, score) of every dictionary; the kind of dictionary is the first part of its name."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7.2, 4.4), layout="constrained")
    axes = figure.add_subplot()
    kinds = list(dict.fromkeys(name.split("/")[0] for name, *_ in points))
    scores = [score for *_, score in points]
    drawn: Any = None
    for i, each in enumerate(kinds):
        mine = [point for point in points if point[0].split("/")[0] == each]
        drawn = axes.scatter(
            [l0 for _, l0, _, _ in mine],
            [recovered for _, _, recovered, _ in mine],
            c=[score for *_, score in mine],
            vmin=min(scores),
            vmax=max(scores),
            cmap="viridis",
            marker=MARKERS[i % len(MARKERS)],
            s=46,
            edgecolors="0.25",
            linewidths=0.5,
            label=each,
        )
    figure.colorbar(drawn, label=kind)
    axes.set_xscale("log")
    axes.set_xlabel("L0: mean number of active features")
    axes.set_ylabel("loss recovered")
    axes.grid(alpha=0.3)
    if len(kinds) > 1:
        axes.legend(fontsize=7)
    save_figure(figure, path)


def draw_heat_maps(score: GroupScore, game: Game, path: Path, title: str) -> None:
    """F1 of the best feature for every square, one board a piece; grey where the property never occurs."""
    groups = [c.rsplit(" ", 1)[0] if game == "othello" else _piece(c) for c in score.columns[::SQUARES]]
    f1 = np.where(score.occurs, score.f1, np.nan).reshape(len(groups), SQUARES)
    _boards(list(zip(groups, f1, strict=True)), game, path, f"{title}: F1 of the best feature", "viridis")


def draw_features(features: Sequence["DrawnFeature"], game: Game, path: Path, title: str) -> None:
    """Where the piece of a feature's property stands when the feature fires."""
    boards = [(f"feature {d.feature}: {d.property}\nF1 {d.f1:.2f}", d.board) for d in features]
    _boards(boards, game, path, f"{title}: share of positions with the piece, when the feature fires", "magma")


def _piece(column: str) -> str:
    """ "my knight" of "my knight off start f3"."""
    return " ".join(column.split(" ")[:2])


def _boards(
    boards: Sequence[tuple[str, Float[np.ndarray, " square"]]], game: Game, path: Path, title: str, colours: str
) -> None:
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    columns = min(len(boards), 6 if len(boards) > 8 else 4)
    rows = -(-len(boards) // columns)
    figure = Figure(figsize=(2.1 * columns + 0.6, 2.3 * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(np.array(figure.subplots(rows, columns, squeeze=False))).flatten()
    palette = colormaps[colours].copy()
    palette.set_bad("0.75")
    drawn: Any = None
    for ax, (name, values) in zip(axes, boards, strict=False):
        # chess counts squares from a1 along the rank, Othello from a1 along the file's numbers
        board = values.reshape(SIDE, SIDE) if game == "chess" else values.reshape(SIDE, SIDE).T
        drawn = ax.imshow(board, origin="lower" if game == "chess" else "upper", vmin=0, vmax=1, cmap=palette)
        ax.set_title(name, fontsize=7)
        ax.set_xticks(range(SIDE), "abcdefgh", fontsize=6)
        ax.set_yticks(range(SIDE), range(1, SIDE + 1), fontsize=6)
        ax.tick_params(length=0)
    for ax in axes[len(boards) :]:
        ax.set_axis_off()
    figure.suptitle(title, fontsize=9)
    figure.colorbar(drawn, ax=list(axes), shrink=0.8)
    save_figure(figure, path)
