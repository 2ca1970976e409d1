"""Attribution graphs of transcoders (Ameisen, Lindsey et al. 2025, "Circuit Tracing"): one prompt, linear and exact.

    graph = attribution_graph(model, transcoders, tokens, GraphConfig())
    graph.save("graphs/dallas")

Nodes are active features, reconstruction errors, token embeddings and the likeliest next tokens. With attention
patterns and norms held at the prompt the edge from s to t is what s adds to t: to a feature's pre-activation, or to a
logit less the mean logit. Edges into a node and its bias add up to its value. docs/attribution_graphs.md.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from tqdm import tqdm
from transformers import PreTrainedModel

from circuits.graph import AttributionGraph
from circuits.influence import Edges, edges_of, joined, total_influence
from circuits.linear_model import LinearModel
from saes.dictionary import Dictionary
from saes.digests import weights_digest
from saes.sites import Site

_VISITS = 4  # batches of features between two rankings by influence


@dataclass(frozen=True)
class GraphConfig:
    max_features: int = 5000
    """features with a node of their own, the most influential first; the others are counted as error"""
    max_logits: int = 10
    """next tokens at most"""
    probability: float = 0.95
    """of the next tokens together, if `max_logits` allows it"""
    batch_size: int = 64
    """targets at once; memory grows with batch_size x positions x width x blocks"""

    def __post_init__(self) -> None:
        for name in ("max_features", "max_logits", "batch_size"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose at least 1")
        if not 0 < self.probability <= 1:
            raise ValueError(f"probability is {self.probability}: choose more than 0 and at most 1")


def attribution_graph(
    model: PreTrainedModel,
    transcoders: Mapping[Site, Dictionary],
    tokens: Int[Tensor, "..."],
    config: GraphConfig | None = None,
    *,
    progress: bool = True,
) -> AttributionGraph:
    """The graph of one prompt, a row of token ids, for the tokens that are likeliest to come next.

    `transcoders` read anything between residual stream and MLP and write one MLP each, as blocks(model) has it; the
    keys do not matter. The output of an MLP without one is error. GraphError or SiteError for what does not fit.
    """
    config = config or GraphConfig()
    linear = LinearModel(model, transcoders, tokens)
    active = _active(linear)
    logits, probabilities = _likeliest(linear.logits, config)
    columns = len(active.block) + (len(linear.parts) + 1) * len(linear.tokens)
    start = torch.zeros(columns + len(logits), dtype=torch.float64)
    start[columns:] = probabilities.double().cpu()
    vectors, head_bias = _logit_vectors(linear, logits)
    last = torch.full_like(logits, len(linear.tokens) - 1)
    rows = [
        edges_of(linear.effects(linear.head, vectors[chunk], last[chunk]).cpu(), columns + chunk)
        for chunk in torch.arange(len(logits)).split(config.batch_size)
    ]
    visited = torch.zeros(len(active.block), dtype=torch.bool)
    goal = min(config.max_features, len(visited))
    with tqdm(total=goal, desc="attribution graph", disable=not progress) as bar:
        while (left := goal - int(visited.sum())) > 0:
            waiting = (~visited).nonzero().flatten()
            if goal < len(visited):
                influence = total_influence(joined(rows), start)[: len(visited)]
                order = influence[waiting].argsort(descending=True, stable=True)
                waiting = waiting[order[: min(left, _VISITS * config.batch_size)]].sort().values
            for chunk in _by_block(waiting, active.block, config.batch_size):
                part, own = linear.parts[int(active.block[chunk[0]])], active.within[chunk]
                assert part.reads is not None
                effects = linear.effects(part.reads, part.encoders[own], part.positions[own])
                rows.append(edges_of(effects.cpu(), chunk))
                bar.update(len(chunk))
            visited[waiting] = True
    chosen = visited.nonzero().flatten()
    values, biases = _values(linear, active, chosen, vectors, head_bias)
    return AttributionGraph(
        tokens=linear.tokens.cpu(),
        mlps=tuple(part.writes.name for part in linear.parts),
        features=torch.stack([active.block, active.position, active.number], 1)[chosen],
        activations=active.activation[chosen],
        logit_tokens=logits.cpu(),
        logit_probabilities=probabilities.cpu(),
        edges=_folded(joined(rows), active, visited, len(linear.tokens), len(start)),
        values=values,
        biases=biases,
        provenance={
            "model": {"type": model.config.model_type, "weights": weights_digest(model), "dtype": str(model.dtype)},
            "transcoders": {
                part.writes.name: {"reads": asdict(part.reads), "weights": part.digest}
                for part in linear.parts
                if part.reads is not None
            },
            "active_features": len(visited),
            "config": asdict(config),
        },
    )


@dataclass(frozen=True)
class _Active:
    """All active features, by block, position and number."""

    block: Int[Tensor, " n"]
    position: Int[Tensor, " n"]
    number: Int[Tensor, " n"]
    activation: Float[Tensor, " n"]
    within: Int[Tensor, " n"]
    """index in the block's Part"""


def _active(linear: LinearModel) -> _Active:
    parts = linear.parts
    return _Active(
        torch.cat([torch.full((len(p.acts),), i) for i, p in enumerate(parts)]),
        torch.cat([p.positions.cpu() for p in parts]),
        torch.cat([p.features.cpu() for p in parts]),
        torch.cat([p.acts.cpu() for p in parts]),
        torch.cat([torch.arange(len(p.acts)) for p in parts]),
    )


def _likeliest(logits: Float[Tensor, " v"], config: GraphConfig) -> tuple[Int[Tensor, " k"], Float[Tensor, " k"]]:
    """The fewest tokens that reach config.probability together, and their probabilities."""
    probabilities = logits.to(torch.promote_types(logits.dtype, torch.float32)).softmax(-1)
    top = probabilities.topk(min(config.max_logits, len(logits)))
    count = int(torch.searchsorted(top.values.cumsum(0), config.probability)) + 1
    return top.indices[:count], top.values[:count]


@torch.no_grad()
def _logit_vectors(linear: LinearModel, logits: Tensor) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Rows of the unembedding less their mean, and the same of its bias: softmax does not see what all logits share."""
    weight, bias = linear.unembedding.weight, linear.unembedding.bias
    vectors = weight[logits] - weight.mean(0)
    return vectors, torch.zeros_like(vectors[:, 0]) if bias is None else bias[logits] - bias.mean()


def _by_block(features: Tensor, block: Tensor, size: int) -> list[Tensor]:
    """Batches of features of one block each; `features` is in ascending order, and so by block."""
    counts = torch.bincount(block[features]).tolist()
    return [chunk for own in features.split(counts) if len(own) for chunk in own.split(size)]


@torch.no_grad()
def _values(
    linear: LinearModel, active: _Active, chosen: Tensor, vectors: Tensor, head_bias: Tensor
) -> tuple[Float[Tensor, " targets"], Float[Tensor, " targets"]]:
    """Values of features and logits at the prompt, and what of them is bias."""
    values, biases = [], []
    for i, part in enumerate(linear.parts):
        own = active.within[chosen[active.block[chosen] == i]]
        if part.reads is not None and len(own):
            rows, at = part.encoders[own], part.positions[own]
            from_nodes = (rows * (linear.at_prompt[part.reads][at] - linear.bias[part.reads][at])).sum(1)
            values.append(part.pre[own])
            biases.append(part.pre[own] - from_nodes)
    now, none = linear.at_prompt[linear.head][-1], linear.bias[linear.head][-1]
    values.append(vectors @ now + head_bias)
    biases.append(vectors @ none + head_bias)
    return torch.cat(values).cpu(), torch.cat(biases).cpu()


def _folded(edges: Edges, active: _Active, visited: Tensor, length: int, nodes: int) -> Edges:
    """Edges between the graph's nodes: a feature without a node of its own joins the error of its block and position.

    `nodes` are all nodes before: every active feature, errors, tokens and logits.
    """
    left_out = int((~visited).sum())
    if not left_out:
        return edges
    number = torch.arange(nodes) - left_out
    error = len(visited) - left_out + active.block * length + active.position
    number[: len(visited)] = torch.where(visited, visited.cumsum(0) - 1, error)
    pairs, index = (number[edges.targets] * nodes + number[edges.sources]).unique(return_inverse=True)
    weights = torch.zeros(len(pairs), dtype=edges.weights.dtype).index_add(0, index, edges.weights)
    return Edges((pairs // nodes).to(torch.int32), (pairs % nodes).to(torch.int32), weights).without_zeros()
