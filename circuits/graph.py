"""An attribution graph as it is kept: nodes, edges, the values that they add up to, and where it is from."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from circuits.influence import Edges
from saes.files import FileError, read_json, read_tensors, write_json, write_tensors

FORMAT = "kibitz-attribution-graph-1"
_TENSORS = ("tokens", "features", "activations", "logit_tokens", "logit_probabilities", "values", "biases")
_EDGES = ("targets", "sources", "weights")


@dataclass(frozen=True)
class AttributionGraph:
    """Nodes by number: features, errors by block and position, tokens by position, logits by falling probability."""

    tokens: Int[Tensor, " length"]
    mlps: tuple[str, ...]
    """the site of each block's MLP"""
    features: Int[Tensor, "n 3"]
    """block, position and number in the dictionary, in this order"""
    activations: Float[Tensor, " n"]
    logit_tokens: Int[Tensor, " k"]
    logit_probabilities: Float[Tensor, " k"]
    edges: Edges
    values: Float[Tensor, " n_plus_k"]
    """of features and logits: pre-activations, and logits less the mean logit"""
    biases: Float[Tensor, " n_plus_k"]
    """the part of a value that comes from no node: biases of model and dictionaries"""
    provenance: Mapping[str, Any]

    @property
    def first_error(self) -> int:
        return len(self.features)

    @property
    def first_token(self) -> int:
        return self.first_error + len(self.mlps) * len(self.tokens)

    @property
    def first_logit(self) -> int:
        return self.first_token + len(self.tokens)

    def __len__(self) -> int:
        return self.first_logit + len(self.logit_tokens)

    @property
    def targets(self) -> Int[Tensor, " n_plus_k"]:
        """The nodes that have values: features, then logits."""
        return torch.cat([torch.arange(self.first_error), torch.arange(self.first_logit, len(self))])

    def error(self, block: int, position: int) -> int:
        """The number of an error node."""
        return self.first_error + block * len(self.tokens) + position

    def block_and_position(self, error: int) -> tuple[int, int]:
        """Of an error node."""
        return divmod(error - self.first_error, len(self.tokens))

    def save(self, folder: Path | str) -> None:
        """Write manifest.json and graph.safetensors."""
        folder = Path(folder)
        tensors = {name: getattr(self, name) for name in _TENSORS}
        write_tensors(folder / "graph.safetensors", {**tensors, **vars(self.edges)})
        provenance = json.loads(json.dumps(dict(self.provenance)))
        write_json(folder / "manifest.json", {"format": FORMAT, "mlps": list(self.mlps), "provenance": provenance})

    @classmethod
    def load(cls, folder: Path | str) -> "AttributionGraph":
        """Read what save wrote; FileError for anything else."""
        folder = Path(folder)
        manifest, tensors = read_json(folder / "manifest.json"), read_tensors(folder / "graph.safetensors")
        try:
            if manifest["format"] != FORMAT:
                raise FileError(f"{folder}: format {manifest['format']!r}; expected {FORMAT!r}")
            _check(tensors, len(manifest["mlps"]))
            edges = Edges(*(tensors[name] for name in _EDGES))
            parts = {name: tensors[name] for name in _TENSORS}
            return cls(**parts, mlps=tuple(manifest["mlps"]), edges=edges, provenance=manifest["provenance"])
        except FileError:
            raise
        except (KeyError, TypeError, IndexError, ValueError) as error:
            raise FileError(f"{folder}: not a whole attribution graph ({error})") from None


def _check(tensors: Mapping[str, Tensor], blocks: int) -> None:
    """ValueError unless the tensors of a file are of one graph."""
    tokens, features, logits, edges = (len(tensors[name]) for name in ("tokens", "features", "logit_tokens", "weights"))
    shapes = {
        "tokens": (tokens,),
        "features": (features, 3),
        "activations": (features,),
        "logit_tokens": (logits,),
        "logit_probabilities": (logits,),
        "values": (features + logits,),
        "biases": (features + logits,),
        **dict.fromkeys(_EDGES, (edges,)),
    }
    for name, shape in shapes.items():
        if tensors[name].shape != shape:
            raise ValueError(f"{name} has shape {list(tensors[name].shape)} and not {list(shape)}")
    nodes = features + (blocks + 1) * tokens + logits
    for name in ("targets", "sources"):
        ends = tensors[name]
        if len(ends) and not 0 <= int(ends.min()) <= int(ends.max()) < nodes:
            raise ValueError(f"{name} of edges go from {int(ends.min())} to {int(ends.max())} among {nodes} nodes")
