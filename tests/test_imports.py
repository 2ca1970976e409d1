"""Knowledge flows downwards: the imports of every file are read, and an arrow that points up fails.

Also here, because they are read off the same syntax trees: forward hooks live in saes/sites.py alone, and no file
that someone hands us can run code when it is loaded.
"""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MAY_IMPORT = {
    "saes": set(),
    "circuits": {"saes"},
    "boardgames": {"saes"},
    "shift": {"saes", "circuits", "boardgames"},
    "kibitz": {"saes", "circuits", "boardgames", "shift"},
    "scripts": {"saes", "circuits", "boardgames", "shift", "kibitz"},
    "benchmarks": {"saes", "circuits", "boardgames", "shift", "kibitz"},
}
UNSAFE = {"pickle", "_pickle", "cPickle", "cloudpickle", "dill", "joblib", "marshal", "shelve"}
SOURCES = [path for room in MAY_IMPORT for path in sorted((ROOT / room).rglob("*.py"))]


def imported_modules(tree: ast.Module) -> Iterator[tuple[int, str]]:
    """(line, dotted module) of every absolute import, also inside functions and through importlib."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((node.lineno, alias.name) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.lineno, node.module
            yield from ((node.lineno, f"{node.module}.{alias.name}") for alias in node.names)
        elif isinstance(node, ast.Call) and ast.unparse(node.func).endswith(("import_module", "__import__")):
            for argument in node.args[:1]:
                if isinstance(argument, ast.Constant) and isinstance(argument.value, str):
                    yield node.lineno, argument.value


def faults(path: str, source: str) -> set[str]:
    """What is wrong with one file; `path` is relative to the repository, with forward slashes."""
    tree = ast.parse(source)
    room = path.split("/")[0]
    found = set()
    for line, module in imported_modules(tree):
        top = module.split(".")[0]
        if top in MAY_IMPORT and top != room and top not in MAY_IMPORT[room]:
            found.add(f"{path}:{line}: {room} may not import {top}")
        if top in UNSAFE:
            found.add(f"{path}:{line}: {top} runs code when it loads")
        if module == "torch.load":
            found.add(f"{path}:{line}: write torch.load, so that it can be seen")
    for node in ast.walk(tree):
        # register_hook, on a tensor's gradient, is not meant: it touches no model
        if isinstance(node, ast.Attribute) and re.match(r"register_\w+_hook", node.attr) and path != "saes/sites.py":
            found.add(f"{path}:{node.lineno}: {node.attr} outside saes/sites.py; use capture() or intervene()")
        if isinstance(node, ast.Call):
            keywords = {word.arg: getattr(word.value, "value", None) for word in node.keywords}
            if ast.unparse(node.func) == "torch.load" and keywords.get("weights_only") is not True:
                found.add(f"{path}:{node.lineno}: torch.load without weights_only=True")
            if keywords.get("allow_pickle", False) is not False:
                found.add(f"{path}:{node.lineno}: allow_pickle runs code when it loads")
    return found


@pytest.mark.parametrize("path", [str(path.relative_to(ROOT).as_posix()) for path in SOURCES])
def test_file_is_in_order(path: str) -> None:
    assert not faults(path, (ROOT / path).read_text(encoding="utf-8"))


def test_every_package_is_read() -> None:
    packages = {init.parent.name for init in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(MAY_IMPORT) - {"scripts", "benchmarks"}
    assert packages <= {path.relative_to(ROOT).parts[0] for path in SOURCES}


@pytest.mark.parametrize(
    ("path", "source", "fault"),
    [
        ("saes/a.py", "import circuits.edges", "saes may not import circuits"),
        ("saes/a.py", "def f():\n    from shift import task", "saes may not import shift"),
        ("saes/a.py", "importlib.import_module('boardgames.game')", "saes may not import boardgames"),
        ("circuits/a.py", "from boardgames.game import Game", "circuits may not import boardgames"),
        ("boardgames/othello/a.py", "import circuits as c", "boardgames may not import circuits"),
        ("shift/tasks/a.py", "import kibitz", "shift may not import kibitz"),
        ("kibitz/a.py", "from scripts import make", "kibitz may not import scripts"),
        ("circuits/a.py", "m.register_forward_hook(f)", "register_forward_hook outside saes/sites.py"),
        ("scripts/a.py", "m.register_forward_pre_hook(f)", "register_forward_pre_hook outside saes/sites.py"),
        ("saes/a.py", "m.register_full_backward_hook(f)", "register_full_backward_hook outside saes/sites.py"),
        ("saes/a.py", "torch.load(p)", "torch.load without weights_only=True"),
        ("saes/a.py", "torch.load(p, weights_only=False)", "torch.load without weights_only=True"),
        ("saes/a.py", "from torch import load", "write torch.load"),
        ("saes/a.py", "import pickle", "pickle runs code"),
        ("saes/a.py", "np.load(p, allow_pickle=True)", "allow_pickle runs code"),
    ],
)
def test_a_planted_fault_is_found(path: str, source: str, fault: str) -> None:
    assert fault in " ".join(faults(path, source))


@pytest.mark.parametrize(
    ("path", "source"),
    [
        ("saes/a.py", "import torch\nfrom .sites import Site\nfrom saes.files import atomic"),
        ("saes/a.py", "torch.load(p, weights_only=True)\nnp.load(p, allow_pickle=False)\nt.register_hook(f)"),
        ("saes/sites.py", "m.register_forward_hook(f)"),
        ("shift/a.py", "import saes, circuits, boardgames"),
        ("kibitz/a.py", "from shift.task import ShiftTask"),
    ],
)
def test_what_is_allowed_passes(path: str, source: str) -> None:
    assert not faults(path, source)
