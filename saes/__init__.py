"""Sparse autoencoders on a language model's activations: sites, dictionaries, penalties, one trainer."""

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.checkpoint import load_dictionary, save_dictionary
from saes.dictionary import Dictionary, IdentityDictionary
from saes.dictionary_set import DictionarySet
from saes.evaluation import evaluate
from saes.families import Family, circuit_sites, find_site
from saes.importers import import_gpt
from saes.models import load_model, load_tokenizer
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig
from saes.released import load_released
from saes.sites import Site, capture, intervene
from saes.trainer import TrainConfig, Trainer
from saes.training import train

__all__ = [
    "L0",
    "ActivationBuffer",
    "Dictionary",
    "DictionarySet",
    "Family",
    "IdentityDictionary",
    "L0Config",
    "Lp",
    "LpConfig",
    "PAnneal",
    "PAnnealConfig",
    "ReLUConfig",
    "ReLUDictionary",
    "Site",
    "SparseReconstruction",
    "TrainConfig",
    "Trainer",
    "capture",
    "circuit_sites",
    "evaluate",
    "find_site",
    "import_gpt",
    "intervene",
    "load_dictionary",
    "load_model",
    "load_released",
    "load_tokenizer",
    "save_dictionary",
    "train",
]
