"""`kibitz export` and `kibitz import`: a dictionary's folder to and from those of other tools, and from the hub."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from saes.architectures import AffineDictionary
from saes.checkpoint import load_dictionary, save_dictionary
from saes.files import FileError
from saes.formats import circuit_tracer, write_format
from saes.formats.folders import new_folder
from saes.models import DTYPES
from saes.released import locate

Tool = Literal["dictionary_learning", "saelens", "sparsify", "circuit_tracer"]


@dataclass(frozen=True)
class ExportConfig:
    """Write a dictionary as another tool's folder; what that tool cannot express is refused with the reason."""

    dictionary: tyro.conf.Positional[Path]
    """folder with config.json and dictionary.safetensors; for circuit_tracer also one with such folders in it"""
    out: tyro.conf.Positional[Path]
    """folder to make; never an existing one"""
    to: Tool
    """the tool that is to read it"""
    model_name: str | None = None
    """what that tool calls the language model"""
    context_size: int | None = None
    """tokens per context, for tools that store it"""


@dataclass(frozen=True)
class ImportConfig:
    """Write a dictionary of another tool, or one on the hub, as Kibitz's own folder."""

    source: tyro.conf.Positional[Path]
    """the other tool's folder, or an address on the hub: owner/name[:folder/in/it][@revision]"""
    out: tyro.conf.Positional[Path]
    """folder to make; never an existing one. A transcoder set or a sparsify run becomes one folder per dictionary"""
    tool: Annotated[Tool | Literal["gemma_scope"] | None, tyro.conf.arg(name="from")] = None
    """the tool that wrote it; found out by default"""
    site: str | None = None
    """what it reads (resid_1, blocks.1.hook_resid_post), in place of what its files say"""
    target: str | None = None
    """what it writes, if it is a transcoder"""
    dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the weights in the file; 16 bits halve what a set of many has to move"""


def export_dictionary(config: ExportConfig) -> str:
    """The sentence to print."""
    options = {"model_name": config.model_name, "context_size": config.context_size}
    folders = sorted(path.parent for path in config.dictionary.glob("*/dictionary.safetensors"))
    if folders and config.to == "circuit_tracer" and not (config.dictionary / "dictionary.safetensors").exists():
        circuit_tracer.write([load_dictionary(folder) for folder in folders], config.out, **options)
        return f"{config.out}: {len(folders)} layers of a transcoder set for circuit_tracer"
    dictionary = load_dictionary(config.dictionary)
    write_format(config.to, dictionary, config.out, **options)
    return f"{config.out}: {described(dictionary)}, for {config.to}"


def import_dictionary(config: ImportConfig) -> str:
    """The sentence to print."""
    places = locate(config.source, config.tool)
    if config.source.expanduser().exists() and any(place.tool == "kibitz" for place in places):
        raise FileError(f"{config.source}: is a dictionary of Kibitz already")
    if len(places) > 1 and (config.site or config.target):
        raise FileError(f"{config.source}: holds {len(places)} dictionaries, so --site cannot name them all")
    lines = []
    with new_folder(config.out) as stage:
        for place in places:
            name = place.name if len(places) > 1 else ""
            dictionary = place.read(config.site, config.target, dtype=DTYPES[config.dtype])
            save_dictionary(dictionary, stage / name, dtype=DTYPES[config.dtype])
            lines.append(f"{config.out / name}: {described(dictionary)}, from {place.tool}")
    return "\n".join(lines)


def described(dictionary: AffineDictionary) -> str:
    """A dictionary in a few words."""
    sites = dictionary.reads[0].name
    if dictionary.reads != dictionary.writes:
        sites += f" -> {dictionary.writes[0].name}"
    return f"{dictionary.architecture}, {dictionary.features} features of width {dictionary.width} at {sites}"
