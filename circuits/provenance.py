"""What a circuit was found with: weights, metric, method, examples, versions. All of it plain JSON, made in one place.

found = find_circuit(model, dictionaries, examples, metric, config).circuit
found = found.with_provenance(provenance(model, dictionaries, examples, metric, config))
check_dictionaries(found, dictionaries)
"""

import hashlib
from collections.abc import Mapping
from dataclasses import asdict, fields, is_dataclass
from importlib.metadata import version
from typing import Any

from torch import Tensor, nn
from transformers import PreTrainedModel

from circuits.circuit import Circuit, CircuitError
from circuits.discover import CircuitConfig
from circuits.end_points import EndPoints, counterfactual
from circuits.examples import Examples
from circuits.feature_acts import Dictionaries
from circuits.metrics import METRICS, Metric
from saes.digests import weights_digest
from saes.sites import Site

_PACKAGES = ("kibitz", "torch", "transformers")


def provenance(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    examples: Examples,
    metric: Metric,
    config: CircuitConfig,
    *,
    to: EndPoints = counterfactual,
) -> dict[str, Any]:
    """What tells this circuit from another; the same weights and examples give the same entries on any machine.

    Every dictionary's weights are read once, as find_circuit reads them.
    """
    return {
        "model": {"type": model.config.model_type, "weights": weights_digest(model), "dtype": str(model.dtype)},
        "dictionaries": {site.name: weights_digest(dictionaries[site]) for site in dictionaries},
        "metric": _said(metric),
        "to": _said(to),
        "config": asdict(config),
        "examples": {"count": len(examples), "tokens": tokens_digest(examples)},
        "versions": {name: version(name) for name in _PACKAGES},
    }


def tokens_digest(examples: Examples) -> str:
    """A hash of the tokens of all prompts and of where the metric is read; padding does not count."""
    digest = hashlib.sha256()
    for i, end in enumerate(examples.ends.tolist()):
        for tokens in (examples.clean, examples.patch):
            row = [] if tokens is None else tokens[i, :end].tolist()
            digest.update(f"{row} ".encode())
        digest.update(f"{int(examples.position[i])}\n".encode())
    return digest.hexdigest()


def check_dictionaries(circuit: Circuit, dictionaries: Dictionaries) -> None:
    """CircuitError if the circuit was found with other dictionaries than these, or does not say with which.

    More dictionaries than the circuit has sites are no fault.
    """
    recorded = circuit.provenance.get("dictionaries")
    if not isinstance(recorded, Mapping):
        raise CircuitError("the circuit does not say which dictionaries it was found with; find it again")
    for site in circuit.sites:
        if site not in dictionaries:
            raise CircuitError(f"the circuit has features of {site.name}, where no dictionary is given")
        there = weights_digest(dictionaries[site])
        if recorded.get(site.name) != there:
            raise CircuitError(
                f"the circuit was found with another dictionary at {site.name} (weights "
                f"{str(recorded.get(site.name))[:12]}, given {there[:12]}): its feature numbers mean other features"
            )


def _said(part: Any) -> dict[str, Any]:
    """The name of a metric or an end point, and those of its settings that are plain values or weights."""
    for name, kind in METRICS.items():
        if type(part) is kind:
            return {"name": name}
    said: dict[str, Any] = {"name": getattr(part, "__name__", type(part).__name__)}
    for field in fields(part) if is_dataclass(part) and not isinstance(part, type) else ():
        value = getattr(part, field.name)
        if value is None or isinstance(value, bool | int | float | str):
            said[field.name] = value
        elif isinstance(value, Site):
            said[field.name] = value.name
        elif isinstance(value, nn.Module):
            said[field.name] = weights_digest(value)
        elif isinstance(value, Tensor):
            said[field.name] = hashlib.sha256(value.detach().cpu().double().numpy().tobytes()).hexdigest()
        elif callable(value):
            said[field.name] = getattr(value, "__name__", type(value).__name__)
    return said
