"""Effects of features in the circuits of a run, as far as the dictionaries at hand are those of the circuits."""

import copy
from collections.abc import Mapping
from pathlib import Path

import torch

from circuits.circuit import Circuit
from circuits.circuit_files import FORMAT, load_circuit
from saes.dictionary import Dictionary
from saes.digests import weights_digest
from saes.files import read_json

Effects = dict[tuple[str, int], float]
"""by (name of a dictionary, feature)"""


def circuit_effects(run: Path, dictionaries: Mapping[str, Dictionary]) -> tuple[Effects, tuple[str, ...]]:
    """The largest effect of each feature in any circuit below the run, and a sentence for each circuit that says less.

    A feature's number means nothing in another dictionary, so effects go by the weights that a circuit was found with.
    """
    found: Effects = {}
    notes: list[str] = []
    digests = _Digests(dictionaries)
    for name, circuit in circuits_below(run).items():
        recorded = circuit.provenance.get("dictionaries")
        if not isinstance(recorded, Mapping):
            notes.append(f"{name}: does not say which dictionaries it was found with, so its effects are not shown.")
            continue
        sites = [site.name for site in circuit.sites]
        here = {site: [n for n, d in dictionaries.items() if d.site.name == site] for site in sites}
        same = {site: [n for n in here[site] if digests(n, circuit) == recorded.get(site)] for site in sites}
        if others := [site for site in sites if here[site] and not same[site]]:
            where = ", ".join(others)
            notes.append(f"{name}: was found with other dictionaries at {where}, so its effects there are not shown.")
        for node, effect in circuit.nodes.items():
            if node.feature is None:
                continue
            for key in [(n, node.feature) for n in same[node.site]]:
                if abs(effect) >= abs(found.get(key, 0.0)):
                    found[key] = effect
    return found, tuple(notes)


def circuits_below(run: Path) -> dict[str, Circuit]:
    """All circuits of a run by their place in it."""
    found: dict[str, Circuit] = {}
    for manifest in sorted(run.rglob("manifest.json")):
        said = read_json(manifest)
        if isinstance(said, dict) and said.get("format") == FORMAT:
            found[manifest.parent.relative_to(run).as_posix()] = load_circuit(manifest.parent)
    return found


class _Digests:
    """Of dictionaries in the precision that a circuit was found in, each made once."""

    def __init__(self, dictionaries: Mapping[str, Dictionary]) -> None:
        self._dictionaries = dictionaries
        self._made: dict[tuple[str, torch.dtype], str] = {}

    def __call__(self, name: str, circuit: Circuit) -> str:
        dictionary = self._dictionaries[name]
        dtype = _dtype(circuit) or dictionary.W_dec.dtype
        if (name, dtype) not in self._made:
            if dtype != dictionary.W_dec.dtype:
                dictionary = copy.deepcopy(dictionary).to(dtype)
            self._made[name, dtype] = weights_digest(dictionary)
        return self._made[name, dtype]


def _dtype(circuit: Circuit) -> torch.dtype | None:
    model = circuit.provenance.get("model")
    said = str(model.get("dtype", "")) if isinstance(model, Mapping) else ""
    found = getattr(torch, said.removeprefix("torch."), None)
    return found if isinstance(found, torch.dtype) else None
