"""Edges and nodes of EAP-IG (Hanna et al. 2024) between heads and MLPs, its circuits, and MIB's areas over them.

Scores are within 1e-9 of the reference, 1e-6 on GPT-NeoX (whose reference keeps rotary tables in float32). The original
divides by the number of examples twice; that is applied here. What it gets wrong is left out, by name.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.areas import MIB_SHARES
from circuits.component_nodes import component_scores
from circuits.components import Components
from circuits.eap import edge_scores
from circuits.edge_circuits import edge_curve
from circuits.edge_patching import exact_edge_scores
from circuits.edge_selection import greedy_edges, prune, top_edges
from circuits.examples import Examples
from circuits.metrics import LogitDifference, measure
from golden.arrays import read_object
from golden.relative import EXACT, SINGLE, Table, reference_model
from saes.files import FileError, read_tensors

RAGGED = 3
"""examples in a batch of the ragged case; the original weights each batch's mean by its size once too often"""
SELECT = {"topn": top_edges, "greedy": greedy_edges}


def check(folder: Path) -> bool:
    """Compare one case, or a folder of cases; whether all is within the limits."""
    cases = (
        [folder] if (folder / "scores.safetensors").is_file() else sorted(p.parent for p in folder.glob("*/meta.json"))
    )
    if not cases:
        raise FileError(f"{folder} holds no scores.safetensors; name a folder of EAP-IG's scores")
    table = Table()
    for case in cases:
        try:
            _check_case(case, table)
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError, StopIteration) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{case}: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    return table.close(folder)


def _check_case(folder: Path, table: Table) -> None:
    model, meta = reference_model(folder), read_object(folder / "meta.json")
    inputs, scores = (read_tensors(folder / f"{name}.safetensors") for name in ("inputs", "scores"))
    graph = Components.of(model, tokens_only=True)  # its input node is the token embedding without positions
    _check_names(folder, graph, meta)
    limit = SINGLE if model.config.model_type == "gpt_neox" else EXACT
    clean, labels = inputs["clean_tokens"], inputs["labels_correct_incorrect"]
    last = torch.full((len(clean),), clean.shape[1] - 1)

    def examples(answer: int) -> Examples:
        fields = {"answer": labels[:, answer], "other": labels[:, 1 - answer]}
        return Examples(clean, inputs["corrupted_tokens"], last, fields)

    # attribution explains incorrect - correct, circuits are measured by correct - incorrect
    explained, measured = examples(1), examples(0)
    for name, theirs in scores.items():
        if name == "real_edge_mask":
            table.add(f"{folder.name}: {name}", graph.real, theirs, 0.0)
        elif name.startswith("in_graph."):
            continue  # with the curves
        elif wrong := _why_wrong(name):
            table.leave_out(f"{folder.name}: {name}", wrong)
        elif name == "edge.exact":
            ours = exact_edge_scores(graph, measured, LogitDifference()).total
            table.add(f"{folder.name}: {name}", ours, theirs, limit)
        elif name.startswith("edge."):
            table.add(f"{folder.name}: {name}", _edges(folder, graph, explained, name), theirs, limit)
        elif name.startswith(("node.", "neuron.")):
            rows = [i for i, source in enumerate(graph.sources) if not source.startswith("m")]
            ours = _nodes(folder, graph, explained, name)
            table.add(f"{folder.name}: {name} (input, heads)", ours[rows], theirs[rows], limit)
            table.leave_out(f"{folder.name}: {name} (MLPs)", "the original takes the gradient at the MLP's input")
        else:
            raise FileError(f"{folder}: no quantity is known for {name!r} in scores.safetensors")
    for name, ours, theirs in _circuits(graph, measured, scores, meta["eval"]):
        table.add(f"{folder.name}: {name}", ours, theirs, 0.0 if "circuits" in name else limit)
    if (folder / "graph_top20.json").is_file():
        _check_graph(folder, graph, scores, table)


def _why_wrong(name: str) -> str | None:
    """Why an entry is not compared."""
    if name == "edge.EAP_mean_BUGGY":
        return "the original's mean is of the last token, divided by the length"
    if name.startswith("node.exact"):
        return "the original indexes a node that is not there"
    if name == "edge.IFR":
        return "information flow routes are no effects on a metric; not a method of circuits/"
    return None


def _check_names(folder: Path, graph: Components, meta: Mapping[str, Any]) -> None:
    for key, ours in (("src_nodes(rows)", graph.sources), ("dst_nodes(cols)", graph.destinations)):
        if tuple(meta[key]) != ours:
            raise FileError(f"{folder / 'meta.json'}: {key} are not this model's: {', '.join(ours)}")


def _method(folder: Path, name: str, edges: bool) -> dict[str, Any]:
    """Our options for a reference's name: EAP-IG's end points differ between edges and nodes."""
    if found := re.fullmatch(r"EAP-IG-(inputs|activations)_s(\d+)", name):
        rule = "right" if edges and found[1] == "inputs" else "left"
        return {"method": f"ig-{found[1]}", "steps": int(found[2]), "rule": rule}
    if name == "clean-corrupted":
        return {"method": name}
    ends = {"EAP": "patch", "EAP_zero": "zero", "EAP_meanpos": "mean"}
    if name not in ends:
        raise FileError(f"{folder}: no method is known for {name!r} in scores.safetensors")
    return {"method": "eap", "end": ends[name]}


def _edges(folder: Path, graph: Components, examples: Examples, name: str) -> Tensor:
    """As the original gives them: a mean over examples, divided by their number once more."""
    method, _, variant = name.removeprefix("edge.").partition(".")
    options = _method(folder, method, edges=True)
    if variant == "ragged_batches_mean_metric":
        means = [edge_scores(graph, batch, LogitDifference(), **options).total for batch in examples.batches(RAGGED)]
        return torch.stack(means).sum(0) / len(examples)
    if variant not in ("", "sum_metric"):
        raise FileError(f"{folder}: no variant is known for {name!r} in scores.safetensors")
    total = edge_scores(graph, examples, LogitDifference(), **options).total
    return total if variant == "sum_metric" else total / len(examples)


def _nodes(folder: Path, graph: Components, examples: Examples, name: str) -> Tensor:
    level, _, method = name.partition(".")
    found = component_scores(graph, examples, LogitDifference(), **_method(folder, method, edges=False))
    return (found.values if level == "node" else found.dimensions).sum(0) / len(examples)


def _circuits(
    graph: Components, examples: Examples, scores: Mapping[str, Tensor], meta: Mapping[str, Any]
) -> Iterator[tuple[str, Any, Any]]:
    """Metrics of the whole model, selected edges, faithfulness and areas."""
    metric = LogitDifference()
    assert examples.patch is not None
    yield "metric, clean", measure(graph.model, metric, examples.clean, examples), meta["baseline_clean"]
    yield "metric, corrupted", measure(graph.model, metric, examples.patch, examples), meta["baseline_corrupted"]
    for key in (key for key in meta if key.startswith("curves_")):
        ranked = _ranked(scores, key.removeprefix("curves_"))
        for name, curve in meta[key].items():
            shares = tuple(curve["percentages"])
            choose = _chooser(graph, ranked, name)
            masks = [scores[f"in_graph.{name}.{share:g}"].bool() for share in shares]
            ours = torch.stack([choose(int(share * int(graph.real.sum()))) for share in shares])
            yield f"{name}: circuits", ours, torch.stack(masks)
            found = edge_curve(graph, examples, metric, choose, shares)
            yield f"{name}: sizes of circuits", found.sizes, curve["weighted_edge_counts"]
            yield f"{name}: faithfulness", found.faithfulness, curve["faithfulness"]
            ends = (curve["m_empty"], curve["m_full"])
            yield f"{name}: metric of nothing and everything", (found.nothing, found.model), ends
            if shares == MIB_SHARES:
                yield f"{name}: CPR", found.cpr(nominal=True), curve["CPR(area_under)"]
                yield f"{name}: CMD", found.cmd(nominal=True), curve["CMD(area_from_1)"]


def _ranked(scores: Mapping[str, Tensor], method: str) -> Tensor:
    """The edge scores of a method, whatever number of steps they were made with."""
    return next(x for name, x in scores.items() if re.fullmatch(rf"edge\.{re.escape(method)}(_s\d+)?", name))


def _chooser(graph: Components, ranked: Tensor, name: str) -> Callable[[int], Tensor]:
    kind, _, absolute = name.partition(".abs")
    return lambda count: prune(graph, SELECT[kind](graph, ranked, count, absolute=absolute == "True"))


def _check_graph(folder: Path, graph: Components, scores: Mapping[str, Tensor], table: Table) -> None:
    """The sample of EAP-IG's own file: names, scores and the top fifth of the edges."""
    edges = read_object(folder / "graph_top20.json")["edges"]
    names = {f"{graph.sources[u]}->{graph.destinations[v]}": (u, v) for u, v in graph.real.nonzero().tolist()}
    if set(names) != set(edges):
        raise FileError(f"{folder / 'graph_top20.json'}: its edges are not this model's")
    ranked = _ranked(scores, "EAP-IG-inputs")
    kept = prune(graph, top_edges(graph, ranked, len(edges) // 5))
    ours = torch.stack([ranked[at] for at in names.values()])
    exact = torch.tensor([edges[name]["score"] for name in names], dtype=torch.float64)
    table.add(f"{folder.name}: graph_top20.json, scores", ours, exact, EXACT)
    chosen = [bool(edges[name]["in_graph"]) for name in names]
    table.add(f"{folder.name}: graph_top20.json, edges", [bool(kept[at]) for at in names.values()], chosen, 0.0)
