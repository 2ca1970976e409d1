"""`kibitz circuit discover`: behaviours that nobody named, each with its circuit, and a page that lists them."""

from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import tyro

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.othello.rules import MAX_PLIES, NO_MOVE, WHITE, flips_by_direction, replay, square_name
from boardgames.othello.transcript import SQUARE_OF_TOKEN, from_tokens
from circuits.behaviours import Contexts, Positions, Representation, predicted_contexts, represent
from circuits.circuit_files import save_circuit
from circuits.clusters import Clusters, How, agreement, cluster
from circuits.discover import CircuitConfig, find_circuit
from circuits.end_points import end_points
from circuits.feature_acts import Dictionaries
from circuits.metrics import LogProbability
from circuits.page import write_page
from circuits.provenance import provenance
from kibitz.behaviour_page import Behaviour, write_list
from kibitz.circuit_find import DRAWN_EDGES, DRAWN_NODES
from kibitz.circuit_problem import ProblemError, open_dictionaries
from kibitz.corpora import CorpusOptions
from kibitz.runs import check_replaceable, run_folder
from saes.files import write_json
from saes.models import ModelError, load_tokenizer
from saes.samples import Sample


@dataclass(frozen=True)
class DiscoverConfig(CorpusOptions):
    """Cluster contexts that the model predicts well by what explains them, and find each cluster's circuit."""

    dictionaries: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of dictionaries, with others below them; by default those that ship"""
    by: Representation = "effects"
    """what represents a context: active features, their linear effects on the next token, or the loss's gradient"""
    positions: Positions = "last"
    """features of the last position, or summed over all"""
    contexts: int = 1000
    """how many"""
    clusters: int = 30
    how: How = "spectral"
    max_loss: float | None = None
    """contexts whose next token costs at most this many nats; by default 0.1, for games 3"""
    longest: int = 64
    """tokens of a context at most"""
    shortest: int = 4
    """tokens of a context at least"""
    dimension: int = 30_000
    """of projected gradients"""
    circuits: int = 10
    """clusters, the largest first, whose circuits are found; 0: none"""
    examples: int = 32
    """contexts of a cluster that its circuit is found on, the most central"""
    circuit: tyro.conf.OmitArgPrefixes[CircuitConfig] = field(
        default_factory=lambda: CircuitConfig(100, edges=500, steps=10)
    )
    budget: float | None = None
    """GiB of dictionaries that may be in memory at once; by default all"""
    out: Path = Path("runs/behaviours")
    """folder for index.html, clusters.json and circuits/; an earlier run there is replaced"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name, least in (("contexts", 2), ("clusters", 2), ("circuits", 0), ("examples", 1), ("longest", 1)):
            if getattr(self, name) < least:
                raise ProblemError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if not 1 <= self.shortest <= self.longest:
            raise ProblemError(f"shortest is {self.shortest}: choose 1 to {self.longest}, which is longest")
        if self.model is not None and not self.dictionaries:
            raise ProblemError("a model other than the one that ships needs dictionaries: name their folders")

    @property
    def loss(self) -> float:
        return self.max_loss if self.max_loss is not None else 3.0 if self.corpus is None else 0.1


def run_discover(config: DiscoverConfig) -> str:
    """The sentences to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    model = config.load_model()
    model.requires_grad_(False)
    dictionaries = open_dictionaries(model, config.dictionaries or (str(OTHELLO_DICTIONARIES),), config.budget)
    tokens = 400 * config.contexts
    sample = Sample(config.open_corpus(model, tokens), tokens, batch_rows=config.batch_rows, drop_bos=config.drop_bos)
    with run_folder(config.out, config, config.seed, {}) as run:
        contexts = predicted_contexts(
            model, sample, count=config.contexts, max_loss=config.loss, longest=config.longest,
            shortest=config.shortest, seed=config.seed,
        )  # fmt: skip
        rows = represent(
            model, dictionaries, contexts, config.by, positions=config.positions, dimension=config.dimension,
            seed=config.seed,
        )  # fmt: skip
        clusters = cluster(rows, min(config.clusters, len(contexts)), config.how, config.seed)
        truth = board_truth(contexts) if config.corpus is None else {}
        scores = {name: agreement(clusters.label, values) for name, values in truth.items()}
        spell = _speller(config)
        behaviours = [_described(contexts, clusters, c, spell) for c in range(len(clusters))]
        behaviours = [
            _with_circuit(config, model, dictionaries, contexts, clusters, behaviour, run)
            if behaviour.number < config.circuits
            else behaviour
            for behaviour in behaviours
        ]
        write_list(behaviours, scores, run / "index.html", _settings(config, contexts))
        write_json(
            run / "clusters.json",
            {
                "settings": _settings(config, contexts),
                "agreement": scores,
                "labels": clusters.label.tolist(),
                "rows": contexts.row.tolist(),
                "positions": contexts.examples.position.tolist(),
                "behaviours": [behaviour.to_json() for behaviour in behaviours],
            },
        )
    sizes = [behaviour.size for behaviour in behaviours]
    said = [f"{len(contexts)} contexts in {len(sizes)} clusters of {min(sizes)} to {max(sizes)}"]
    said += [f"adjusted mutual information with {name}: {score:.3f}" for name, score in scores.items()]
    return "\n".join([*said, f"Behaviours: {config.out / 'index.html'}"])


def board_truth(contexts: Contexts) -> dict[str, np.ndarray]:
    """Of every context of Othello the square that is played next, and the lines through which it flips discs."""
    examples, ply = contexts.examples, contexts.examples.position.numpy()
    moves = np.full((len(contexts), MAX_PLIES), NO_MOVE, np.uint8)
    moves[:, : examples.clean.shape[1]] = from_tokens(examples.clean.numpy())
    moves[np.arange(MAX_PLIES) > ply[:, None]] = NO_MOVE
    games, at = replay(moves), (np.arange(len(moves)), ply)
    answer = SQUARE_OF_TOKEN[examples.fields["answer"].numpy()]
    white = games.next_mover[at] == WHITE
    own = np.where(white, games.white[at], games.black[at])
    other = np.where(white, games.black[at], games.white[at])
    lines = flips_by_direction(own, other, np.uint64(1) << answer.astype(np.uint64)) != 0
    return {"move square": answer.astype(int), "flipping directions": lines.T @ (1 << np.arange(8))}


def _described(contexts: Contexts, clusters: Clusters, number: int, spell: Any) -> Behaviour:
    members = clusters.members(number)
    examples = contexts.examples
    answers = Counter(spell(int(examples.fields["answer"][i])) for i in members)
    shown = [
        ([spell(int(t)) for t in examples.clean[i, : int(examples.ends[i])]], spell(int(examples.fields["answer"][i])))
        for i in members[:5]
    ]
    return Behaviour(
        number, len(members), dict(answers.most_common(5)), float(contexts.loss[members].mean()),
        float(clusters.centrality[members].mean()), shown,
    )  # fmt: skip


def _with_circuit(
    config: DiscoverConfig,
    model: Any,
    dictionaries: Dictionaries,
    contexts: Contexts,
    clusters: Clusters,
    behaviour: Behaviour,
    run: Path,
) -> Behaviour:
    chosen = contexts.take(clusters.members(behaviour.number)[: config.examples]).examples
    to = end_points("mean", model, dictionaries, contexts.examples.batches(64))
    found = find_circuit(model, dictionaries, chosen, LogProbability(), config.circuit, to=to).circuit
    found = found.with_provenance(provenance(model, dictionaries, chosen, LogProbability(), config.circuit, to=to))
    folder = f"circuits/{behaviour.number}"
    save_circuit(found, run / folder)
    title = f"Behaviour {behaviour.number}: {', '.join(behaviour.answers)}"
    write_page(found.strongest(DRAWN_NODES, DRAWN_EDGES), run / folder / "circuit.html", title=title)
    top = sorted(found.nodes.items(), key=lambda item: -abs(item[1]))[:8]
    return behaviour.with_circuit(f"{folder}/circuit.html", {str(node): effect for node, effect in top})


def _settings(config: DiscoverConfig, contexts: Contexts) -> dict[str, Any]:
    return {
        "contexts": len(contexts), "clusters": config.clusters, "by": config.by, "positions": config.positions,
        "how": config.how, "loss at most": config.loss, "seed": config.seed,
    }  # fmt: skip


def _speller(config: DiscoverConfig) -> Any:
    if config.corpus is None:
        return lambda token: square_name(int(SQUARE_OF_TOKEN[token]))
    try:
        tokenizer = load_tokenizer(config.model_source)
    except ModelError:
        return str
    return lambda token: str(tokenizer.decode([token]))
