"""The page that lists clusters of contexts: their answers, examples, strongest nodes, and a link to each circuit."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from html import escape
from pathlib import Path
from typing import Any

from saes.files import write_text


@dataclass(frozen=True)
class Behaviour:
    """One cluster; `shown` are its most central contexts, as tokens, with the token that follows."""

    number: int
    size: int
    answers: Mapping[str, int]
    loss: float
    centrality: float
    shown: Sequence[tuple[Sequence[str], str]]
    page: str | None = None
    nodes: Mapping[str, float] | None = None

    def with_circuit(self, page: str, nodes: Mapping[str, float]) -> "Behaviour":
        return replace(self, page=page, nodes=nodes)

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


STYLE = """
:root{color-scheme:light dark;--edge:#8884;--soft:#8882}
body{font:16px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
article{border:1px solid var(--edge);border-radius:.5rem;padding:1rem;margin:1rem 0}
h2{margin:0 0 .3rem;font-size:1.1rem}p{margin:.3rem 0}
.context{font-family:ui-monospace,monospace;font-size:.85rem;overflow-wrap:anywhere;background:var(--soft);
padding:.2rem .5rem;border-radius:.3rem;margin:.25rem 0}
.answer{font-weight:700;outline:1px solid currentColor;border-radius:.2rem;padding:0 .2rem}
.nodes{font-size:.85rem}
"""


def write_list(
    behaviours: Sequence[Behaviour], agreement: Mapping[str, float], path: Path, settings: Mapping[str, Any]
) -> None:
    """Write the page atomically; it needs nothing but itself and the circuits' pages beside it."""
    said = ", ".join(f"{name} {value}" for name, value in settings.items())
    scores = "".join(
        f"<p>Adjusted mutual information with {escape(name)}: {score:.3f} (1: the same groups, 0: chance)</p>"
        for name, score in agreement.items()
    )
    body = "".join(_article(behaviour) for behaviour in behaviours)
    write_text(
        path,
        '<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>Behaviours</title><style>{STYLE}</style><h1>Behaviours that nobody named</h1>"
        f"<p>{escape(said)}</p>{scores}{body}</html>\n",
    )


def _article(behaviour: Behaviour) -> str:
    answers = ", ".join(f"{escape(repr(answer))} × {count}" for answer, count in behaviour.answers.items())
    contexts = "".join(
        f'<div class="context">{escape(" ".join(tokens))} <span class="answer">{escape(answer)}</span></div>'
        for tokens, answer in behaviour.shown
    )
    circuit = ""
    if behaviour.page is not None and behaviour.nodes is not None:
        nodes = ", ".join(f"{escape(name)} {effect:+.3g}" for name, effect in behaviour.nodes.items())
        circuit = f'<p class="nodes"><a href="{escape(behaviour.page)}">Circuit</a>: {nodes}</p>'
    return (
        f"<article><h2>{behaviour.number}: {behaviour.size} contexts</h2><p>Next token: {answers}; loss "
        f"{behaviour.loss:.2f} nats, mean cosine to the centre {behaviour.centrality:.2f}</p>"
        f"{contexts}{circuit}</article>"
    )
