"""How other tools call our sites, and what their files say about them.

A file of Kibitz's carries its sites unabridged under the key `kibitz`, which the other tools ignore (sparsify warns
of keys that it does not know: there it is a file, kibitz.json). A stranger's names one in its own way: it gets our
name if we have one (so that saes.families.find_site finds it in a model), keeps its own otherwise, and its `module` is
the stranger's spelling.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from saes.dictionary import Dictionary
from saes.files import FileError
from saes.sites import Site

KEY = "kibitz"
UNKNOWN = "unknown"
_LENS = {  # TransformerLens' names; SAELens and circuit-tracer use them
    "resid_{}": "blocks.{}.hook_resid_post",
    "resid_mid_{}": "blocks.{}.hook_resid_mid",
    "attn_{}": "blocks.{}.hook_attn_out",
    "mlp_{}": "blocks.{}.hook_mlp_out",
    "attn_heads_{}": "blocks.{}.attn.hook_z",
    "mlp_in_{}": "blocks.{}.mlp.hook_in",
    "mlp_hidden_{}": "blocks.{}.mlp.hook_post",
}
_PATHS = {  # of modules in transformers models, from the top or from the base model (sparsify)
    "resid_{}": r"(?:.+\.)?(?:layers|h)\.(\d+)",
    "attn_{}": r"(?:.+\.)?(?:layers|h)\.(\d+)\.(?:attn|self_attn|attention)",
    "mlp_{}": r"(?:.+\.)?(?:layers|h)\.(\d+)\.mlp",
    "mlp_in_{}": r"(?:.+\.)?(?:layers|h)\.(\d+)\.mlp\.input",  # what sparsify's transcoders of a module read
}
_PATTERNS = [(ours, re.escape(lens).replace(r"\{\}", r"(\d+)")) for ours, lens in _LENS.items()] + list(_PATHS.items())


def our_name(foreign: str) -> str:
    """Our name of a site that another tool names; its own if we have none."""
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_resid_pre", foreign):
        return f"resid_{int(match[1]) - 1}" if int(match[1]) else "embed"
    if match := re.fullmatch(r"blocks\.(\d+)\.hook_mlp_in", foreign):  # the stream before the norm
        return f"resid_mid_{match[1]}"
    for ours, pattern in _PATTERNS:
        if match := re.fullmatch(pattern, foreign):
            return ours.format(match[1])
    return foreign


def lens_name(site: Site) -> str:
    """TransformerLens' name of a site; ours if it has none."""
    if site.name == "embed":  # with learned positions, which hook_embed leaves out
        return "blocks.0.hook_resid_pre"
    for ours, lens in _LENS.items():
        if match := re.fullmatch(ours.replace("{}", r"(\d+)"), site.name):
            return lens.format(match[1])
    return site.name


def path_name(site: Site) -> str:
    """The module's path from the base model, as sparsify names its hookpoints."""
    return re.sub(r"^(transformer|gpt_neox|model)\.", "", site.module)


def layer_of(site: Site) -> int | None:
    """The block that a site belongs to, if its name says so."""
    match = re.search(r"_(\d+)$", site.name) or re.search(r"\.(\d+)(\.|$)", site.name)
    return int(match[1]) if match else None


def site_named(foreign: str | None) -> Site:
    """The site that another tool's name means."""
    foreign = foreign or UNKNOWN
    return Site(our_name(foreign), foreign)


def sites_entry(dictionary: Dictionary) -> dict[str, Any]:
    """What is written under the key `kibitz`."""
    return {
        "reads": [asdict(site) for site in dictionary.reads],
        "writes": [asdict(site) for site in dictionary.writes],
    }


Sites = tuple[Sequence[Site], Sequence[Site]]
"""read and written"""


def sites_of(
    path: Path,
    entry: Mapping[str, Any],
    read: str | None,
    write: str | None,
    site: str | None,
    target: str | None,
    transcoder: bool,
) -> Sites:
    """The sites of a foreign dictionary: the caller's, else those of Kibitz's `entry`, else the other tool's.

    `path` is the file that errors name.
    """
    if target is not None and not transcoder:
        raise FileError(f"{path}: an autoencoder writes the site that it reads: give no second site")
    reads, writes = _own(path, entry) or ([site_named(read)], [site_named(write if transcoder else read)])
    if site is not None and our_name(site) != reads[0].name:
        reads = [site_named(site)]
    if not transcoder:
        return reads, reads
    if target is not None and our_name(target) != writes[0].name:
        writes = [site_named(target)]
    return reads, writes


def _own(path: Path, entry: Mapping[str, Any]) -> Sites | None:
    if not entry:
        return None
    try:
        reads, writes = ([Site(**site) for site in entry[name]] for name in ("reads", "writes"))
        if not all(
            s.end in ("in", "out") and isinstance(s.name, str) and isinstance(s.module, str) for s in reads + writes
        ):
            raise TypeError
        if len(reads) != 1 or len(writes) != 1:
            raise TypeError
    except (KeyError, TypeError):
        raise FileError(f"{path}: {KEY!r} lacks `reads` or `writes`, each one site with name, module and end") from None
    return reads, writes
