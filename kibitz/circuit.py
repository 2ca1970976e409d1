"""`kibitz circuit find | eval | show | diff | export | discover | graph | components`: circuits (docs/circuits.md)."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Annotated, Any

import tyro

from kibitz.circuit_components import ComponentsConfig, run_components
from kibitz.circuit_discover import DiscoverConfig, run_discover
from kibitz.circuit_find import FindConfig, run_find
from kibitz.circuit_graph import GraphCommand, run_graph
from kibitz.circuit_tools import (
    DiffConfig,
    EvalConfig,
    ExportConfig,
    ShowConfig,
    run_diff,
    run_eval,
    run_export,
    run_show,
)

RUN: dict[type, Callable[[Any], str]] = {
    FindConfig: run_find,
    EvalConfig: run_eval,
    ShowConfig: run_show,
    DiffConfig: run_diff,
    ExportConfig: run_export,
    DiscoverConfig: run_discover,
    GraphCommand: run_graph,
    ComponentsConfig: run_components,
}


@dataclass(frozen=True)
class CircuitCommand:
    """Find, measure, compare and draw sparse feature circuits."""

    what: Annotated[
        Annotated[FindConfig, tyro.conf.subcommand("find")]
        | Annotated[EvalConfig, tyro.conf.subcommand("eval")]
        | Annotated[ShowConfig, tyro.conf.subcommand("show")]
        | Annotated[DiffConfig, tyro.conf.subcommand("diff")]
        | Annotated[ExportConfig, tyro.conf.subcommand("export")]
        | Annotated[DiscoverConfig, tyro.conf.subcommand("discover")]
        | Annotated[GraphCommand, tyro.conf.subcommand("graph")]
        | Annotated[ComponentsConfig, tyro.conf.subcommand("components")],
        tyro.conf.arg(name=""),
    ]


def run_circuit(command: CircuitCommand) -> str:
    """The sentences or table to print."""
    return RUN[type(command.what)](command.what)
