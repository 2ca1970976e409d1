"""Step 5: the circuit behind a behaviour whose cause the rules fix, measured on pairs that did not find it."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from boardgames.matching import Match, match_features
from boardgames.othello.counterfactuals import Counterfactuals, counterfactuals
from boardgames.othello.rules import replay, square_index
from boardgames.othello.transcript import TOKEN_OF_SQUARE, to_tokens
from boardgames.report import Positions, activations
from circuits.audit import audit_effects
from circuits.circuit import Circuit
from circuits.circuit_files import save_circuit
from circuits.discover import CircuitConfig, Discovery, find_circuit
from circuits.examples import Examples
from circuits.faithfulness import Faithfulness, faithfulness
from circuits.feature_acts import Dictionaries
from circuits.held_out import unseen
from circuits.metrics import LogOdds
from circuits.provenance import provenance
from kibitz.chain.board import drawn_position, top_positions
from saes.sites import Site

TARGET, DIRECTION = "b4", (1, 0)  # legal by flipping discs down the column b4-c4-d4-...
FIRST_PLY, LAST_PLY = 3, 9  # few moves: a behaviour that a small model carries with few features
AUDITED = 8  # pairs on which the circuit's effects are held against exact patching
DRAWN_NODES, DRAWN_EDGES = 80, 250  # the strongest, for the picture
SHOWN_GAMES, SHOWN_POSITIONS = 200, 2  # where a node's most active positions are looked for, and how many are shown


@dataclass(frozen=True)
class Explained:
    discovery: Discovery
    measured: Faithfulness
    matches: dict[tuple[str, int], Match]
    positions: dict[tuple[str, int], list[dict[str, object]]]
    """where the drawn features are most active"""
    pairs: Counterfactuals
    examples: int

    @property
    def circuit(self) -> Circuit:
        return self.discovery.circuit

    def summary(self) -> dict[str, float]:
        m = self.measured
        return {
            "nodes": len(self.circuit.nodes),
            "edges": len(self.circuit.edges),
            "faithfulness": m.faithfulness,
            "faithfulness_without_errors": m.faithfulness_without_errors,
            "completeness": m.completeness,
            "random_faithfulness": m.random_faithfulness,
            "ig_sum_error": self.discovery.largest_gap,
        }

    def drawn(self) -> Circuit:
        """The strongest nodes and the strongest edges among them: what a picture can show."""
        return self.circuit.strongest(DRAWN_NODES, DRAWN_EDGES)

    def report(self) -> dict[str, object]:
        nodes = []
        drawn = self.drawn()
        for node, effect in drawn.nodes.items():
            match = None if node.feature is None else self.matches.get((node.site, node.feature))
            label = "error" if node.feature is None else match.column if match else "unmatched"
            nodes.append(
                {
                    "id": str(node),
                    "site": node.site,
                    "feature": node.feature,
                    "effect": effect,
                    "label": label,
                    "f1": match.f1 if match else None,
                    "positions": [] if node.feature is None else self.positions.get((node.site, node.feature), []),
                }
            )
        clean, patch = replay(self.pairs.clean[:1]), replay(self.pairs.patch[:1])
        ply, changed = int(self.pairs.ply[0]), int(self.pairs.changed_ply[0])
        numbers = self.summary()
        counts = {"node_count": numbers.pop("nodes"), "edge_count": numbers.pop("edges")}
        return {
            "behaviour": f"log-odds of playing {TARGET} where it is legal by one line only, against games that "
            "differ in one earlier move and where it is not legal",
            "target": self.pairs.target,
            "sites": [site.name for site in self.circuit.sites],
            "nodes": nodes,
            "edges": [{"source": str(u), "target": str(d), "weight": w} for (u, d), w in drawn.edges.items()],
            **numbers,
            **counts,
            "examples": self.examples,
            "example": {
                "clean": drawn_position(clean, 0, ply),
                "patch": drawn_position(patch, 0, ply),
                "changed_ply": changed,
                "changed_from": int(self.pairs.clean[0, changed]),
                "changed_to": int(self.pairs.patch[0, changed]),
            },
        }


def explain(
    model: PreTrainedModel,
    dictionaries: Dictionaries,
    names: Positions,
    config: CircuitConfig,
    pairs: int,
    run: Path,
    rng: np.random.Generator,
) -> Explained:
    """Find a circuit on `pairs` pairs and measure it on as many others; features are named on the positions `names`."""
    found = counterfactuals(2 * pairs, square_index(TARGET), DIRECTION, rng, first_ply=FIRST_PLY, last_ply=LAST_PLY)
    every = as_examples(found)
    finding, testing = every.take(torch.arange(pairs)), every.take(torch.arange(pairs, 2 * pairs))
    testing = unseen(testing, finding)  # few moves: a pair can be drawn twice
    discovery = find_circuit(model, dictionaries, finding, LogOdds(), config)
    measured = faithfulness(
        model,
        dictionaries,
        discovery.circuit.kept(dictionaries),
        finding,
        testing,
        LogOdds(),
    )
    checked = audit_effects(
        model, dictionaries, finding.take(torch.arange(min(AUDITED, pairs))), LogOdds(), config=config
    )
    print(checked.sentence())
    said = {**provenance(model, dictionaries, finding, LogOdds(), config), "audit": checked.to_json()}
    discovery = replace(discovery, circuit=discovery.circuit.with_provenance(said))
    save_circuit(discovery.circuit, run / "circuit")
    explained = Explained(discovery, measured, {}, {}, found, pairs)
    chosen = {site: nodes.features for site, nodes in explained.drawn().chosen().items()}
    return replace(
        explained,
        matches=match_features(model, dictionaries, chosen, names),
        positions=_most_active(model, dictionaries, chosen, Positions(names.moves[:SHOWN_GAMES])),
    )


@torch.no_grad()
def _most_active(
    model: PreTrainedModel, dictionaries: Dictionaries, features: Mapping[Site, Tensor], positions: Positions
) -> dict[tuple[str, int], list[dict[str, object]]]:
    """By site and feature, positions as the report draws them."""
    found = {}
    for site, index in features.items():
        if len(index):
            acts = dictionaries[site].encode_chosen(activations(model, site, positions), index).numpy()
            for column, feature in enumerate(index.tolist()):
                found[site.name, feature] = top_positions(
                    acts[:, column], positions.board, positions.replay, SHOWN_POSITIONS
                )
    return found


def as_examples(pairs: Counterfactuals) -> Examples:
    """Pairs as prompts, with the target's token as the answer; shorter ones are padded behind the position read."""
    length = int(pairs.ply.max()) + 1
    clean, patch = (torch.from_numpy(to_tokens(moves[:, :length])) for moves in (pairs.clean, pairs.patch))
    answer = torch.full((len(pairs),), int(TOKEN_OF_SQUARE[pairs.target]))
    ply = torch.from_numpy(pairs.ply)
    return Examples(clean, patch, ply, {"answer": answer}, lengths=ply + 1)
