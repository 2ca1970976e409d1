"""What the nodes of a circuit are called where people see them."""

from collections.abc import Mapping
from dataclasses import dataclass

from circuits.circuit import Circuit, CircuitError, Node
from circuits.markup import number, printable


@dataclass(frozen=True)
class Label:
    """A name for a node, such as the board property that it matches best, and how well it does."""

    text: str
    f1: float | None = None

    def __str__(self) -> str:
        return self.text if self.f1 is None else f"{self.text}, F1 {number(self.f1)}"


Labels = Mapping[Node, Label]


def ids(circuit: Circuit) -> dict[Node, str]:
    """site/feature@place or site/error@place in one line, fit for XML; CircuitError if two nodes have the same."""
    found = {node: " ".join(printable(node).split()) for node in circuit.nodes}
    if len(set(found.values())) < len(found):
        raise CircuitError("two places have names that differ in spaces or control characters only: rename one")
    return found
