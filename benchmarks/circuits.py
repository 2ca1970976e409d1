"""A feature circuit at the size of Pythia-70m: all node effects and edges, beside the original's way of making them.

    python benchmarks/circuits.py [--json FILE] [--examples 1 2 4 8]

Random weights, dictionaries of 32,768 features at all 19 sites with about 100 active, 64 positions, 200 nodes kept, 10
steps of integrated gradients; building the model and the dictionaries is not counted. The reference works as the
original code does: for every downstream node one backward pass through the dense dictionaries at both ends and through
the model down to the embedding, with gradients of all weights. It is run on a few nodes of the same case, and has to
give the same edges.
"""

import sys

sys.path.pop(0)  # this folder, in which `circuits` is this file and not the package

import json
import resource
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import tyro
from torch import Tensor
from transformers import GPTNeoXConfig, GPTNeoXForCausalLM

from circuits.attribution import NodeEffects, counterfactual, node_effects, site_values
from circuits.circuit import Circuit
from circuits.edges import edge_effects
from circuits.examples import Examples
from circuits.metrics import LogitDifference
from circuits.selection import Sizes
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import blocks, circuit_sites
from saes.files import write_json
from saes.sites import Site, capture, intervene


@dataclass(frozen=True)
class Case:
    width: int = 512
    layers: int = 6
    features: int = 32_768
    active: int = 100
    length: int = 64
    nodes: int = 200
    steps: int = 10
    vocabulary: int = 50_304
    examples: tuple[int, ...] = (1, 2, 4, 8)
    """numbers of examples; the first is the case"""
    reference_nodes: int = 2
    """downstream nodes of each kind that the reference is run on"""
    json: Path | None = None


def build(case: Case) -> tuple[GPTNeoXForCausalLM, dict[Site, ReLUDictionary]]:
    torch.manual_seed(0)
    config = GPTNeoXConfig(
        vocab_size=case.vocabulary, hidden_size=case.width, num_hidden_layers=case.layers, num_attention_heads=8,
        intermediate_size=4 * case.width, max_position_embeddings=2048, initializer_range=0.04,
    )  # fmt: skip
    model = GPTNeoXForCausalLM(config).eval().requires_grad_(False)
    with torch.no_grad(), capture(model, circuit_sites(model)) as values:
        model(input_ids=prompts(case, 1).clean, use_cache=False)
    dictionaries = {}
    for i, site in enumerate(circuit_sites(model)):
        dictionary = ReLUDictionary(ReLUConfig(case.width, case.features), [site], seed=i).requires_grad_(False)
        scale = float(values[site].norm(dim=-1).mean())
        dictionary.W_dec.data *= scale / case.active**0.5
        pre = dictionary.pre_activation(values[site][0])
        cut = pre.flatten().kthvalue(pre.numel() - case.active * case.length).values
        dictionary.b_enc.data -= cut  # so many are above 0
        dictionary.W_enc.data /= pre.max() - cut
        dictionary.b_enc.data /= pre.max() - cut
        dictionaries[site] = dictionary
    return model, dictionaries


def prompts(case: Case, count: int) -> Examples:
    random = torch.Generator().manual_seed(1)
    clean = torch.randint(case.vocabulary, (count, case.length), generator=random)
    patch = clean.clone()
    patch[:, case.length // 4] = (clean[:, case.length // 4] + 1) % case.vocabulary
    fields = {"answer": clean[:, 1], "other": clean[:, 2]}
    return Examples(clean, patch, torch.full((count,), case.length - 1), fields)


@dataclass(frozen=True)
class Found:
    nodes: NodeEffects
    circuit: Circuit
    edges: dict[tuple[Site, Site], Tensor]
    edge_seconds: float
    """of the CPU, for the edges alone"""

    @property
    def backwards(self) -> int:
        """How many backward passes the original makes: one for every downstream node and upstream site."""
        return sum(len(matrix) for matrix in self.edges.values())


def ours(case: Case, model: GPTNeoXForCausalLM, dictionaries: dict[Site, ReLUDictionary], examples: Examples) -> Found:
    to = counterfactual(model, dictionaries, examples)
    nodes = node_effects(model, dictionaries, examples, LogitDifference(), to, steps=case.steps, slope="clean")
    sizes = Sizes(len(examples))
    for site, found in nodes.items():
        sizes.add(site, found.at_places(examples.grouped, case.features))
    names = examples.grouped.names
    circuit = Circuit(tuple(dictionaries), sizes.strongest(case.nodes, names), {}, {}, names)
    begun = time.process_time()
    edges = edge_effects(model, dictionaries, examples, nodes, circuit.chosen())
    return Found(nodes, circuit, edges, time.process_time() - begun)


def measured(call: Callable[[], Any]) -> tuple[Any, float, float, float]:
    """What a call returns, its CPU seconds and wall seconds, and the peak of the process's memory in GiB."""
    with suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")  # begins a new peak
    cpu, wall = time.process_time(), time.perf_counter()
    found = call()
    return found, time.process_time() - cpu, time.perf_counter() - wall, peak_gib()


def peak_gib() -> float:
    status = Path("/proc/self/status")
    if status.exists():
        line = next(line for line in status.read_text().splitlines() if line.startswith("VmHWM"))
        return int(line.split()[1]) / 2**20
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20


def reference(
    model: GPTNeoXForCausalLM,
    dictionaries: dict[Site, ReLUDictionary],
    examples: Examples,
    nodes: NodeEffects,
    up: Site,
    down: Site,
    stops: list[Site],
    features: list[int],
) -> Tensor:
    """Rows of the edge matrix, one backward pass each: [features, F] (upstream features only)."""
    model.requires_grad_(True)
    up_dictionary, down_dictionary = dictionaries[up].requires_grad_(True), dictionaries[down].requires_grad_(True)
    leaves: dict[str, Tensor] = {}

    def splice(x: Tensor) -> Tensor:
        acts = up_dictionary.encode(x).detach().requires_grad_()
        leaves["acts"] = acts
        reconstruction = up_dictionary.decode(acts)
        return reconstruction + (x - reconstruction).detach()

    edits = {up: splice, **dict.fromkeys(stops, Tensor.detach)}
    with torch.enable_grad(), intervene(model, edits), capture(model, [down], stop_after=False) as values:
        model(input_ids=examples.clean, use_cache=False)
    acts = down_dictionary.encode(values[down])
    weights = nodes[down].gradient @ down_dictionary.W_dec.detach().T
    assert examples.patch is not None
    with torch.no_grad():
        clean, patch = (site_values(model, [up], tokens)[up] for tokens in (examples.clean, examples.patch))
        change = up_dictionary.encode(patch) - up_dictionary.encode(clean)
    rows = []
    for feature in features:
        (weights[..., feature] * acts[..., feature]).sum().backward(retain_graph=True)
        gradient = leaves["acts"].grad
        assert gradient is not None
        rows.append((gradient * change).sum((0, 1)) / len(examples))
        leaves["acts"].grad = None
    for module in (model, up_dictionary, down_dictionary):
        module.requires_grad_(False)
        module.zero_grad(set_to_none=True)
    return torch.stack(rows)


def compared(
    case: Case, model: GPTNeoXForCausalLM, dictionaries: dict[Site, ReLUDictionary], found: Found, examples: Examples
) -> list[dict[str, Any]]:
    """The reference on a few nodes of the middle block: seconds for each, and how far our edges are from its."""
    block, chosen = blocks(model)[case.layers // 2], found.circuit.chosen()
    rows = []
    for up, down, stops in (
        (block.before, block.resid, [block.attn, block.mlp]),
        (block.before, block.mlp, []),
        (block.before, block.attn, []),
    ):
        features = chosen[down].features[: case.reference_nodes].tolist()
        if not features or not len(chosen[up].features):
            continue
        theirs, cpu, _, _ = measured(
            lambda up=up, down=down, stops=stops, features=features: reference(
                model, dictionaries, examples, found.nodes, up, down, stops, features
            )
        )
        columns = chosen[up].features
        mine = found.edges[up, down][: len(features), : len(columns)]
        error = float((mine - theirs[:, columns]).abs().max() / theirs[:, columns].abs().max())
        rows.append(
            {"edge": f"{up}->{down}", "nodes": len(features), "seconds_per_node": cpu / len(features), "error": error}
        )
    return rows


def main(case: Case) -> None:
    print(f"torch {torch.__version__}, {torch.get_num_threads()} threads")
    model, dictionaries = build(case)
    print(f"built: {peak_gib():.2f} GiB at most")
    results: list[Found] = []
    rows: list[dict[str, float]] = []
    for count in case.examples:
        examples = prompts(case, count)
        found, cpu, wall, peak = measured(lambda examples=examples: ours(case, model, dictionaries, examples))
        active = sum(len(n.moves.row) for n in found.nodes.values()) / len(found.nodes) / count / case.length
        edges = sum(int((matrix != 0).sum()) for matrix in found.edges.values())
        rows.append({"examples": count, "cpu_seconds": cpu, "wall_seconds": wall, "peak_gib": peak})
        print(
            f"{count} examples: {len(found.circuit.nodes)} nodes, {edges:,} edges; {active:.0f} features active in "
            f"clean or patch; {cpu:.1f} CPU s, {wall:.1f} s, {peak:.2f} GiB at most",
            flush=True,
        )
        results.append(found)
        del results[1:]
    slow = compared(case, model, dictionaries, results[0], prompts(case, case.examples[0]))
    for row in slow:
        print(f"reference {row['edge']}: {row['seconds_per_node']:.2f} CPU s per node; largest difference "
              f"{row['error']:.1e}")  # fmt: skip
    first = results[0]
    per_node, mine = sum(r["seconds_per_node"] for r in slow) / max(len(slow), 1), first.edge_seconds / first.backwards
    print(
        f"edges of one downstream node from one site: {mine:.4f} CPU s, reference {per_node:.2f}, "
        f"{per_node / mine:.0f} times as long; all {first.backwards} in {first.edge_seconds:.1f} CPU s, the "
        f"reference's would take {per_node * first.backwards:.0f}"
    )
    if case.json is not None:
        write_json(
            case.json,
            {
                "cpu_seconds": rows[0]["cpu_seconds"],
                "peak_gib": rows[0]["peak_gib"],
                "edge_cpu_seconds": first.edge_seconds,
                "seconds_per_node": mine,
                "reference_seconds_per_node": per_node,
                "ratio_per_node": per_node / mine,
                "by_examples": rows,
                "reference": slow,
            },
        )
        print(json.dumps({"written": str(case.json)}))


if __name__ == "__main__":
    main(tyro.cli(Case))
