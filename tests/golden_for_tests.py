"""scripts/check_golden.py in this process, as if from the command line: another one costs ten seconds of imports."""

import sys
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from pathlib import Path

import tyro

SCRIPTS = Path(__file__).resolve().parents[1] / "scripts"


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def check_golden(*arguments: object) -> Done:
    """Status and output of `python scripts/check_golden.py ARGUMENTS`."""
    if str(SCRIPTS) not in sys.path:
        sys.path.insert(0, str(SCRIPTS))
    out, err = StringIO(), StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            tyro.cli(import_module("check_golden").main, args=[str(a) for a in arguments])
            status: object = 0
        except SystemExit as leaving:
            status = leaving.code
    if isinstance(status, str):  # sys.exit prints it
        return Done(1, out.getvalue(), f"{err.getvalue()}{status}\n")
    return Done(int(status or 0), out.getvalue(), err.getvalue())  # type: ignore[call-overload]
