"""The command line: `kibitz demo` and `kibitz eval`; a mistake ends in one sentence on stderr and a non-zero status."""

import io
import os
import re
import sys
import warnings
from contextlib import redirect_stderr, redirect_stdout
from typing import Annotated, NoReturn

import tyro
from transformers.utils import logging as transformers_logging

from kibitz.demo import DemoConfig, run_demo
from kibitz.evaluate import EvalConfig, run_eval

Command = Annotated[DemoConfig, tyro.conf.subcommand("demo")] | Annotated[EvalConfig, tyro.conf.subcommand("eval")]
_BOX = re.compile(r"[\u2500-\u257f]+|-{3,}|\+-+")


def main(arguments: list[str] | None = None) -> None:
    """Entry point; exits with 0, 1 (a mistake in the input, or the machine's), 2 (usage) or 130 (Ctrl-C)."""
    transformers_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    warnings.filterwarnings("ignore", category=FutureWarning)
    try:
        command = parse(sys.argv[1:] if arguments is None else arguments)
        print(run_eval(command) if isinstance(command, EvalConfig) else f"Report: {run_demo(command)}")
    except KeyboardInterrupt:
        _fail("interrupted; the run folder is as it was before", 130)
    except MemoryError:
        _fail("out of memory; close other programs or use --quick", 1)
    except (ValueError, OSError) as error:
        if os.environ.get("KIBITZ_TRACEBACK"):
            raise
        _fail(str(error), 1)


def parse(arguments: list[str]) -> DemoConfig | EvalConfig:
    """The command that the arguments ask for; help leaves with status 0, a usage error with 2."""
    shown, complaint = io.StringIO(), io.StringIO()
    try:
        with redirect_stdout(shown), redirect_stderr(complaint):
            return tyro.cli(
                Command,  # type: ignore[arg-type]  # tyro takes a union of annotated dataclasses
                prog="kibitz",
                description="Shows what a transformer has learnt, and proves it against ground truth.",
                args=arguments,
            )
    except SystemExit as leaving:
        if not leaving.code:
            print(shown.getvalue(), end="")
            raise
    _fail(_BOX.sub(" ", complaint.getvalue() or shown.getvalue()), 2)


def _fail(sentence: str, status: int) -> NoReturn:
    """One line, whatever the message was."""
    print(f"kibitz: {' '.join(sentence.split())}", file=sys.stderr)
    raise SystemExit(status)
