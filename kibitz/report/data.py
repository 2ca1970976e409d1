"""What a report is made of: the keys of the JSON-able `data` of one `kibitz demo` run, and a check that they are there.

Squares are 0..63 = 8 * row + col. "Mine" is the side that has just moved. Fractions are 0..1. Lists may be empty; a
missing key, a value of another type or a reference to an unknown node is a ReportDataError that names the place.
"""

from collections.abc import Mapping
from types import NoneType, UnionType
from typing import Any, Literal, TypedDict, cast, get_args, get_origin, get_type_hints, is_typeddict


class ReportDataError(ValueError):
    """The data of a report lacks a key or holds something else there; names the place."""


class Timing(TypedDict):
    name: str
    seconds: float


class Games(TypedDict):
    count: int
    source: str  # "random legal games", or the user's file
    positions: int  # that the dictionary can train on


class LanguageModel(TypedDict):
    legal_move_rate: float
    legal_mass: float
    cross_entropy: float
    ideal_cross_entropy: float  # nats; mean log of the number of legal moves
    legal_move_rate_by_ply: list[float]  # 59
    games: int


class TrainingRecord(TypedDict):
    step: int
    l0: float
    variance_explained: float
    p: float
    coefficient: float
    loss: float


class Training(TypedDict):
    """The dictionary trained during the run, and its final quality."""

    site: str
    features: int
    records: list[TrainingRecord]
    l0: float
    variance_explained: float
    loss_recovered: float
    alive: float  # a share of the features
    p_final: float
    tokens: int


class BoardRow(TypedDict):
    name: str
    coverage: float
    reconstruction: float
    features: int | None
    l0: float | None


class Board(TypedDict):
    """Board metrics; the first row is the dictionary of this run, the others stand beside it."""

    floor: float
    ceiling: float
    rows: list[BoardRow]
    f1_mine: list[float]  # 64
    f1_yours: list[float]  # 64


class Position(TypedDict):
    black: list[int]
    white: list[int]
    last: int
    mover: Literal[1, -1]  # who made the last move: 1 black, -1 white
    activation: float
    game: int
    ply: int


class BoardPosition(TypedDict):
    """A position without an activation: what the counterfactual pair needs of one."""

    black: list[int]
    white: list[int]
    last: int
    mover: Literal[1, -1]


class Feature(TypedDict):
    feature: int
    column: str  # the board property that it matches best: "mine c3"
    square: int
    f1: float
    precision: float
    recall: float
    density: float
    threshold: float
    mean_mine: list[float]  # 64: share of its active positions in which the square is mine
    mean_yours: list[float]  # 64
    positions: list[Position]


class Node(TypedDict):
    id: str  # "resid_1/33"
    site: str
    feature: int | None  # None: the error node of the site
    effect: float  # what the behaviour gains when the node alone takes its patch value
    label: str
    f1: float | None
    positions: list[Position]  # that activate it most; none of an error node


class Edge(TypedDict):
    source: str
    target: str
    weight: float


class Example(TypedDict):
    clean: BoardPosition
    patch: BoardPosition
    changed_ply: int  # counted from 0
    changed_from: int
    changed_to: int


class Circuit(TypedDict):
    behaviour: str
    target: int
    sites: list[str]  # in forward order
    nodes: list[Node]
    edges: list[Edge]
    node_count: int  # of the whole circuit, of which `nodes` and `edges` are the strongest
    edge_count: int
    faithfulness: float
    faithfulness_without_errors: float
    completeness: float
    random_faithfulness: float
    ig_sum_error: float
    examples: int
    example: Example


class ShiftRow(TypedDict):
    name: str
    cells: list[list[float]]  # accuracy [A][B]
    worst_group: float
    intended_accuracy: float
    spurious_accuracy: float


class Judgement(TypedDict):
    site: str
    feature: int
    effect: float
    verdict: Literal["keep", "trim", "unsure", "mixed"]
    label: str
    f1: float


class Shift(TypedDict):
    """The first row is the probe as trained, the second SHIFT, then SHIFT retrained, then the baselines."""

    intended: str
    spurious: str
    rows: list[ShiftRow]
    candidates: int
    trimmed: int
    judgements: list[Judgement]
    site: str
    ambiguous_games: int
    balanced_games: int


class ReportData(TypedDict):
    title: str
    created: str
    seed: int
    quick: bool
    seconds: float
    versions: dict[str, str]
    timings: list[Timing]
    games: Games
    language_model: LanguageModel
    training: Training
    board: Board
    features: list[Feature]
    circuit: Circuit
    shift: Shift


def checked(data: Mapping[str, Any]) -> ReportData:
    """The same data, once every key is known to be there, of its type, and referring to what exists."""
    report = cast(ReportData, _read(data, ReportData, "data"))
    per_square = [(f"board.{name}", report["board"][name]) for name in ("f1_mine", "f1_yours")]
    for i, feature in enumerate(report["features"]):
        per_square += [(f"features[{i}].{name}", feature[name]) for name in ("mean_mine", "mean_yours")]
    for place, values in per_square:
        if len(values) not in (0, 64):
            raise ReportDataError(f"report data: {place} has {len(values)} values; expected one for each of 64 squares")
    for row in report["shift"]["rows"]:
        if [len(cells) for cells in row["cells"]] != [2, 2]:
            raise ReportDataError(f"report data: shift row {row['name']!r} has cells {row['cells']}; expected 2 x 2")
    _check_squares(report)
    _check_graph(report["circuit"])
    return report


def _check_squares(report: ReportData) -> None:
    example = report["circuit"]["example"]
    squares = [report["circuit"]["target"], example["changed_from"], example["changed_to"]]
    positions: list[Position | BoardPosition] = [example["clean"], example["patch"]]
    for feature in report["features"]:
        squares.append(feature["square"])
        positions += feature["positions"]
    for position in positions:
        squares += [*position["black"], *position["white"], position["last"]]
    if wrong := [square for square in squares if not 0 <= square < 64]:
        raise ReportDataError(f"report data: {wrong[0]} is no square; they are 0 to 63")


def _check_graph(circuit: Circuit) -> None:
    known: set[str] = set()
    for node in circuit["nodes"]:
        if node["site"] not in circuit["sites"]:
            raise ReportDataError(f"report data: circuit node {node['id']!r} is at {node['site']!r}, which is no site")
        if node["id"] in known:
            raise ReportDataError(f"report data: two circuit nodes are called {node['id']!r}")
        known.add(node["id"])
    for edge in circuit["edges"]:
        for end in (edge["source"], edge["target"]):
            if end not in known:
                raise ReportDataError(f"report data: a circuit edge refers to {end!r}, which is no node")


def _read(value: Any, kind: Any, place: str) -> Any:
    """A copy of the value, known to be of a type of this module; whole numbers become floats where floats belong."""
    origin, args = get_origin(kind), get_args(kind)
    if is_typeddict(kind):
        _require(isinstance(value, Mapping), value, "a mapping", place)
        hints = get_type_hints(kind)
        for key in hints:
            if key not in value:
                raise ReportDataError(f"report data: {place} lacks {key!r}; it has {sorted(value)}")
        return {key: _read(value[key], inner, f"{place}.{key}") for key, inner in hints.items()}
    if origin is list:
        _require(isinstance(value, list | tuple), value, "a list", place)
        return [_read(item, args[0], f"{place}[{i}]") for i, item in enumerate(value)]
    if origin is dict:
        _require(isinstance(value, Mapping), value, "a mapping", place)
        return {str(key): _read(item, args[1], f"{place}[{key!r}]") for key, item in value.items()}
    if origin is Literal:
        _require(value in args, value, f"one of {args}", place)
        return value
    if isinstance(kind, UnionType):
        return None if value is None else _read(value, next(a for a in args if a is not NoneType), place)
    if kind is float:
        _require(isinstance(value, int | float) and not isinstance(value, bool), value, "a number", place)
        return float(value)
    if kind is int:
        _require(isinstance(value, int) and not isinstance(value, bool), value, "a whole number", place)
        return value
    _require(isinstance(value, kind), value, kind.__name__, place)
    return value


def _require(holds: bool, value: Any, expected: str, place: str) -> None:
    if not holds:
        raise ReportDataError(f"report data: {place} is {value!r:.40}; expected {expected}")
