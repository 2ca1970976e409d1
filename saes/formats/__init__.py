"""Dictionaries of other tools: dictionary_learning, SAELens, sparsify and circuit-tracer, read and written.

Gemma Scope's own files are read only.

    dictionary = load_any("a/folder")                       # whichever tool wrote it, Kibitz included
    write_format("saelens", dictionary, "another/folder")   # NotExpressible if SAELens has no such dictionary

Features and reconstructions are the same on both sides, up to rounding. docs/formats.md has the correspondences.
"""

from pathlib import Path
from types import ModuleType
from typing import Any

from saes.architectures import AffineDictionary
from saes.checkpoint import empty_dictionary, load_dictionary
from saes.files import FileError
from saes.formats import circuit_tracer, dictionary_learning, gemma_scope, saelens, sparsify
from saes.formats.folders import NotExpressible, Outline

FORMATS: dict[str, ModuleType] = {
    module.NAME: module for module in (dictionary_learning, saelens, sparsify, circuit_tracer)
}
"""Each has NAME, recognises(folder), read(folder, site, target), outline (as read, without the weights) and
write(dictionary, folder)."""
READERS: dict[str, ModuleType] = {**FORMATS, gemma_scope.NAME: gemma_scope}
"""Those that are read, with or without being written."""
FILES = tuple(
    dict.fromkeys(
        name
        for files in (("config.json", "dictionary.safetensors"), *(getattr(m, "FILES", ()) for m in READERS.values()))
        for name in files
    )
)
"""Every file name that one dictionary's folder may have; circuit-tracer's sets keep many in one folder."""


def recognise(folder: Path | str) -> str:
    """The name of the tool that wrote a folder, `kibitz` included; FileError if it is none that is known."""
    if not Path(folder).is_dir():
        raise FileError(f"{folder}: no such folder")
    if (Path(folder) / "dictionary.safetensors").is_file():
        return "kibitz"
    for name, module in READERS.items():
        if module.recognises(folder):
            return name
    raise FileError(
        f"{folder}: holds none of dictionary.safetensors (Kibitz), ae.pt (dictionary_learning), "
        "sae_weights.safetensors (SAELens), sae.safetensors (sparsify), layer_0.safetensors (circuit-tracer), "
        "params.npz (Gemma Scope)"
    )


def load_any(folder: Path | str) -> AffineDictionary:
    """The dictionary in a folder of Kibitz or of another tool, frozen."""
    name = recognise(folder)
    return load_dictionary(folder) if name == "kibitz" else read_format(name, folder)


def read_format(
    name: str, folder: Path | str, site: str | None = None, target: str | None = None, **options: Any
) -> AffineDictionary:
    """The dictionary in another tool's folder, frozen. `site`: what it reads, in any tool's spelling, in place of what
    its files say; `target`: what it writes, for a transcoder."""
    return _format(name, READERS).read(folder, site, target, **options)


def outline(
    name: str, folder: Path | str, site: str | None = None, target: str | None = None, **options: Any
) -> Outline:
    """Sites and sizes of a dictionary, `kibitz` among the names, without reading its weights."""
    if name != "kibitz":
        return _format(name, READERS).outline(folder, site, target, **options)
    empty = empty_dictionary(folder)
    return Outline(empty.reads, empty.writes, empty.width_in, empty.width, empty.features)


def write_format(
    name: str,
    dictionary: AffineDictionary,
    folder: Path | str,
    *,
    model_name: str | None = None,
    context_size: int | None = None,
) -> None:
    """Write a dictionary as another tool's new folder, whole or not at all."""
    _format(name, FORMATS).write(dictionary, folder, model_name=model_name, context_size=context_size)


def _format(name: str, known: dict[str, ModuleType]) -> ModuleType:
    if name not in known:
        raise ValueError(f"no format {name!r}; known: {', '.join(known)}")
    return known[name]


__all__ = [
    "FILES",
    "FORMATS",
    "READERS",
    "NotExpressible",
    "Outline",
    "load_any",
    "outline",
    "read_format",
    "recognise",
    "write_format",
]
