"""What a stranger installs: the wheel holds everything, declares what it imports, and `constraints.txt` pins it all."""

import ast
import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

from tests.test_imports import MAY_IMPORT, SOURCES, imported_modules

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PACKAGES = ["saes", "circuits", "boardgames", "shift", "kibitz"]
# compared with where they are installed, in an environment of their own
PEERS = {"circuit-tracer", "dictionary-learning", "sae-lens", "sparsify"}
WEIGHTS_LIMIT = 25e6  # bytes, all shipped weights together


def declared(lines: list[str]) -> dict[str, Requirement]:
    return {canonicalize_name(r.name): r for r in map(Requirement, lines)}


RUNTIME = declared(PROJECT["dependencies"])
EXTRAS = {name: declared(lines) for name, lines in PROJECT["optional-dependencies"].items()}
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(), re.MULTILINE)
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    folder = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(folder)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_file_of_the_packages(wheel: zipfile.ZipFile) -> None:
    names = set(wheel.namelist())
    here = {
        path.relative_to(ROOT).as_posix()
        for package in PACKAGES
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert here <= names
    assert {f"{package}/py.typed" for package in PACKAGES} <= names
    models = [path.name for path in (ROOT / "boardgames" / "weights").glob("*_gpt")]
    assert "othello_gpt" in models
    for model in models:
        files = ("README.md", "config.json", "model.safetensors", "training.json", "probes.json")
        assert {f"boardgames/weights/{model}/{file}" for file in files} <= names


def test_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    tops = {name.split("/")[0] for name in wheel.namelist()}
    assert {top for top in tops if not top.endswith(".dist-info")} == set(PACKAGES)


def test_wheel_metadata(wheel: zipfile.ZipFile) -> None:
    (folder,) = {name.split("/")[0] for name in wheel.namelist() if ".dist-info/" in name}
    metadata = wheel.read(f"{folder}/METADATA").decode()
    assert "License-Expression: MIT\n" in metadata and "Requires-Python: >=3.11\n" in metadata
    assert "kibitz = kibitz.cli:main" in wheel.read(f"{folder}/entry_points.txt").decode()
    assert any(name.endswith("/LICENSE") for name in wheel.namelist())


def test_shipped_weights_stay_small() -> None:
    weights = [path for path in (ROOT / "boardgames" / "weights").rglob("*") if path.is_file()]
    assert sum(path.stat().st_size for path in weights) < WEIGHTS_LIMIT


def third_party_imports(paths: list[Path]) -> set[str]:
    """The distributions that these files import, by canonical name."""
    own = {
        *MAY_IMPORT,
        "tests",
        "boardgame_sweep",
        "check_golden",
        "circuit_truth",
        "golden",
        "replicate_boardgames",
        "shift_text",
        "shift_truth",
        *(path.stem for path in paths),
        *sys.stdlib_module_names,
    }
    tops = {m.split(".")[0] for path in paths for _, m in imported_modules(ast.parse(path.read_text(encoding="utf-8")))}
    distributions = importlib.metadata.packages_distributions()
    return {canonicalize_name(distributions.get(top, [top])[0]) for top in tops - own}


def test_every_import_is_declared_and_every_dependency_imported() -> None:
    code = third_party_imports(SOURCES)
    optional = {name for extra, names in EXTRAS.items() if extra != "dev" for name in names}
    assert code <= RUNTIME.keys() | optional | PEERS, "imported and not declared in pyproject.toml"
    assert RUNTIME.keys() | optional <= code, "declared in pyproject.toml and never imported"
    tests = third_party_imports(sorted((ROOT / "tests").rglob("*.py")))
    assert tests <= RUNTIME.keys() | optional | EXTRAS["dev"].keys(), "imported by a test and not declared"


# torch's CUDA builds name the Triton that they need exactly, so that a pin of ours could not be met beside one
PINNED = [r for name, r in {**RUNTIME, **EXTRAS["dev"]}.items() if name != "triton"]


def test_pins_satisfy_the_ranges() -> None:
    for requirement in PINNED:
        name = canonicalize_name(requirement.name)
        assert name in PINS, f"constraints.txt does not pin {name}"
        assert Version(PINS[name]) in requirement.specifier, f"{requirement}, but constraints.txt has {PINS[name]}"


def test_everything_that_gets_installed_is_pinned() -> None:
    queue, seen = list(PINNED), set()
    while queue:
        requirement = queue.pop()
        name = canonicalize_name(requirement.name)
        key = (name, *sorted(requirement.extras))
        if key in seen:
            continue
        seen.add(key)
        assert name in PINS, f"constraints.txt does not pin {name}"
        for line in importlib.metadata.requires(name) or []:
            needed = Requirement(line)
            wanted = not needed.marker or any(needed.marker.evaluate({"extra": e}) for e in ("", *requirement.extras))
            # torch names its CUDA libraries exactly by itself, and its CPU builds have none
            exact = any(part.operator == "==" and "*" not in part.version for part in needed.specifier)
            if wanted and not (name == "torch" and exact):
                queue.append(needed)
    unused = PINS.keys() - {name for name, *_ in seen}
    assert not unused, f"constraints.txt pins what nothing needs: {sorted(unused)}"
