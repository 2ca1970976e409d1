"""`kibitz circuit eval | show | diff | export`: what can be done with a circuit that was found."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

from circuits.algebra import Compared, diff
from circuits.circuit import Circuit, CircuitError
from circuits.circuit_files import load_circuit
from circuits.curve_figures import draw_curves
from circuits.curves import CurveConfig, faithfulness_curves
from circuits.discover import CircuitConfig
from circuits.export import to_dot, to_graphml, to_viewer_json
from circuits.faithfulness import faithfulness
from circuits.page import write_page
from circuits.picture import draw_svg
from circuits.provenance import check_dictionaries
from circuits.viewer_json import write_viewer
from kibitz.circuit_find import DRAWN_EDGES, DRAWN_NODES
from kibitz.circuit_problem import ProblemOptions
from kibitz.runs import check_replaceable, run_folder
from saes.files import write_json, write_text

Format = Literal["graphml", "dot", "viewer", "svg", "html"]


@dataclass(frozen=True)
class EvalConfig(ProblemOptions):
    """Measure a circuit on examples that did not find it; with curves also circuits of every size."""

    folder: Path = Path("runs/circuit/circuit")
    """the circuit"""
    random: int = 10
    """random circuits of each kind to compare with"""
    curves: bool = True
    """circuits of all sizes, beside random ones and neurons"""
    batch_size: int = 16
    out: Path = Path("runs/circuit-eval")
    """folder for results.json and curves.png; an earlier run there is replaced"""


def run_eval(config: EvalConfig) -> str:
    """The sentences to print."""
    circuit = load_circuit(config.folder)
    check_replaceable(config.out)
    problem = config.open()
    check_dictionaries(circuit, problem.dictionaries)
    if circuit.places != problem.testing.grouped.names:
        raise CircuitError(
            f"{config.folder}: has the places {', '.join(circuit.places)}, these examples "
            f"{', '.join(problem.testing.grouped.names)}; choose the same --places"
        )
    with run_folder(config.out, config, config.seed, {"circuit": config.folder / "circuit.safetensors"}) as run:
        score = faithfulness(
            problem.model, problem.dictionaries, circuit.kept(problem.dictionaries), problem.finding, problem.testing,
            problem.metric, problem.to, random_circuits=config.random, seed=config.seed, batch_size=config.batch_size,
        )  # fmt: skip
        results: dict[str, Any] = {"explained": problem.said, "faithfulness": score.to_json()}
        said = [score.sentence()]
        if config.curves:
            curves = faithfulness_curves(
                problem.model, problem.dictionaries, problem.finding, problem.testing, problem.metric, problem.to,
                CurveConfig(batch_size=config.batch_size, seed=config.seed),
                CircuitConfig(batch_size=config.batch_size),
            )  # fmt: skip
            results["curves"] = curves.to_json()
            draw_curves(curves, run / "curves.png", problem.said)
            said.append(curves.sentence())
        write_json(run / "results.json", results)
    return "\n".join([*said, f"Results: {config.out}"])


@dataclass(frozen=True)
class ShowConfig:
    """What a circuit holds: its strongest nodes and edges, and how it was found."""

    folder: tyro.conf.Positional[Path]
    nodes: int = 20
    """how many of the strongest"""
    edges: int = 20
    json: bool = False
    """print all of it as JSON"""


def run_show(config: ShowConfig) -> str:
    """The table, or JSON."""
    circuit = load_circuit(config.folder)
    if config.json:
        nodes = [{"node": str(node), "effect": effect} for node, effect in circuit.nodes.items()]
        edges = [{"from": str(u), "to": str(d), "effect": w} for (u, d), w in circuit.edges.items()]
        return json.dumps({"provenance": dict(circuit.provenance), "nodes": nodes, "edges": edges}, indent=1)
    strongest = circuit.strongest(max(config.nodes, 0), max(config.edges, 0))
    every = sorted(circuit.edges.items(), key=lambda item: -abs(item[1]))[: max(config.edges, 0)]
    return "\n".join(
        [
            f"{config.folder}: {len(circuit.nodes)} nodes, {len(circuit.edges)} edges, "
            f"{sum(node.feature is None for node in circuit.nodes)} of the nodes errors",
            *(f"{effect:+12.5g}  {node}" for node, effect in strongest.nodes.items()),
            *(f"{effect:+12.5g}  {up} -> {down}" for (up, down), effect in every),
        ]
    )


@dataclass(frozen=True)
class DiffConfig:
    """What only one of two circuits has, and what changed."""

    first: tyro.conf.Positional[Path]
    second: tyro.conf.Positional[Path]
    show: int = 10
    """how many of each kind"""


def run_diff(config: DiffConfig) -> str:
    """The comparison in lines."""
    found = diff(load_circuit(config.first), load_circuit(config.second))
    lines: list[str] = []
    for kind, compared in (("nodes", found.nodes), ("edges", found.edges)):
        lines += _compared(kind, compared, config.show)
    return "\n".join(lines)


def _compared(kind: str, compared: Compared[Any], show: int) -> list[str]:
    rank = compared.rank_correlation
    said = "" if rank is None else f", rank correlation of effects {rank:.3f}"
    lines = [
        f"{kind}: {len(compared.both)} in both, {len(compared.only_first)} only in the first, "
        f"{len(compared.only_second)} only in the second; Jaccard {compared.jaccard:.3f}{said}"
    ]
    for name, effects in (("first", compared.only_first), ("second", compared.only_second)):
        strongest = sorted(effects.items(), key=lambda item: -abs(item[1]))[:show]
        lines += [f"  only in the {name}  {effect:+12.5g}  {_named(key)}" for key, effect in strongest]
    changed = list(compared.changed.items())[:show]
    return lines + [f"  changed by  {change:+12.5g}  {_named(key)}" for key, change in changed]


def _named(key: Any) -> str:
    return f"{key[0]} -> {key[1]}" if isinstance(key, tuple) else str(key)


@dataclass(frozen=True)
class ExportConfig:
    """Write a circuit for other tools: GraphML, Graphviz, the viewers of circuit-tracer and Neuronpedia, SVG, HTML."""

    folder: tyro.conf.Positional[Path]
    """the circuit"""
    out: tyro.conf.Positional[Path]
    """file to write; for viewer a folder"""
    format: Format | None = None
    """by default what the file's name ends in: .graphml, .dot, .svg, .html"""
    nodes: int = DRAWN_NODES
    """of pictures: the strongest nodes"""
    edges: int = DRAWN_EDGES
    """of pictures: the strongest edges"""
    slug: str = "circuit"
    """of viewer: the graph's name"""


def run_export(config: ExportConfig) -> str:
    """Where it was written."""
    endings: dict[str, Format] = {".graphml": "graphml", ".dot": "dot", ".gv": "dot", ".svg": "svg", ".html": "html"}
    kind = config.format or endings.get(config.out.suffix)
    if kind is None:
        raise CircuitError(f"{config.out}: no format is known by that name; give --format")
    circuit = load_circuit(config.folder)
    return f"Written: {_exported(circuit, kind, config)}"


def _exported(circuit: Circuit, kind: Format, config: ExportConfig) -> Path:
    drawn = circuit.strongest(config.nodes, config.edges)
    if kind == "viewer":
        return write_viewer(to_viewer_json(circuit, config.slug), config.out)
    if kind == "html":
        write_page(drawn, config.out)
    else:
        made = {"graphml": to_graphml, "dot": to_dot}
        write_text(config.out, draw_svg(drawn) if kind == "svg" else made[kind](circuit))
    return config.out
