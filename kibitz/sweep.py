"""`kibitz sweep`: many dictionaries of one site of the shipped OthelloGPT, trained as one stack on the same batches."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from boardgames.lm import OTHELLO_GPT, load_othello_gpt
from boardgames.othello.transcript import PAD
from kibitz.chain.games import prepare_games
from kibitz.runs import check_replaceable, run_folder
from saes.buffer import ActivationBuffer
from saes.checkpoint import save_dictionary
from saes.dead_features import AuxK
from saes.evaluation import evaluate
from saes.families import find_site, site_width
from saes.files import write_json, write_text
from saes.recipes import Member, check_members, find_recipe, grid
from saes.recorder import JSONLines
from saes.sweep import StackConfig, plot_pareto, train_and_score
from saes.trainer import TrainConfig

COEFFICIENTS = (0.01, 0.02, 0.04)
SIZES = (16, 32, 64)  # of k, or of the target L0
HELD_OUT_GAMES = 600


@dataclass(frozen=True)
class SweepConfig:
    """Train every combination of coefficients, p_ends, ks, target L0s and seeds at once; one table, one Pareto plot."""

    site: str = "resid_1"
    """where the dictionaries are trained"""
    architecture: str = "relu"
    """relu, april, p_annealing, gated, gated_p_annealing, topk, batch_topk, matryoshka or jumprelu"""
    coefficients: tuple[float, ...] = ()
    """of the penalty; by default 0.01 0.02 0.04 where nothing else sets the sparsity"""
    p_ends: tuple[float, ...] = ()
    """what p is annealed to; 1 is plain L1"""
    ks: tuple[int, ...] = ()
    """features per row, for topk, batch_topk and matryoshka; by default 16 32 64"""
    target_l0s: tuple[float, ...] = ()
    """mean numbers of active features to end at, in place of coefficients or ks; jumprelu: by default 16 32 64"""
    seeds: tuple[int, ...] = (0,)
    """of the first weights"""
    steps: int = 3000
    batch_size: int = 1024
    expansion: int = 8
    """features per dimension of the site"""
    learning_rate: float = 3e-3
    games: Path | None = None
    """an .npz file with `moves`; by default random games"""
    seed: int = 0
    """of games and batches"""
    out: Path = Path("runs/sweep")
    """folder for the run; an earlier run there is replaced when this one is complete"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "expansion", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a value above 0")
        if self.steps < 20:
            raise ValueError(f"steps is {self.steps}: choose 20 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: choose 0 or more")
        if not self.seeds:
            raise ValueError("seeds is empty: give at least one")
        if self.architecture == "crosscoder":
            raise ValueError("crosscoder reads several sites: kibitz sweep trains at one")
        members = self.members()
        check_members(self.architecture, members)
        if len(set(members)) < len(members):
            raise ValueError("a setting is given twice: the sweep would train the same dictionary again")

    def members(self) -> list[Member]:
        """Every combination, with a default for what sets the sparsity."""
        coefficients, ks, targets = self.coefficients, self.ks, self.target_l0s
        if not (coefficients or ks or targets):
            by = find_recipe(self.architecture).sparse_by
            coefficients = COEFFICIENTS if by == "penalty" else ()
            ks = SIZES if by == "k" else ()
            targets = tuple(map(float, SIZES)) if by == "l0" else ()
        return grid(self.seeds, coefficients, self.p_ends, ks, targets)


def run_sweep(config: SweepConfig) -> str:
    """The table to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    model = load_othello_gpt()
    site = find_site(model, config.site)
    width = site_width(model, site)
    games = prepare_games(config.games, 20_000, 1, HELD_OUT_GAMES, np.random.default_rng(config.seed))
    tokens, held_out = games.tokens(games.training), games.tokens(games.held_out)
    stack = StackConfig(
        config.architecture,
        width,
        config.expansion * width,
        tuple(config.members()),
        TrainConfig(config.steps, config.learning_rate, warmup=0.05),
        auxk=AuxK(dead_after=config.batch_size * max(1, config.steps // 10)),
    )
    inputs = {"model": OTHELLO_GPT / "model.safetensors"} | ({"games": config.games} if config.games else {})
    with run_folder(config.out, config, config.seed, inputs) as run:
        sweep, dictionaries = train_and_score(
            stack,
            ActivationBuffer(model, [site], tokens, tokens != PAD, batch_size=config.batch_size, seed=config.seed),
            ActivationBuffer(model, [site], held_out, held_out != PAD, batch_size=1024, seed=config.seed),
            [site],
            recorder=JSONLines(run / "metrics.jsonl"),
        )
        with torch.no_grad():
            recovered = [evaluate(model, d, held_out, held_out != PAD).loss_recovered for d in dictionaries]
        sweep = sweep.with_numbers([{"loss_recovered": each} for each in recovered])
        folders = ["dictionaries/" + folder_name(row.member) for row in sweep.rows]
        for dictionary, folder in zip(dictionaries, folders, strict=True):
            save_dictionary(dictionary, run / folder)
        rows = [{"folder": folder, **row} for folder, row in zip(folders, sweep.to_json(), strict=True)]
        write_json(run / "sweep.json", {"site": site.name, "rows": rows})
        table = sweep.table()
        write_text(run / "table.txt", table + "\n")
        plot_pareto(sweep.groups(), run / "pareto.png", f"{config.architecture} at {site}, {config.steps} steps")
    return f"{table}\nDictionaries and plot: {config.out}"


def folder_name(member: Member) -> str:
    """A name that says what the member is: `coefficient-0.01_p_end-0.2_seed-0`."""
    settings = member.settings()
    return "_".join(f"{name}-{settings[name]:g}" for name in sorted(settings))
