"""The p-annealed dictionaries of every site of the shipped OthelloGPT."""

from pathlib import Path

from transformers import PreTrainedModel

from boardgames.lm import WEIGHTS
from saes.architectures import ReLUDictionary
from saes.checkpoint import load_dictionary
from saes.families import circuit_sites
from saes.files import FileError
from saes.sites import Site

OTHELLO_DICTIONARIES = WEIGHTS / "othello_dictionaries"


def load_dictionaries(model: PreTrainedModel, folder: Path | str = OTHELLO_DICTIONARIES) -> dict[Site, ReLUDictionary]:
    """One dictionary for each of embed, attn_i, mlp_i, resid_i, in forward order, from `folder`/SITE."""
    dictionaries = {}
    for site in circuit_sites(model):
        dictionary = load_dictionary(Path(folder) / site.name, device=str(model.device))
        if dictionary.site != site:
            raise FileError(f"{Path(folder) / site.name}: is a dictionary of {dictionary.site}, not of {site}")
        dictionaries[site] = dictionary
    return dictionaries
