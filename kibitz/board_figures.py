"""Figures of `kibitz board`: the paper's Pareto plots with a score as colour, F1 over the board, features drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float

from boardgames.group_scores import GroupScore
from boardgames.labelled import Game
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
    for axis in (axes.xaxis.set_major_formatter, axes.xaxis.set_minor_formatter):
        axis("{x:g}")
    axes.set_xlabel("L0: mean number of active features")
    axes.set_ylabel("loss recovered")
    axes.grid(alpha=0.3)
    if len(kinds) > 1:
        axes.legend(fontsize=7)
    save_figure(figure, path)


def draw_heat_maps(score: GroupScore, game: Game, path: Path, title: str) -> None:
    """F1 of the best feature for every square, one board a piece; grey where the property never occurs."""
    groups = _pieces(score)
    f1 = np.where(score.occurs, score.f1, np.nan).reshape(len(groups), SQUARES)
    _boards(list(zip(groups, f1, strict=True)), game, path, f"{title}: F1 of the best feature", "viridis")


def draw_features(features: Sequence["DrawnFeature"], game: Game, path: Path, title: str) -> None:
    """Where the piece of a feature's property stands when the feature fires."""
    boards = [(f"feature {d.feature}: {d.property}\nF1 {d.f1:.2f}", d.board) for d in features]
    _boards(boards, game, path, f"{title}: share of positions with the piece, when the feature fires", "magma")


def draw_squares(
    score: GroupScore, squares: Float[np.ndarray, "piece 64 64"], game: Game, path: Path, title: str
) -> None:
    """The best feature of every property: a board of boards for each piece, the small one at a square showing where the
    piece stands when the best feature for that square fires."""
    panels = [(name, _oriented(_nested(each), game)) for name, each in zip(_pieces(score), squares, strict=True)]
    _sheet(
        panels, game, path, f"{title}: where the piece stands when the best feature for a square fires", "magma", SIDE
    )


def _nested(squares: Float[np.ndarray, "64 64"]) -> Float[np.ndarray, "64 64"]:
    """[square, square] as an image of boards: rows and columns of the outer board, then of the inner ones."""
    return squares.reshape(SIDE, SIDE, SIDE, SIDE).transpose(0, 2, 1, 3).reshape(SQUARES, SQUARES)


def _oriented(image: Float[np.ndarray, "side side"], game: Game) -> Float[np.ndarray, "side side"]:
    """Files to the right: chess counts squares from a1 along the rank, Othello along the numbers of a file."""
    return image if game == "chess" else image.T


def _pieces(score: GroupScore) -> list[str]:
    """ "mine" of "mine c3", "my knight" of "my knight off start f3"."""
    return [c.rsplit(" ", 1)[0].removesuffix(" off start") for c in score.columns[::SQUARES]]


def _boards(
    boards: Sequence[tuple[str, Float[np.ndarray, " square"]]], game: Game, path: Path, title: str, colours: str
) -> None:
    panels = [(name, _oriented(values.reshape(SIDE, SIDE), game)) for name, values in boards]
    _sheet(panels, game, path, title, colours, 1)


def _sheet(
    panels: Sequence[tuple[str, Float[np.ndarray, "side side"]]],
    game: Game,
    path: Path,
    title: str,
    colours: str,
    pixels: int,
) -> None:
    """Panels of one scale from 0 to 1; a square has `pixels` values a side."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    columns = min(len(panels), 6 if len(panels) > 8 else 4)
    rows = -(-len(panels) // columns)
    size = 2.1 if pixels == 1 else 3.2
    figure = Figure(figsize=(size * columns + 0.8, (size + 0.2) * rows + 0.5), layout="constrained")
    axes = np.atleast_1d(np.array(figure.subplots(rows, columns, squeeze=False))).flatten()
    palette = colormaps[colours].with_extremes(bad="0.75")
    middle = np.arange(SIDE) * pixels + (pixels - 1) / 2
    drawn: Any = None
    for ax, (name, image) in zip(axes, panels, strict=False):
        drawn = ax.imshow(image, origin="lower" if game == "chess" else "upper", vmin=0, vmax=1, cmap=palette)
        ax.set_title(name, fontsize=7)
        ax.set_xticks(middle, "abcdefgh", fontsize=6)
        ax.set_yticks(middle, range(1, SIDE + 1), fontsize=6)
        ax.tick_params(length=0)
        for edge in np.arange(1, SIDE) * pixels - 0.5 if pixels > 1 else ():
            ax.axhline(edge, color="0.6", linewidth=0.4)
            ax.axvline(edge, color="0.6", linewidth=0.4)
    for ax in axes[len(panels) :]:
        ax.set_axis_off()
    figure.suptitle(title, fontsize=9)
    figure.colorbar(drawn, ax=list(axes), shrink=0.8)
    save_figure(figure, path)
