"""`kibitz sweep`: many dictionaries of one site of the shipped OthelloGPT, trained as one stack on the same batches."""

from dataclasses import dataclass
from pathlib import Path

import torch

from boardgames.lm import OTHELLO_GPT, load_othello_gpt
from boardgames.othello.streams import stream
from boardgames.othello.transcript import PAD
from kibitz.chain.games import prepare_games
from kibitz.runs import check_replaceable, run_folder
from kibitz.stacks import StackOptions, folder_name
from saes.buffer import ActivationBuffer
from saes.checkpoint import save_dictionary
from saes.evaluation import evaluate
from saes.families import find_site, site_width
from saes.files import write_json, write_text
from saes.recipes import Member, find_recipe, grid
from saes.recorder import JSONLines
from saes.sweep import StackConfig, plot_pareto, train_and_score

COEFFICIENTS = (0.01, 0.02, 0.04)
SIZES = (16, 32, 64)  # of k, or of the target L0
HELD_OUT_GAMES = 600


@dataclass(frozen=True)
class SweepConfig(StackOptions):
    """Train every combination of coefficients, p_ends, ks, target L0s and seeds at once; one table, one Pareto plot."""

    site: str = "resid_1"
    """where the dictionaries are trained"""
    architecture: str = "relu"
    """relu, april, p_annealing, gated, gated_p_annealing, topk, batch_topk, matryoshka or jumprelu; where nothing sets
    the sparsity, coefficients are 0.01 0.02 0.04, ks 16 32 64, and jumprelu's target L0s 16 32 64"""
    steps: int = 3000
    learning_rate: float = 3e-3
    games: Path | None = None
    """an .npz file with `moves`; by default random games"""
    seed: int = 0
    """of games and batches"""
    out: Path = Path("runs/sweep")
    """folder for the run; an earlier run there is replaced when this one is complete"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: choose 0 or more")

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
    games = prepare_games(config.games, 20_000, 1, HELD_OUT_GAMES, stream("sweep", config.seed))
    tokens, held_out = games.tokens(games.training), games.tokens(games.held_out)
    stack = StackConfig(
        config.architecture,
        width,
        config.expansion * width,
        tuple(config.members()),
        config.train_config(),
        auxk=config.auxk(),
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
