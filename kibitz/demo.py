"""`kibitz demo`: the whole chain on the shipped OthelloGPT, from games to SHIFT, with one report at the end."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from boardgames.dictionaries import OTHELLO_DICTIONARIES, load_dictionaries
from boardgames.lm import OTHELLO_GPT, load_othello_gpt
from boardgames.othello.legality import legality
from boardgames.othello.pretraining import held_out_games
from boardgames.othello.streams import stream
from circuits.discover import CircuitConfig
from kibitz.chain.board import best_features, neurons_beside, score_boards
from kibitz.chain.circuit import explain
from kibitz.chain.dictionary import DictionarySettings, train_dictionary
from kibitz.chain.games import prepare_games
from kibitz.chain.shift import ShiftSettings, repair
from kibitz.report import write_report
from kibitz.runs import check_replaceable, run_folder, versions
from saes.families import find_site
from saes.family_checks import check_family
from saes.files import read_json, write_json
from shift.specs import BoardTaskSpec


@dataclass(frozen=True)
class DemoConfig:
    """Play Othello, train a dictionary, score it on true boards, find a circuit, repair a classifier."""

    out: Path = Path("runs/demo")
    """folder for the run; an earlier run there is replaced when this one is complete"""
    games: Path | None = None
    """an .npz file with `moves` (uint8 squares [games, 60], 255 = none) to use in place of random games"""
    seed: int = 0
    """seed of everything random"""
    quick: bool = False
    """a small version in under 90 seconds; its numbers are rough"""
    site: str = "resid_1"
    """where the dictionary is trained"""

    def __post_init__(self) -> None:
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: choose 0 or more")


@dataclass(frozen=True)
class Sizes:
    """How much of everything a run does, and what share of its time each of the seven steps took when measured."""

    games: int
    split: int
    held_out: int
    legality_games: int
    steps: int
    pairs: int
    circuit: CircuitConfig
    candidates: int
    shift_examples: int
    shift_train: int
    cell: int
    ig_steps: int
    shares: tuple[float, ...]


FULL = Sizes(
    games=20_000,
    split=1000,
    held_out=1800,
    legality_games=2000,
    steps=3000,
    pairs=48,
    circuit=CircuitConfig(nodes=1500, edges=8000, steps=20),
    candidates=150,
    shift_examples=100,
    shift_train=4000,
    cell=1000,
    ig_steps=10,
    shares=(1, 10, 100, 40, 60, 60, 1),
)
QUICK = Sizes(
    games=20_000,
    split=300,
    held_out=300,
    legality_games=300,
    steps=200,
    pairs=12,
    circuit=CircuitConfig(nodes=1000, edges=5000, steps=10),
    candidates=60,
    shift_examples=40,
    shift_train=1600,
    cell=300,
    ig_steps=3,
    shares=(1, 2, 15, 8, 10, 15, 1),
)


class _Clock:
    """Announces steps with an estimate of the time left, scaled from the steps done so far."""

    def __init__(self, shares: tuple[float, ...]) -> None:
        self.shares, self.started, self.timings = shares, time.perf_counter(), []

    @contextmanager
    def step(self, name: str) -> Iterator[None]:
        done = len(self.timings)
        begun = time.perf_counter()
        spent, expected = begun - self.started, sum(self.shares[:done])
        left = sum(self.shares[done:]) * (spent / expected if expected > 2 else 1.0)
        print(f"[{done + 1}/{len(self.shares)}] {name} (about {_duration(left)} left)", flush=True)
        yield
        self.timings.append({"name": name, "seconds": time.perf_counter() - begun})

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self.started


def _duration(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 90 else f"{seconds / 60:.0f} min"


def run_demo(config: DemoConfig) -> Path:
    """Run the chain; returns the report's path. The folder appears, or is replaced, only when all is done."""
    sizes = QUICK if config.quick else FULL
    check_replaceable(config.out)
    model = load_othello_gpt()
    check_family(model)
    site = find_site(model, config.site)
    dictionaries = load_dictionaries(model)
    inputs = {"model": OTHELLO_GPT / "model.safetensors", "dictionaries": OTHELLO_DICTIONARIES / "record.json"}
    rng = stream("demo", config.seed)
    torch.manual_seed(config.seed)
    clock = _Clock(sizes.shares)
    with clock.step("Games"):
        games = prepare_games(config.games, sizes.games, sizes.split, sizes.held_out, rng)
    if config.games is not None:
        inputs["games"] = config.games
    with run_folder(config.out, config, config.seed, inputs) as run:
        with clock.step("Language model"):
            # the games that the recipe keeps out of training, whatever the seed of the demo
            language_model = legality(model, held_out_games(sizes.legality_games))
        with clock.step(f"Dictionary at {site}"):
            trained = train_dictionary(
                model,
                site,
                games.tokens(games.training),
                games.tokens(games.held_out),
                DictionarySettings(sizes.steps),
                run,
                config.seed,
            )
        with clock.step("Board metrics"):
            boards = score_boards(model, trained.dictionary, games.selection, games.scoring)
            cards = best_features(model, trained.dictionary, boards, games.scoring)
        with clock.step("Circuit"):
            explained = explain(model, dictionaries, games.selection, sizes.circuit, sizes.pairs, run, rng)
        with clock.step("SHIFT"):
            task = BoardTaskSpec(
                "mine b2",
                "mine c7",
                ("occupied b2", "occupied c7"),
                site="resid_2",
                train=sizes.shift_train,
                cell=sizes.cell,
                seed=config.seed,
            )
            settings = ShiftSettings(task, sizes.candidates, sizes.shift_examples, sizes.ig_steps)
            repaired = repair(model, dictionaries, games.selection, settings, run)
        with clock.step("Report"):
            summary = {
                "seconds": clock.seconds,
                "games": games.count,
                "legal_move_rate": language_model.legal_move_rate,
                "sae": trained.summary(),
                "board": boards.summary(),
                "circuit": explained.summary(),
                "shift": repaired.summary(),
            }
            write_json(run / "summary.json", summary)
            neurons = neurons_beside(model, site.name).site.name
            write_report(
                {
                    "title": "Kibitz demo",
                    "created": read_json(run / "manifest.json")["created"],
                    "seed": config.seed,
                    "quick": config.quick,
                    "seconds": clock.seconds,
                    "versions": versions(),
                    "timings": clock.timings,
                    "games": games.report(),
                    "language_model": {k: v for k, v in asdict(language_model).items() if k != "positions"},
                    "training": trained.report(),
                    "board": boards.report(trained.dictionary, neurons, trained.quality.l0),
                    "features": cards,
                    "circuit": explained.report(),
                    "shift": repaired.report(),
                },
                run / "report.html",
            )
    return config.out / "report.html"
