"""`kibitz train`: one dictionary, a sweep, or many sites at once, in a run folder that survives a kill at any moment.

The same command again goes on from the last checkpoint, and ends with the weights that an undisturbed run has.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np

from boardgames.lm import OTHELLO_GPT, load_othello_gpt
from boardgames.othello.transcript import PAD
from kibitz.chain.games import prepare_games
from kibitz.lasting_runs import lasting_run
from kibitz.sweep import folder_name
from saes.buffer import ActivationBuffer, ActivationStream
from saes.checkpoint import save_dictionary
from saes.dead_features import AuxK
from saes.families import find_site, site_width
from saes.files import write_json, write_text
from saes.recipes import Member, check_members, grid, trainer_for
from saes.recorder import JSONLines
from saes.run_checkpoints import Checkpoints
from saes.shards import ActivationShards, ShardStream
from saes.sites import Site
from saes.sweep import Row, Sweep, score
from saes.trainer import TrainConfig
from saes.training import train_stacks

GAMES = 20_000  # random ones, where nothing else is given
SCORED = 16  # batches after those of training


@dataclass(frozen=True)
class RunConfig:
    """Train dictionaries at one site or several from one pass; the same command again goes on where it stopped."""

    sites: tuple[str, ...] = ("resid_1",)
    """where the dictionaries are trained, such as resid_1 mlp_1"""
    activations: Path | None = None
    """a folder of `kibitz harvest`; by default the shipped OthelloGPT is run on games"""
    games: Path | None = None
    """an .npz file with `moves`, for the shipped OthelloGPT; by default random games"""
    architecture: str = "p_annealing"
    """relu, april, p_annealing, gated, gated_p_annealing, topk, batch_topk, matryoshka or jumprelu"""
    coefficients: tuple[float, ...] = ()
    """of the penalty; several are trained as one sweep, as all other lists are"""
    p_ends: tuple[float, ...] = ()
    """what p is annealed to; 1 is plain L1"""
    ks: tuple[int, ...] = ()
    """features per row, for topk, batch_topk and matryoshka"""
    target_l0s: tuple[float, ...] = ()
    """mean numbers of active features to end at, in place of coefficients or ks"""
    seeds: tuple[int, ...] = (0,)
    """of the first weights"""
    steps: int = 5000
    batch_size: int = 1024
    expansion: int = 8
    """features per dimension of the site"""
    learning_rate: float = 1e-3
    seed: int = 0
    """of games and batches"""
    save_every: int = 500
    """steps between checkpoints"""
    keep: int = 2
    """checkpoints that are kept"""
    log_every: int = 50
    """steps between lines of metrics.jsonl"""
    device: str = "cpu"
    out: Path = Path("runs/train")
    """folder for the run; one that is there is gone on with"""

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "expansion", "learning_rate", "save_every", "keep", "log_every"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} is {getattr(self, name)}: choose a value above 0")
        if self.steps < 20:
            raise ValueError(f"steps is {self.steps}: choose 20 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: choose 0 or more")
        for name in ("sites", "seeds"):
            if not getattr(self, name):
                raise ValueError(f"{name} is empty: give at least one")
        if self.activations is not None and self.games is not None:
            raise ValueError("give activations or games, not both")
        if self.architecture == "crosscoder":
            raise ValueError("crosscoder reads several sites: kibitz train trains at one site each")
        members = self.members()
        check_members(self.architecture, members)
        if len(set(members)) < len(members):
            raise ValueError("a setting is given twice: the run would train the same dictionary again")

    def members(self) -> list[Member]:
        """Every combination."""
        return grid(self.seeds, self.coefficients, self.p_ends, self.ks, self.target_l0s)


def run_train(config: RunConfig) -> str:
    """The table to print."""
    ignored = ("keep", "log_every", "save_every", "out")
    with lasting_run(config.out, config, ignored, _inputs(config)) as run:
        widths, stream = _stream(config)
        members = config.members()
        trainers = {
            site.name: trainer_for(
                config.architecture,
                members,
                TrainConfig(config.steps, config.learning_rate, warmup=0.05),
                [site],
                width=width,
                features=config.expansion * width,
                auxk=AuxK(dead_after=config.batch_size * max(1, config.steps // 10)),
            )
            for site, width in widths.items()
        }
        stacks = train_stacks(
            trainers,
            stream,
            recorder=JSONLines(run / "metrics.jsonl"),
            checkpoints=Checkpoints(run / "checkpoints", config.keep),
            save_every=config.save_every,
            log_every=config.log_every,
        )
        later = list(islice(stream.batches(config.steps), SCORED))
        tables, rows = [], []
        for name, dictionaries in stacks.items():
            numbers = score(trainers[name], dictionaries, later)
            found = Sweep(tuple(Row(config.architecture, m, n) for m, n in zip(members, numbers, strict=True)))
            folders = [f"dictionaries/{name}/{folder_name(member)}" for member in members]
            for dictionary, folder in zip(dictionaries, folders, strict=True):
                save_dictionary(dictionary, run / folder)
            rows += [{"site": name, "folder": f, **row} for f, row in zip(folders, found.to_json(), strict=True)]
            tables.append(f"{name}\n{found.table()}")
        write_json(run / "results.json", {"rows": rows})
        table = "\n\n".join(tables)
        write_text(run / "table.txt", table + "\n")
    return f"{table}\nDictionaries: {config.out / 'dictionaries'}"


def _inputs(config: RunConfig) -> dict[str, Path]:
    """Files that the weights depend on; the index of activations holds the checksums of all of them."""
    if config.activations is not None:
        return {"activations": config.activations / "index.json"}
    games = {"games": config.games} if config.games is not None else {}
    return {"model": OTHELLO_GPT / "model.safetensors", **games}


def _stream(config: RunConfig) -> tuple[dict[Site, int], ActivationStream]:
    """Widths of the sites, and batches of their activations."""
    if config.activations is not None:
        shards = ActivationShards(config.activations)
        sites: Sequence[Site] = [shards.find(name) for name in config.sites]
        stream: ActivationStream = ShardStream(
            shards, sites, batch_size=config.batch_size, seed=config.seed, device=config.device
        )
        return {site: shards.width(site) for site in sites}, stream
    model = load_othello_gpt(OTHELLO_GPT).to(config.device)  # type: ignore[arg-type]  # .to without its signature
    sites = [find_site(model, name) for name in config.sites]
    games = prepare_games(config.games, GAMES, 0, 0, np.random.default_rng(config.seed))
    tokens = games.tokens(games.training)
    buffer = ActivationBuffer(model, sites, tokens, tokens != PAD, batch_size=config.batch_size, seed=config.seed)
    return {site: site_width(model, site) for site in sites}, buffer
