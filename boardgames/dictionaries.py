"""Sets of dictionaries, one for each site of a model; those of the shipped OthelloGPT ship beside it, p-annealed."""

from collections.abc import Sequence
from pathlib import Path

from transformers import PreTrainedModel

from boardgames.lm import WEIGHTS
from saes.architectures import AffineDictionary
from saes.checkpoint import load_dictionary
from saes.families import circuit_sites
from saes.files import FileError
from saes.sites import Site

OTHELLO_DICTIONARIES = WEIGHTS / "othello_dictionaries"


def load_dictionaries(
    model: PreTrainedModel, folder: Path | str = OTHELLO_DICTIONARIES, sites: Sequence[Site] | None = None
) -> dict[Site, AffineDictionary]:
    """One dictionary for each of `sites`, by default embed, attn_i, mlp_i, resid_i in forward order: `folder`/SITE."""
    dictionaries = {}
    for site in circuit_sites(model) if sites is None else sites:
        dictionary = load_dictionary(Path(folder) / site.name, device=str(model.device))
        if dictionary.site != site:
            raise FileError(f"{Path(folder) / site.name}: is a dictionary of {dictionary.site}, not of {site}")
        dictionaries[site] = dictionary
    return dictionaries
