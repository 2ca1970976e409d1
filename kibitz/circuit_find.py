"""`kibitz circuit find`: the circuit behind a behaviour, measured on examples that did not find it, as a run folder.

The folder holds circuit/ (the files that other commands read), circuit.html and circuit.svg (the strongest nodes),
results.json, and with --curves faithfulness over sizes as a figure.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from torch import Tensor

from boardgames.matching import match_features
from circuits.attribution import site_values
from circuits.audit import audit_effects
from circuits.circuit import Circuit, Node
from circuits.circuit_files import save_circuit
from circuits.curve_figures import draw_curves
from circuits.curves import faithfulness_curves
from circuits.discover import CircuitConfig, Discovery, find_circuit
from circuits.faithfulness import faithfulness
from circuits.labels import Label, Labels
from circuits.page import Context, Contexts, write_page
from circuits.picture import draw_svg
from circuits.provenance import provenance
from kibitz.board_words import named_positions
from kibitz.circuit_problem import Problem, ProblemOptions
from kibitz.runs import check_replaceable, run_folder
from saes.files import write_json, write_text

DRAWN_NODES, DRAWN_EDGES = 100, 300
_SHOWN = 4  # contexts of a node


@dataclass(frozen=True)
class FindConfig(ProblemOptions):
    """Find the sparse feature circuit behind a behaviour, measure it and draw it."""

    circuit: tyro.conf.OmitArgPrefixes[CircuitConfig] = field(default_factory=lambda: CircuitConfig(200, edges=1000))
    audit: int = 40
    """nodes whose effect is measured exactly too; 0: none"""
    random: int = 10
    """random circuits of each kind to compare with"""
    curves: bool = False
    """measure circuits of all sizes too, beside random ones and neurons (many more passes)"""
    names: int = 300
    """of board models: games on which features are named by the property that they match best; 0: no names"""
    games: tuple[Path, ...] = ()
    """of board models: files of those games (see `kibitz games`); by default uniformly random ones"""
    out: Path = Path("runs/circuit")
    """folder for the circuit, its pages and numbers; an earlier run there is replaced"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("audit", 0), ("random", 0), ("names", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: choose {least} or more")


def run_find(config: FindConfig) -> str:
    """The sentences to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    problem = config.open()
    with run_folder(config.out, config, config.seed, {}) as run:
        discovery = find(problem, config.circuit)
        circuit = discovery.circuit
        save_circuit(circuit, run / "circuit")
        results, said = measured(config, problem, discovery, run)
        write_json(run / "results.json", results)
        drawn = circuit.strongest(DRAWN_NODES, DRAWN_EDGES)
        labels = board_labels(problem, drawn, config.names, config.seed, config.games)
        title = f"Circuit: {problem.said}"
        write_text(run / "circuit.svg", draw_svg(drawn, labels, title=title))
        write_page(drawn, run / "circuit.html", labels, contexts_of(problem, drawn), title=title)
    pages = f"Circuit: {config.out / 'circuit'}; to look at: {config.out / 'circuit.html'}"
    return "\n".join([site_table(circuit, discovery), *named_table(circuit, labels), *said, pages])


def find(problem: Problem, config: CircuitConfig) -> Discovery:
    """The circuit with what it was found with."""
    found = find_circuit(problem.model, problem.dictionaries, problem.finding, problem.metric, config, to=problem.to)
    said = provenance(problem.model, problem.dictionaries, problem.finding, problem.metric, config, to=problem.to)
    return Discovery(found.circuit.with_provenance(said), found.scores, found.gaps)


def measured(config: FindConfig, problem: Problem, discovery: Discovery, run: Path) -> tuple[dict[str, Any], list[str]]:
    """Faithfulness, audit and curves: as JSON and as sentences."""
    model, dictionaries = problem.model, problem.dictionaries
    kept = discovery.circuit.kept(dictionaries)
    score = faithfulness(
        model, dictionaries, kept, problem.finding, problem.testing, problem.metric, problem.to,
        random_circuits=config.random, seed=config.seed, batch_size=config.circuit.batch_size,
    )  # fmt: skip
    results: dict[str, Any] = {
        "explained": problem.said,
        "metric": problem.metric_name,
        "to": problem.to_name,
        "finding": len(problem.finding),
        "nodes": len(discovery.circuit.nodes),
        "edges": len(discovery.circuit.edges),
        "gaps": {site.name: gap for site, gap in discovery.gaps.items()},
        "faithfulness": score.to_json(),
    }
    said = [score.sentence()]
    if config.audit:
        audited = audit_effects(
            model, dictionaries, problem.finding, problem.metric, problem.to, config.circuit,
            nodes=max(2, config.audit), seed=config.seed,
        )  # fmt: skip
        results["audit"] = audited.to_json()
        said.append(audited.sentence())
    if config.curves:
        curves = faithfulness_curves(
            model, dictionaries, problem.finding, problem.testing, problem.metric, problem.to, effects=config.circuit
        )
        results["curves"] = curves.to_json()
        draw_curves(curves, run / "curves.png", problem.said)
        said.append(curves.sentence())
    return results, said


def site_table(circuit: Circuit, discovery: Discovery) -> str:
    """Nodes and errors of every site, their share of the absolute effect, and the gap of its effects."""
    total = sum(abs(effect) for effect in circuit.nodes.values()) or 1.0
    rows = [f"{'site':>10s}{'features':>10s}{'errors':>8s}{'effect':>9s}{'in errors':>11s}{'gap':>8s}"]
    for site in circuit.sites:
        nodes = {node: abs(effect) for node, effect in circuit.nodes.items() if node.site == site.name}
        errors = [effect for node, effect in nodes.items() if node.feature is None]
        share = sum(nodes.values())
        rows.append(
            f"{site.name:>10s}{len(nodes) - len(errors):10d}{len(errors):8d}{share / total:9.1%}"
            f"{sum(errors) / share if share else 0:11.1%}{discovery.gaps[site]:8.1%}"
        )
    chosen = circuit.provenance.get("nodes_chosen", len(circuit.nodes))
    cut = f" of {chosen} chosen (through the edges kept the others do not reach the output)"
    edges = (
        f"{len(circuit.nodes)} nodes{cut if chosen > len(circuit.nodes) else ''}, {len(circuit.edges)} edges; "
        "gap: what the effects of a site's nodes miss of "
    )
    return "\n".join([*rows, f"{edges}what the whole site does"])


def board_labels(problem: Problem, circuit: Circuit, games: int, seed: int, files: Sequence[Path] = ()) -> Labels:
    """Features of a model of Othello or chess by the property that they match best on some games, with F1."""
    if not games or problem.game is None:
        return {}
    positions = named_positions(problem.game, files, games, seed)
    chosen = {site: nodes.features.unique() for site, nodes in circuit.chosen().items()}
    matches = match_features(problem.model, problem.dictionaries, chosen, positions)
    labels: dict[Node, Label] = {}
    for node in circuit.nodes:
        match = None if node.feature is None else matches.get((node.site, node.feature))
        if match is not None:
            labels[node] = Label(match.column, match.f1)
    return labels


def named_table(circuit: Circuit, labels: Labels, count: int = 10) -> list[str]:
    """The strongest nodes that have a name, with it."""
    named = sorted(labels, key=lambda node: -abs(circuit.nodes[node]))[:count]
    return [f"{circuit.nodes[n]:+12.5g}  {n}  {labels[n]}" for n in named]


def contexts_of(problem: Problem, circuit: Circuit) -> Contexts:
    """The finding prompts, clean and patch, on which each feature of the circuit is strongest."""
    examples = problem.finding
    found: dict[Node, list[Context]] = {}
    for site, chosen in circuit.chosen().items():
        features = chosen.features.unique()
        if not len(features):
            continue
        prompts = [("clean", examples.clean)] + ([] if examples.patch is None else [("patch", examples.patch)])
        acts = {kind: _activations(problem, site, tokens, features) for kind, tokens in prompts}
        for node in circuit.nodes:
            if node.site == site.name and node.feature is not None:
                column = int((features == node.feature).nonzero())
                found[node] = _strongest(problem, dict(prompts), {k: a[..., column] for k, a in acts.items()})
    return found


@torch.no_grad()
def _activations(
    problem: Problem, site: Any, tokens: Tensor, features: Tensor
) -> Float[Tensor, "prompts length features"]:
    dictionary = problem.dictionaries[site]
    index = features.to(problem.model.device)
    parts = [
        dictionary.encode_chosen(site_values(problem.model, [site], part)[site], index).cpu()
        for part in tokens.split(64)
    ]
    acts = torch.cat(parts)
    return acts * problem.finding.mask()[..., None]


def _strongest(problem: Problem, prompts: dict[str, Tensor], acts: dict[str, Tensor]) -> list[Context]:
    ends = problem.finding.ends.tolist()
    sizes = {kind: values.abs().amax(1).tolist() for kind, values in acts.items()}
    best = sorted(((size, kind, i) for kind, each in sizes.items() for i, size in enumerate(each)), reverse=True)
    shown: list[Context] = []
    seen: set[tuple[int, ...]] = set()
    for size, kind, i in best:
        tokens = prompts[kind][i, : ends[i]]
        if size == 0 or len(shown) == _SHOWN:
            break
        if tuple(tokens.tolist()) in seen:
            continue
        seen.add(tuple(tokens.tolist()))
        caption = f"{kind} prompt {i}"
        shown.append(Context(problem.words(tokens), acts[kind][i, : ends[i]].tolist(), caption))
    return shown
