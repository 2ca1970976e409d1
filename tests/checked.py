"""The checker that conftest.py puts on every signature: beartype, with an int allowed where a float is (PEP 484)."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
