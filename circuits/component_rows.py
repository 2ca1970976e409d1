"""Scores of coarser nodes and of the edges between them as rows: the strongest first, as CSV and for Graphviz."""

import csv
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from io import StringIO

from jaxtyping import Bool, Float
from torch import Tensor

from circuits.component_nodes import ComponentScores
from circuits.components import Components
from circuits.eap import EdgeScores
from circuits.markup import effect_colour, quoted_dot, significant
from circuits.peap import SpanScores
from circuits.span_circuits import SpanCircuit


@dataclass(frozen=True)
class Row:
    """A node at a place, or with `reader` an edge into it; q, k or v is what the edge feeds."""

    node: str
    place: str
    effect: float
    reader: str = ""
    reader_place: str = ""
    letter: str = ""

    def __str__(self) -> str:
        start = f"{self.node}@{self.place}"
        return (
            f"{start} -> {self.reader}{self.letter and f'<{self.letter}>'}@{self.reader_place}"
            if self.reader
            else start
        )


def node_rows(
    scores: ComponentScores, values: Float[Tensor, "places sources"] | Float[Tensor, "places sources d"], kept: Tensor
) -> list[Row]:
    """The kept entries of `values`; single dimensions are named site/number."""
    rows = [
        Row(
            "/".join((scores.sources[source], *map(str, rest))),
            scores.places[place],
            float(values[place, source, *rest]),
        )
        for place, source, *rest in kept.nonzero().tolist()
    ]
    return _ordered(rows)


def edge_rows(scores: EdgeScores, kept: Bool[Tensor, "places sources destinations"]) -> list[Row]:
    """The kept edges."""
    return _ordered(_edge(scores.sources[u], scores.destinations[v], scores.places[p], float(scores.values[p, u, v]))
                    for p, u, v in kept.nonzero().tolist())  # fmt: skip


def span_rows(graph: Components, scores: SpanScores, kept: SpanCircuit) -> list[Row]:
    """The kept edges within spans, and those inside heads from span to span for each of q, k and v.

    A head is two nodes: where it reads, "a0.h1 in", and where it writes, a0.h1.
    """
    edges = [
        _edge(graph.sources[u], graph.destinations[v], scores.spans[p], float(scores.within[p, u, v]))
        for p, u, v in kept.within.nonzero().tolist()
    ]
    rows = [replace(row, reader=f"{row.reader} in") if row.letter else row for row in edges]
    for i, h, d, u in kept.crossing.nonzero().tolist():
        for letter, effect in zip("qkv", scores.crossing[i, :, h, d, u].tolist(), strict=True):
            rows.append(Row(f"a{i}.h{h} in", scores.spans[u], effect, f"a{i}.h{h}", scores.spans[d], letter))
    return _ordered(rows)


def _edge(source: str, destination: str, place: str, effect: float) -> Row:
    reader, _, letter = destination.partition("<")
    return Row(source, place, effect, reader, place, letter.rstrip(">"))


def _ordered(rows: Iterator[Row] | list[Row]) -> list[Row]:
    return sorted(rows, key=lambda row: -abs(row.effect))


def to_csv(rows: Sequence[Row]) -> str:
    """CSV with the fields of Row."""
    text = StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["node", "place", "reader", "letter", "reader_place", "effect"])
    writer.writerows([r.node, r.place, r.reader, r.letter, r.reader_place, repr(r.effect)] for r in rows)
    return text.getvalue()


def to_dot(rows: Sequence[Row], title: str) -> str:
    """Graphviz' language: nodes with their effects, or edges with q, k or v beside them, width by effect."""
    largest = max((abs(row.effect) for row in rows), default=0.0) or 1.0
    lines = [f"digraph {quoted_dot(title)} {{", "  rankdir=BT; node [shape=box, style=rounded, fontname=Helvetica];"]
    for row in rows:
        start = f"{row.node}@{row.place}"
        shown = f'color="{effect_colour(row.effect)}", penwidth={0.5 + 5 * abs(row.effect) / largest:.3f}'
        if not row.reader:
            label = quoted_dot(f"{start}\n{significant(row.effect)}")
            lines.append(f"  {quoted_dot(start)} [label={label}, {shown}];")
            continue
        said = f"{shown}, label={quoted_dot(row.letter)}, tooltip={quoted_dot(significant(row.effect))}"
        lines.append(f"  {quoted_dot(start)} -> {quoted_dot(f'{row.reader}@{row.reader_place}')} [{said}];")
    return "\n".join([*lines, "}", ""])
