"""Dictionaries by where they are: a folder of any known tool, or an address on the hub.

    load_released("runs/resid_3/dictionary")
    load_released("google/gemma-scope-2b-pt-res:layer_20/width_16k/average_l0_71", dtype=torch.bfloat16)
    load_released("EleutherAI/sae-llama-3-8b-32x:layers.24", model=model)

The site is what the files say (docs/formats.md), and with `model` the model's own site of that name, checked for its
width. An address on the hub is owner/name[:folder/in/it][@revision]; only that folder's files are fetched. SAELens'
releases are addressed by their repository and folder: its table of short names is its own and is not shipped here.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import torch
from transformers import PreTrainedModel

from saes import formats, hub
from saes.architectures import AffineDictionary
from saes.checkpoint import load_dictionary
from saes.families import find_site, site_widths
from saes.files import FileError, all_finite
from saes.formats import circuit_tracer, sparsify
from saes.formats.folders import Outline
from saes.formats.spellings import our_name, site_named
from saes.hub import HubAddress
from saes.normed import Gain, divide_gain, read_in
from saes.sites import Site, SiteError

_WEIGHTS = re.compile(r"(?:dictionary|sae_weights|sae|layer_\d+)\.safetensors|ae\.pt|params\.npz")
_LAYER = re.compile(r"layer_(\d+)\.safetensors")


@dataclass(frozen=True)
class Place:
    """Where one dictionary is, and which tool wrote it; `layer` of a set that keeps several in one folder."""

    source: str
    folder: Path
    tool: str
    layer: int | None = None

    @property
    def name(self) -> str:
        return self.folder.name if self.layer is None else f"layer_{self.layer}"

    @property
    def weights(self) -> Path:
        """The file that holds them."""
        if self.layer is not None:
            return self.folder / f"{self.name}.safetensors"
        return next(path for path in sorted(self.folder.iterdir()) if _WEIGHTS.fullmatch(path.name))

    def outline(self, site: str | None = None, target: str | None = None) -> Outline:
        """Sites and sizes, without the weights."""
        found = formats.outline(self.tool, self.folder, site, target, **self._options())
        return found if self.tool != "kibitz" or site is None else _renamed(found, site, self.source)

    def read(
        self,
        site: str | None = None,
        target: str | None = None,
        *,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> AffineDictionary:
        """The dictionary, frozen, on a device and in a dtype."""
        if self.tool == "kibitz":
            dictionary = load_dictionary(self.folder, device, dtype)
            if site is not None:
                renamed = _renamed(self.outline(), site, self.source)
                dictionary.reads, dictionary.writes = tuple(renamed.reads), tuple(renamed.writes)
            return dictionary
        dictionary = formats.read_format(self.tool, self.folder, site, target, **self._options())
        dictionary = dictionary.to(device=device, dtype=dtype)
        for name, t in dictionary.state_dict().items():
            if not all_finite(t):
                raise FileError(f"{self.source}: {name} holds numbers that {dtype} cannot")
        return dictionary

    def _options(self) -> dict[str, int]:
        return {} if self.layer is None else {"layer": self.layer}


def _renamed(outline: Outline, name: str, source: str) -> Outline:
    """The same with another site, for a folder of ours."""
    if len(outline.reads) != 1 or outline.reads != outline.writes:
        raise FileError(f"{source}: reads and writes more than one site, so that one name cannot stand for them")
    keep = our_name(name) == outline.reads[0].name
    sites = outline.reads if keep else (site_named(name),)
    return Outline(sites, sites, outline.width_in, outline.width, outline.features)


def locate(source: str | Path, tool: str | None = None) -> list[Place]:
    """The dictionaries of a folder, of a layer_N.safetensors of a set, or of an address on the hub; at least one.

    A folder of any tool is one; a transcoder set, a sparsify run and a folder of dictionary folders are several.
    `tool`: who wrote it, where a folder's files do not tell. FileError if there is none, or the hub does not have it.
    """
    path = Path(source).expanduser()
    if path.exists():
        return _local(str(source), path, tool)
    address = hub.parse_address(str(source))
    if address is None:
        raise FileError(f"{source}: no such folder, and not an address on the hub ({hub.SYNTAX})")
    return [_remote(str(source), address, tool)]


def locate_one(source: str | Path) -> Place:
    """The one dictionary of a source; FileError if there are several."""
    places = locate(source)
    if len(places) > 1:
        names = ", ".join(place.name for place in places)
        raise FileError(f"{source}: holds {len(places)} dictionaries; name one of {names}")
    return places[0]


def _local(source: str, path: Path, tool: str | None = None) -> list[Place]:
    if match := _LAYER.fullmatch(path.name):
        return [Place(source, path.parent, circuit_tracer.NAME, int(match[1]))]
    if not path.is_dir():
        raise FileError(f"{source}: is a file; a dictionary is a folder, or a layer_N.safetensors of a transcoder set")
    try:
        tool = tool or formats.recognise(path)
    except FileError:
        folders = [folder for folder in sorted(path.iterdir()) if folder.is_dir() and _recognised(folder)]
        if not folders:
            raise
        return [place for folder in folders for place in _local(f"{source}/{folder.name}", folder)]
    if tool == circuit_tracer.NAME and len(layers := circuit_tracer.layers(path)) > 1:
        return [Place(source, path, tool, layer) for layer in layers]
    if tool == sparsify.NAME and (coders := sparsify.coders(path)):
        return [Place(source, folder, tool) for folder in coders]
    return [Place(source, path, tool)]


def _recognised(folder: Path) -> bool:
    try:
        return bool(formats.recognise(folder))
    except FileError:
        return False


def _remote(source: str, address: HubAddress, tool: str | None = None) -> Place:
    if match := _LAYER.fullmatch(PurePosixPath(address.path).name):
        parent = str(PurePosixPath(address.path).parent)
        names = [f"layer_{match[1]}.safetensors", "config.yaml"]
        folder = hub.fetch(address.at("" if parent == "." else parent), names)
        if (folder / names[0]).is_file():
            return Place(source, folder, circuit_tracer.NAME, int(match[1]))
    else:
        folder = hub.fetch(address, formats.FILES)
        if _recognised(folder) and not circuit_tracer.layers(folder):
            return Place(source, folder, tool or formats.recognise(folder))
    held = [PurePosixPath(path) for path in hub.files_of(address) if _WEIGHTS.fullmatch(PurePosixPath(path).name)]
    # one of a set is named by its file, every other one by its folder
    names = [str(path if _LAYER.fullmatch(path.name) else path.parent) for path in held]
    near = hub.nearest(address.path, names)
    what = f"no dictionary at {address.path!r}" if address.path else "no dictionary at the top of the repository"
    if not near:
        raise FileError(f"{address}: {what}, and none in any known format elsewhere in it")
    raise FileError(f"{address}: {what}; name one that is there, such as {', '.join(str(address.at(n)) for n in near)}")


def load_released(
    source: str | Path,
    *,
    dtype: torch.dtype = torch.float32,
    device: str | torch.device = "cpu",
    site: str | None = None,
    target: str | None = None,
    model: PreTrainedModel | None = None,
) -> AffineDictionary:
    """The dictionary at a folder or an address on the hub, frozen.

    `site`, and `target` of a transcoder, stand in place of what its files say, in any tool's spelling. With `model` the
    sites become the model's own. FileError for what cannot be had or read, SiteError for what does not fit the model.
    """
    place = locate_one(source)
    outline = place.outline(site, target)
    fitted = None if model is None else sites_in(model, [outline], [place.source])[0]  # before the weights are read
    dictionary = place.read(site, target, device=device, dtype=dtype)
    if fitted is not None:
        fitted.put(dictionary)
    return dictionary


@dataclass(frozen=True)
class Fitted:
    """The sites of a model that a dictionary reads and writes."""

    reads: tuple[Site, ...]
    writes: tuple[Site, ...]
    gain: Gain | None = None
    """of the norm behind which the model's site lies, where the dictionary reads what is before it (saes/normed.py)"""

    def put(self, dictionary: AffineDictionary) -> None:
        """Make these the sites of the dictionary, as it was read from its file."""
        dictionary.reads, dictionary.writes = self.reads, self.writes
        if self.gain is not None:
            divide_gain(dictionary, self.gain)


def sites_in(model: PreTrainedModel, outlines: Sequence[Outline], sources: Sequence[str]) -> list[Fitted]:
    """The model's sites that dictionaries read and write; SiteError if one is not there or has another width."""
    found = []
    for outline, source in zip(outlines, sources, strict=True):
        try:
            found.append(fit(model, outline.reads, outline.writes))
        except SiteError as error:
            raise SiteError(f"{source}: {error}; name its site with `site`") from None
    widths = site_widths(model, {site for each in found for site in (*each.reads, *each.writes)})
    for each, outline, source in zip(found, outlines, sources, strict=True):
        for sites, width in ((each.reads, outline.width_in), (each.writes, outline.width)):
            if (there := sum(widths[site] for site in sites)) != width:
                names = " + ".join(map(str, sites))
                raise SiteError(
                    f"{source}: is {width} wide, but {names} of this model {there}; is it of another model?"
                )
    return found


def fit(model: PreTrainedModel, reads: Sequence[Site], writes: Sequence[Site]) -> Fitted:
    """The model's own sites of those names; SiteError if one is not there."""
    if len(reads) == 1:
        site, gain = read_in(model, reads[0])
        read: tuple[Site, ...] = (site,)
    else:
        read, gain = tuple(find_site(model, site.name) for site in reads), None
    return Fitted(read, tuple(find_site(model, site.name) for site in writes), gain)
