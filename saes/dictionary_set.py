"""Many dictionaries of one model, loaded when they are asked for and let go when memory is short.

    dictionaries = DictionarySet("sets/gemma", model=model, budget_bytes=8 * 2**30)
    effects = node_effects(model, dictionaries, examples, metric)     # a mapping from sites, like a dict of them

Opening reads sites and sizes alone. A dictionary's weights are read at its first use, put on the device in the set's
dtype, and stay until others need the room: then the one that was not used for the longest time is let go. A dictionary
that a caller still holds stays whole and usable; it is only no longer counted. So the dictionaries in memory take at
most the budget and the one in hand, if callers hold one at a time.

What is let go is read again from its file: the system's page cache keeps files that fit into host memory. With
`keep_on_host` the weights stay in page-locked host memory instead, in the set's dtype: no file is parsed twice.

Precision: the weights, and so all products, are in the set's dtype, by default the model's: a site's tensors must have
it. A product in bfloat16 adds up in float32 and rounds its result to 8 bits, so that features whose pre-activation is
within about 0.4 % of a threshold may go on or off; docs/scale.md has measurements.
"""

import copy
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedModel

from saes.architectures import AffineDictionary
from saes.families import site_names
from saes.files import FileError
from saes.formats.folders import Outline
from saes.released import Fitted, Place, locate, sites_in
from saes.sites import Site, SiteError


class DictionarySet(Mapping[Site, AffineDictionary]):
    """A mapping from the site that a dictionary reads to the dictionary. Not for several threads at once.

    Two lookups of one site may give two objects with the same numbers. `in`, `len`, iteration over the sites and
    `outlines` (sites and sizes) read no weights.
    """

    def __init__(
        self,
        sources: str | Path | Sequence[str | Path],
        *,
        model: PreTrainedModel | None = None,
        budget_bytes: int | None = None,
        dtype: torch.dtype | None = None,
        device: str | torch.device | None = None,
        keep_on_host: bool = False,
    ) -> None:
        """`sources`: folders and addresses on the hub (saes/released.py); a folder may hold many dictionaries.

        With `model` the sites are the model's own, in forward order, its dtype and device are the defaults, and widths
        are checked. `budget_bytes`: of weights on the device; None for no limit. FileError for sources that cannot be
        read or share a site, SiteError for what does not fit the model.
        """
        if budget_bytes is not None and budget_bytes < 0:
            raise ValueError(f"budget_bytes is {budget_bytes}: give 0 or more, or None for no limit")
        self.dtype = dtype or (torch.float32 if model is None else model.dtype)
        self.device = torch.device(device or ("cpu" if model is None else model.device))
        if model is not None and self.dtype != model.dtype:
            raise SiteError(
                f"dictionaries in {self.dtype} cannot read a model in {model.dtype}; load one like the other"
            )
        if keep_on_host and self.device.type == "cpu":
            raise ValueError("keep_on_host keeps copies for another device, but the dictionaries are to be on the CPU")
        self.budget_bytes = budget_bytes
        self._places: dict[Site, Place] = {}
        self._fitted: dict[Site, Fitted] = {}
        self.outlines: dict[Site, Outline] = {}
        self._open([sources] if isinstance(sources, str | Path) else sources, model)
        self._held: OrderedDict[Site, AffineDictionary] = OrderedDict()  # the one used last is at the end
        self._host: dict[Site, tuple[AffineDictionary, dict[str, Tensor]]] | None = {} if keep_on_host else None
        self.loads = 0
        """how often weights were brought to the device"""

    def _open(self, sources: Sequence[str | Path], model: PreTrainedModel | None) -> None:
        places = [place for source in sources for place in locate(source)]
        outlines = [place.outline() for place in places]
        names = [place.source for place in places]
        fitted = [Fitted(tuple(o.reads), tuple(o.writes)) for o in outlines]
        if model is not None:
            fitted = sites_in(model, outlines, names)
        for place, outline, each in zip(places, outlines, fitted, strict=True):
            if len(each.reads) != 1:
                raise FileError(f"{place.source}: reads several sites, and a set has one site for a dictionary")
            site = each.reads[0]
            if site in self._places:
                raise FileError(f"{place.source}: reads {site}, like {self._places[site].source}; leave one out")
            self._places[site], self._fitted[site], self.outlines[site] = place, each, outline
        if model is not None:
            order = {name: i for i, name in enumerate(site_names(model))}
            self._places = dict(sorted(self._places.items(), key=lambda item: order[item[0].name]))

    def __getitem__(self, site: Site) -> AffineDictionary:
        if site in self._held:
            self._held.move_to_end(site)
            return self._held[site]
        self._make_room(self.outlines[site].numbers * self.dtype.itemsize)
        dictionary = self._load(site)
        self._fitted[site].put(dictionary)
        self.loads += 1
        self._make_room(bytes_of(dictionary))  # exactly now, its vectors included
        if self.budget_bytes is None or bytes_of(dictionary) <= self.budget_bytes:
            self._held[site] = dictionary
        return dictionary

    def __iter__(self) -> Iterator[Site]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, site: object) -> bool:
        return site in self._places

    def __eq__(self, other: object) -> bool:
        return self is other  # Mapping's would load every dictionary

    def __hash__(self) -> int:
        return id(self)

    def __repr__(self) -> str:
        return f"DictionarySet({len(self)} dictionaries, {len(self._held)} of them loaded)"

    @property
    def bytes_held(self) -> int:
        """Of weights on the device that the set itself keeps."""
        return sum(map(bytes_of, self._held.values()))

    def release(self) -> None:
        """Let go of all weights on the device."""
        self._held.clear()

    def _make_room(self, needed: int) -> None:
        while self.budget_bytes is not None and self._held and self.bytes_held + needed > self.budget_bytes:
            self._held.popitem(last=False)

    def _load(self, site: Site) -> AffineDictionary:
        place = self._places[site]
        if self._host is None:
            return place.read(device=self.device, dtype=self.dtype)
        if site not in self._host:
            dictionary = place.read(dtype=self.dtype)
            weights = {name: t.pin_memory() for name, t in dictionary.state_dict().items()}
            self._host[site] = dictionary.to("meta"), weights
        shell, weights = self._host[site]
        dictionary = copy.deepcopy(shell)
        on_device = {name: t.to(self.device, non_blocking=True) for name, t in weights.items()}
        dictionary.load_state_dict(on_device, assign=True)
        return dictionary


def bytes_of(dictionary: AffineDictionary) -> int:
    """Of its parameters and buffers."""
    return sum(t.numel() * t.element_size() for t in dictionary.state_dict().values())
