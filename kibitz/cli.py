"""The command line: a table of commands; a mistake ends in one sentence on stderr and a non-zero status."""

import io
import os
import re
import sys
import warnings
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from functools import reduce
from operator import or_
from typing import Annotated, Any, NoReturn

import torch
import tyro
from transformers.utils import logging as transformers_logging

from kibitz.app import AppConfig, run_app
from kibitz.bench import BenchConfig, run_bench
from kibitz.board import BoardConfig, run_board
from kibitz.circuit import CircuitCommand, run_circuit
from kibitz.convert import ExportConfig, ImportConfig, export_dictionary, import_dictionary
from kibitz.demo import DemoConfig, run_demo
from kibitz.evaluate import EvalConfig, run_eval
from kibitz.games import GamesConfig, run_games
from kibitz.harvest import HarvestConfig, run_harvest
from kibitz.score import ScoreConfig, run_score
from kibitz.shift import ShiftCommand, run_shift
from kibitz.sweep import SweepConfig, run_sweep
from kibitz.train import RunConfig, run_train

COMMANDS: dict[str, tuple[type, Callable[[Any], str]]] = {
    "demo": (DemoConfig, lambda config: f"Report: {run_demo(config)}"),
    "train": (RunConfig, run_train),
    "sweep": (SweepConfig, run_sweep),
    "harvest": (HarvestConfig, run_harvest),
    "eval": (EvalConfig, run_eval),
    "board": (BoardConfig, run_board),
    "score": (ScoreConfig, run_score),
    "circuit": (CircuitCommand, run_circuit),
    "shift": (ShiftCommand, run_shift),
    "app": (AppConfig, run_app),
    "export": (ExportConfig, export_dictionary),
    "import": (ImportConfig, import_dictionary),
    "games": (GamesConfig, run_games),
    "bench": (BenchConfig, run_bench),
}
RUN = dict(COMMANDS.values())
_BOX = re.compile(r"[\u2500-\u257f]+|-{3,}|\+-+")
_OURS = re.compile(r"^Value error Error parsing \S+: (.*) For full helptext, see .*$")  # what our own checks said


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exits with 0, 1 (a mistake in the input, or the machine's), 2 (usage) or 130 (Ctrl-C)."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        if said := RUN[type(command)](command):
            print(said)
    except KeyboardInterrupt as interrupt:
        _fail(str(interrupt) or "interrupted; the run folder is as it was before", 130)
    except (MemoryError, torch.OutOfMemoryError):
        _fail("out of memory; close other programs, or ask for something smaller", 1)
    except (ValueError, OSError) as error:
        if os.environ.get("KIBITZ_TRACEBACK"):
            raise
        _fail(str(error), 1)


def parse(arguments: list[str]) -> Any:
    """The command that the arguments ask for; help leaves with status 0, a usage error with 2."""
    shown, complaint = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(complaint):
            commands = [Annotated[config, tyro.conf.subcommand(name)] for name, (config, _) in COMMANDS.items()]
            return tyro.cli(
                reduce(or_, commands),  # type: ignore[arg-type]  # tyro takes a union of annotated dataclasses
                prog="kibitz",
                description="Shows what a transformer has learnt, and proves it against ground truth.",
                args=arguments,
            )
    except SystemExit as leaving:
        if not leaving.code:
            print(shown.getvalue(), end="")
            raise
    said = " ".join(_BOX.sub(" ", complaint.getvalue() or shown.getvalue()).split())
    _fail(_OURS.sub(r"\1", said), 2)


def _fail(sentence: str, status: int) -> NoReturn:
    """One line, whatever the message was; of the processes that torchrun started all but the first say who they are."""
    rank = int(os.environ.get("RANK", "0"))
    if rank == 0 or status != 2:  # a usage error is everybody's
        who = "" if rank == 0 else f" (process {rank})"
        print(f"kibitz{who}: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(status)
