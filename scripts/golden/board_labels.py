"""Labels of chess and Othello positions, property by property; every entry must be equal.

`labels.npz` and `labels_extra.npz` of a folder are the original's labels (our set `paper`), `labels_corrected.npz` what
they should have been (our set `corrected`).
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from boardgames.chess import properties as chess
from boardgames.chess.positions import positions
from boardgames.chess.transcript import TranscriptError
from boardgames.game import BoardProperty, Positions, label
from boardgames.othello import properties as othello
from boardgames.othello.rules import IllegalMoveError, OthelloPositions, replay
from boardgames.othello.transcript import from_tokens
from golden.arrays import read_arrays, read_object
from saes.files import FileError

Ours = Callable[[str], NDArray[Any]]
"""the labels of one of our properties at the folder's positions: [rows, columns]"""

SCALARS = {
    "check_state": "check",
    "pin_state": "pin",
    "specific_fork": "knight fork",
    "any_fork": "fork",
    "has_castling_rights": "castling rights",
    "has_queenside_castling_rights": "queenside castling rights",
    "has_kingside_castling_rights": "kingside castling rights",
    "has_legal_en_passant": "legal en passant",
    "can_claim_draw": "can claim draw",
    "can_check_next": "can check next",
    "has_bishop_pair": "bishop pair",
    "has_mate_threat": "mate threat",
    "can_capture_queen": "can capture queen",
    "has_queen": "has queen",
    "has_connected_rooks": "connected rooks",
    "ambiguous_moves": "ambiguous move",
    "is_stalemate": "stalemate",
}
CLASSES = (7, 8, 9, 10, 11, 12, 5, 4, 3, 2, 1, 0)  # of P N B R Q K p n b r q k; 6 is blank


def _by_class(columns: NDArray[Any], classes: tuple[int, ...], blank: int, fill: bool) -> NDArray[Any]:
    """[rows, groups * 64] as [rows, 64 * classes], square by square; `fill` marks squares without any as blank."""
    groups = columns.reshape(len(columns), len(classes), 64)
    out = np.zeros((len(columns), 64, len(classes) + 1), columns.dtype)
    out[:, :, classes] = groups.transpose(0, 2, 1)
    if fill:
        out[:, :, blank] = ~groups.any(1)
    return out.reshape(len(out), -1)


def _square_by_square(columns: NDArray[Any]) -> NDArray[Any]:
    return columns.reshape(len(columns), -1, 64).transpose(0, 2, 1).reshape(len(columns), -1)


def _signed_piece_of_last_move(ours: Ours) -> NDArray[Any]:
    pieces = _by_class(ours("pieces"), CLASSES, 6, fill=True).reshape(-1, 64, 13)
    return ours("last move") * (pieces.argmax(-1) - 6)


CHESS: Mapping[str, Callable[[Ours], NDArray[Any]]] = {
    "board_to_piece_state": lambda ours: _by_class(ours("pieces"), CLASSES, 6, fill=True),
    "board_to_piece_masked_blank_state": lambda ours: _by_class(ours("pieces"), CLASSES, 6, fill=False),
    "board_to_piece_masked_blank_and_initial_state": lambda ours: _by_class(
        ours("pieces off start"), CLASSES, 6, fill=False
    ),
    "board_to_prev_state": lambda ours: _by_class(ours("pieces earlier"), CLASSES, 6, fill=True),
    "board_to_piece_color_state": lambda ours: _by_class(ours("colours"), (2, 0), 1, fill=True),
    "board_to_threat_state": lambda ours: ours("threatened"),
    "board_to_legal_moves_state": lambda ours: ours("legal"),
    "board_to_pseudo_legal_moves_state": lambda ours: ours("pseudo-legal"),
    "board_to_material": lambda ours: ours("material")[:, :40],
    "board_to_number_of_pieces": lambda ours: ours("piece count"),
    "board_to_last_self_move_state_raw_int8": _signed_piece_of_last_move,
    "white_in_check": lambda ours: ours("check"),
    **{f"board_to_{name}": lambda ours, own=own: ours(own) for name, own in SCALARS.items()},
}


def _mine_yours(ours: Ours, fill: bool) -> NDArray[Any]:
    return _by_class(np.concatenate([ours("yours"), ours("mine")], axis=1), (0, 2), 1, fill)


OTHELLO: Mapping[str, Callable[[Ours], NDArray[Any]]] = {
    "games_batch_to_state_stack_BLRRC": lambda ours: _by_class(
        np.concatenate([ours("white"), ours("black")], axis=1), (0, 2), 1, fill=True
    ),
    "games_batch_to_state_stack_mine_yours_BLRRC": lambda ours: _mine_yours(ours, fill=True),
    "games_batch_to_state_stack_mine_yours_blank_mask_BLRRC": lambda ours: _mine_yours(ours, fill=False),
    "games_batch_to_valid_moves_BLRRC": lambda ours: ours("legal"),
    "games_batch_to_state_stack_lines_mine_BLRCC": lambda ours: _square_by_square(ours("line of mine")),
    "games_batch_to_state_stack_lines_yours_BLRRC": lambda ours: _square_by_square(ours("line of yours")),
    "games_batch_to_state_stack_length_lines_mine_BLRRC": lambda ours: _square_by_square(ours("closed line of mine")),
    "games_batch_to_state_stack_opponent_length_lines_mine_BLRRC": lambda ours: _square_by_square(ours("run of mine")),
}


def check(folder: Path) -> bool:
    """Compare one folder of labels, or all those in a folder; whether every entry is equal."""
    kinds = {"games.json": _check_chess, "games.npz": _check_othello}
    cases = [
        (place, compare)
        for place in [folder, *sorted(p for p in folder.glob("*") if p.is_dir())]
        for name, compare in kinds.items()
        if (place / name).is_file()
    ]
    if not cases:
        raise FileError(f"{folder} holds no games (games.json of chess, games.npz of Othello); name a labels folder")
    passed = True
    for place, compare in cases:
        print(f"{place}\n{'':62s}{'set':>10s}{'entries':>11s}{'true':>9s}{'ours':>9s}{'differ':>9s}")
        passed &= compare(place)
    print(f"\n{'every entry is equal' if passed else 'NOT equal'}")
    return passed


def _check_chess(folder: Path) -> bool:
    games = read_object(folder / "games.json")
    if not isinstance(games, list) or not all(isinstance(game, str) for game in games):
        raise FileError(f"{folder / 'games.json'}: expected a list of transcripts")
    try:
        found = positions(games)
    except TranscriptError as error:
        raise FileError(f"{folder / 'games.json'}: {error}") from None
    rows = _rows(folder, np.stack([found.game, found.character], 1), "(game, character of a dot)")
    chosen = found[rows]
    return _compare(folder, CHESS, {name: _labels(chosen, of) for name, of in chess.SETS.items()}, {})


def _check_othello(folder: Path) -> bool:
    tokens = read_arrays(folder / "games.npz").get("tokens")
    if tokens is None or tokens.ndim != 2 or tokens.size == 0 or tokens.max() > 60:
        raise FileError(f"{folder / 'games.npz'}: expected `tokens` [games, 60], ids 0..60")
    try:
        games = replay(from_tokens(tokens.astype(np.int64)))
    except IllegalMoveError as error:
        raise FileError(f"{folder / 'games.npz'}: {error}") from None
    found = games.at(games.played)
    rows = _rows(folder, np.stack([found.game, found.ply], 1), "(game, ply)")
    chosen = OthelloPositions(*(getattr(found, name)[rows] for name in found.__dataclass_fields__))
    same_side = (games.mover[:, 1:] == games.mover[:, :-1]) & games.played[:, 1:]
    passed_before = np.pad(same_side, ((0, 0), (1, 0)))[chosen.game, chosen.ply]
    sets = {name: _labels(chosen, of) for name, of in othello.SETS.items()}
    others = {
        "mover": chosen.mover,
        "next_to_move": chosen.next_mover,
        "passed_before": passed_before,
        "mine_yours_by_next_side_to_move": _mine_yours(sets["by_next"], fill=True),
    }
    return _compare(folder, OTHELLO, sets, others)


def _labels(chosen: Positions, properties: Mapping[str, BoardProperty]) -> Ours:
    return lambda name: label(chosen, [properties[name]]).matrix


def _rows(folder: Path, ours: NDArray[np.int64], what: str) -> NDArray[np.int64]:
    """Where the folder's positions are among ours."""
    index = read_arrays(folder / "index.npy")["index"]
    if index.ndim != 2 or index.shape[1] != 2:
        raise FileError(f"{folder / 'index.npy'}: is {list(index.shape)}; expected [positions, 2]")
    place = {tuple(row): n for n, row in enumerate(ours.tolist())}
    unknown = [tuple(row) for row in index.tolist() if tuple(row) not in place]
    if unknown:
        raise FileError(f"{folder / 'index.npy'}: {unknown[0]} is no scored position {what} of the games beside it")
    return np.array([place[tuple(row)] for row in index.tolist()])


def _compare(
    folder: Path,
    layouts: Mapping[str, Callable[[Ours], NDArray[Any]]],
    sets: Mapping[str, Ours],
    others: Mapping[str, NDArray[Any]],
) -> bool:
    passed, rows = True, len(read_arrays(folder / "index.npy")["index"])
    for name, of in (("labels", "paper"), ("labels_extra", "paper"), ("labels_corrected", "corrected")):
        path = folder / f"{name}.npz"
        if name == "labels_extra" and not path.is_file():
            continue  # Othello has none
        for array, theirs in read_arrays(path).items():
            if array not in layouts and array not in others:
                raise FileError(f"{path}: no property is known for the array {array!r}")
            if theirs.shape[:1] != (rows,):
                raise FileError(f"{path}: {array} is {list(theirs.shape)}; expected {rows} rows, as index.npy has")
            ours = (others[array] if array in others else layouts[array](sets[of])).reshape(len(theirs), -1)
            theirs = theirs.reshape(len(theirs), -1)
            if ours.shape != theirs.shape:
                raise FileError(f"{path}: {array} is {list(theirs.shape)} when flattened; expected {list(ours.shape)}")
            differ = int((ours != theirs).sum())
            passed &= not differ
            counts = f"{theirs.size:11d}{np.count_nonzero(theirs):9d}{np.count_nonzero(ours):9d}{differ:9d}"
            print(f"{array:62s}{of:>10s}{counts}" + ("  FAILED" if differ else ""))
    return passed
