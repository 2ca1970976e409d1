"""Sparse autoencoders on a language model's activations: sites, dictionaries, penalties, one trainer."""

from saes.architectures import ReLUConfig, ReLUDictionary
from saes.buffer import ActivationBuffer
from saes.checkpoint import load_dictionary, save_dictionary
from saes.dictionary import Dictionary, IdentityDictionary
from saes.evaluation import evaluate
from saes.families import circuit_sites, find_site
from saes.objective import SparseReconstruction
from saes.p_annealing import PAnneal, PAnnealConfig
from saes.penalties import L0, L0Config, Lp, LpConfig
from saes.sites import Site, capture, intervene
from saes.trainer import TrainConfig, Trainer
from saes.training import train

__all__ = [
    "L0",
    "ActivationBuffer",
    "Dictionary",
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
    "intervene",
    "load_dictionary",
    "save_dictionary",
    "train",
]
