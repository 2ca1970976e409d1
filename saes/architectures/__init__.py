"""Dictionary architectures by name: the config and the module of each."""

from saes.architectures.relu import ReLUConfig, ReLUDictionary

ARCHITECTURES = {"relu": (ReLUConfig, ReLUDictionary)}

__all__ = ["ARCHITECTURES", "ReLUConfig", "ReLUDictionary"]
