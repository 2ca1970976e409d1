"""Edges between spans of PEAP (Haklay et al. 2025), and the circuits that its search finds; within 1e-6 (float32).

The models are those of the EAP-IG references, in a folder `eap_ig` (or `golden_eap_ig`) beside this one. The metrics of
the original's circuits are left out: its evaluation never cuts the inputs of attention.
"""

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from circuits.components import Components
from circuits.examples import Examples
from circuits.metrics import LogitDifference
from circuits.peap import Reduction, SpanScores, span_scores
from circuits.places import Places
from circuits.span_circuits import search_spans
from golden.arrays import read_object
from golden.relative import SINGLE, Table, reference_model
from saes.files import FileError

ENDS = {"counterfactual": "patch", "zero": "zero"}
REDUCTIONS: dict[str, Reduction] = {"sum": "sum", "avg": "mean", "sum_abs_pos": "magnitude"}


def check(folder: Path) -> bool:
    """Compare all files of a folder; whether all is within the limit."""
    files = sorted(f for end in ENDS for f in folder.glob(f"*_{end}.json"))
    if not files:
        raise FileError(f"{folder} holds no *_counterfactual.json or *_zero.json; name a folder of PEAP's scores")
    table = Table()
    for file in files:
        try:
            _check_file(file, table)
        except (KeyError, ValueError, IndexError, TypeError, RuntimeError) as error:
            if isinstance(error, FileError):
                raise
            raise FileError(f"{file}: {type(error).__name__}: {str(error).splitlines()[0]}") from None
    return table.close(folder)


def _check_file(file: Path, table: Table) -> None:
    name, _, end = file.stem.rpartition("_")
    model = reference_model(_beside(file.parent, name))
    graph = Components.of(model, open_attention=True)
    stored = read_object(file)
    examples = _examples(file, stored, int(model.config.bos_token_id))
    found = span_scores(graph, examples, LogitDifference(), tuple(REDUCTIONS.values()), end=ENDS[end])  # type: ignore[arg-type]
    ours, theirs = defaultdict(list), defaultdict(list)
    if len(stored["edges"]) != _count(graph, len(examples.grouped)):
        raise FileError(f"{file}: {len(stored['edges'])} edges; this model has {_count(graph, len(examples.grouped))}")
    for edge in stored["edges"]:
        for key, reduction in REDUCTIONS.items():
            for what, value, reference in _pairs(graph, found[reduction], edge, key):
                ours[what].append(value.reshape(-1))
                theirs[what].append(torch.tensor(reference, dtype=torch.float64).reshape(-1))
    for what in ours:
        table.add(f"{file.stem}: {what}", torch.cat(ours[what]), torch.cat(theirs[what]), SINGLE)
    circuits = file.with_name(f"{name}_circuit_eval.json")
    if end == "counterfactual" and circuits.is_file():
        _check_circuits(circuits, graph, found["sum"], examples, table)


def _beside(folder: Path, name: str) -> Path:
    folder = folder.resolve()
    places = [folder.parent / kind / name for kind in ("eap_ig", "golden_eap_ig")]
    for place in places:
        if place.is_dir():
            return place
    raise FileError(f"{folder}: its model is not beside it, in {places[0]}")


def _examples(file: Path, stored: Mapping[str, Any], bos: int) -> Examples:
    columns, vocabulary = stored["columns"], stored["vocab"]
    rows = [dict(zip(columns, row, strict=True)) for row in stored["rows"]]
    lengths = torch.tensor([row["length"] for row in rows])
    longest = int(lengths.max())

    def tokens(field: str) -> Tensor:
        made = torch.zeros(len(rows), longest, dtype=torch.long)
        for i, row in enumerate(rows):
            ids = [bos, *(vocabulary[word] for word in row[field].split())]
            if len(ids) != row["length"]:
                raise FileError(f"{file}: {row[field]!r} has {len(ids)} tokens, not {row['length']}")
            made[i, : len(ids)] = torch.tensor(ids)
        return made

    answers = {f: torch.tensor([vocabulary[row[c]] for row in rows]) for f, c in _ANSWERS.items()}
    starts = torch.tensor([[row[span] for span in stored["spans"]] for row in rows])
    places = Places.spans(stored["spans"][:-1], starts, longest)
    return Examples(tokens("prompt"), tokens("counter"), lengths - 1, answers, lengths, places)


_ANSWERS = {"answer": "correct_token", "other": "wrong_token"}


def _count(graph: Components, spans: int) -> int:
    """Edges between components, and for every head and letter those between spans."""
    return int(graph.real.sum()) + 3 * len(graph.layers) * graph.per_layer * spans * (spans + 1) // 2


def _pairs(
    graph: Components, scores: SpanScores, edge: Mapping[str, Any], key: str
) -> list[tuple[str, Tensor, float | list[float]]]:
    """What is compared, our number or numbers, and the reference's."""
    kind, layer, head = edge["up"]
    if edge["crossing"]:
        down, up = (scores.spans.index(edge[span]) for span in ("span_down", "span_up"))
        value = scores.crossing[layer, "qkv".index(kind), head, down, up]
        return [(f"crossing {kind}, {key}", value, edge[key])]
    source = graph.sources.index({"r": "input", "m": f"m{layer}", "h": f"a{layer}.h{head}"}[kind])
    kind, layer, head = edge["down"]
    name = {"r": graph.tail, "m": f"m{layer}"}.get(kind, f"a{layer}.h{head}<{kind}>")
    destination = graph.destinations.index(name)
    return [
        (f"within spans, {key}", scores.within[:, source, destination], edge[key][:-1]),
        (f"whole prompt, {key}", scores.prompt[source, destination], edge[key][-1]),
    ]


def _check_circuits(file: Path, graph: Components, scores: SpanScores, examples: Examples, table: Table) -> None:
    """Edges and sizes of the circuits that the search finds."""
    lengths = examples.grouped.sum(torch.ones(examples.clean.shape, dtype=torch.float64))
    largest = max(float(scores.within.abs().max()), float(scores.crossing.abs().max()))
    for count, theirs in read_object(file).items():
        if not count.isdigit():
            continue
        what = f"{file.stem}: top {count}"
        circuit = search_spans(graph, scores, int(count))
        if circuit.weakest(graph, scores) < 1e-9 * largest:
            table.leave_out(what, "edges of score zero are in it, in no order")
            continue
        table.add(f"{what}, abstract edges", circuit.edges(graph), theirs["abstract_edges"], 0.0)
        table.add(f"{what}, sizes", circuit.size(graph, lengths), theirs["circuit_size_per_example"], SINGLE)
        table.leave_out(f"{what}, metric_per_example", "the original's evaluation never cuts the inputs of attention")
