"""How the dictionaries of one game are scored: held out and as the paper does, beside all that needs no dictionary.

Each set of features has a file of its own, so that a killed run goes on where it was.
"""

import hashlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgame_sweep.data import GameParts
from boardgames.baselines import principal_components, random_dictionary, signed_neurons
from boardgames.bootstrap import Interval
from boardgames.game_scoreboard import GameScoreboard
from boardgames.labelled import LOW_LEVEL, groups_of
from boardgames.lm import random_weights
from boardgames.scoring import GroupScore, Summary, strategy_mean
from kibitz.board import enough
from kibitz.board_games import BoardGames, Splits, label_splits
from saes.checkpoint import load_dictionary
from saes.digests import weights_digest
from saes.evaluation import evaluate_all
from saes.families import find_site
from saes.files import read_json, write_json
from saes.sites import Site

KINDS = ("coverage", "reconstruction")
SCORES = "2"  # of the code that scores: another number where a score of the same features would be another


@dataclass(frozen=True)
class Arena:
    """One game's model and games, and the run that its dictionaries are in."""

    model: PreTrainedModel
    site: Site
    parts: GameParts
    run: Path

    def identity(self) -> dict[str, str]:
        """What scores depend on besides the dictionaries."""
        known = self.parts.parts
        digests = {
            part: hashlib.sha256(repr(list(map(bytes_of, games))).encode()).hexdigest() for part, games in known.items()
        }
        return {"scoring code": SCORES, "model": weights_digest(self.model), "site": self.site.name, **digests}

    @cached_property
    def splits(self) -> Splits:
        known = self.parts.parts
        before = tuple(known[part] for part in ("language_model", "dictionary") if part in known)
        return Splits(known["selection"], known["scoring"], before, self.parts.source)

    @cached_property
    def games(self) -> BoardGames:
        return label_splits(self.splits, self.parts.game, groups_of(self.parts.game))

    @cached_property
    def blocks(self) -> list[Site]:
        """The MLP neurons of every block."""
        return [find_site(self.model, f"mlp_hidden_{i}") for i in range(self.model.config.n_layer)]

    @cached_property
    def board(self) -> GameScoreboard:
        return GameScoreboard(self.model, [self.site, *self.blocks], self.games.selection, self.games.scoring)

    @cached_property
    def paper_board(self) -> GameScoreboard:
        """With the original's labels on all positions, as it scores them."""
        games = label_splits(self.splits, self.parts.game, groups_of(self.parts.game, "paper"), fresh=False)
        return GameScoreboard(self.model, [self.site, *self.blocks], games.selection, games.scoring, resampled=0)

    def measure(self, trained: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
        """What is known of every dictionary and of what stands beside them, by name."""
        folders = [record["folder"] for record in trained]
        self._faithfulness([f for f in folders if not self._file(f).exists()])
        jobs: dict[str, Callable[[], dict[str, Any]]] = {f: lambda f=f: self._dictionary(f) for f in folders}
        jobs |= self._beside(trained)
        for name, job in tqdm(jobs.items(), desc=f"score {self.parts.game}", unit="set"):
            if not self._file(name).exists():
                write_json(self._file(name), job())
        return {name: read_json(self._file(name)) for name in jobs}

    def _file(self, name: str) -> Path:
        return self.run / "scores" / f"{name}.json"

    def _faithfulness(self, folders: list[str]) -> None:
        """L0, variance explained and loss recovered on 100,000 tokens or more, of some dictionaries in one go."""
        folders = [f for f in folders if not self._faithful_file(f).exists()]
        if not folders:
            return
        batches = enough([self.games.selection, self.games.scoring], 64)
        dictionaries = [load_dictionary(self.run / "dictionaries" / f, device=self.model.device) for f in folders]
        with tqdm(total=2 * sum(int(b.keep.sum()) for b in batches), desc="loss", unit="token", unit_scale=True) as bar:
            found = evaluate_all(self.model, dictionaries, batches, progress=bar.update)
        for folder, evaluation in zip(folders, found, strict=True):
            q = evaluation.quality
            keys = ("tokens", "l0", "variance_explained", "loss_recovered", "loss_recovered_mean", "kl", "alive")
            write_json(self._faithful_file(folder), {key: getattr(q, key) for key in keys})

    def _faithful_file(self, folder: str) -> Path:
        return self.run / "faithfulness" / f"{folder}.json"

    def _dictionary(self, folder: str) -> dict[str, Any]:
        dictionary = load_dictionary(self.run / "dictionaries" / folder, device=self.model.device)
        held_out = self._held_out(self.board.score(dictionary))
        faithful = read_json(self._faithful_file(folder))
        return {"faithfulness": faithful, **held_out, "paper": self._paper(self.paper_board.paper(dictionary))}

    def _beside(self, trained: list[dict[str, Any]]) -> dict[str, Callable[[], dict[str, Any]]]:
        features = max(record["expansion"] for record in trained) * self.model.config.n_embd
        targets = sorted(record["target_l0"] for record in trained)
        l0 = targets[len(targets) // 2]
        return {**self._without_dictionary("", self, features, l0), **self._untrained(features, l0)}

    def _without_dictionary(
        self, prefix: str, arena: "Arena", features: int, l0: float
    ) -> dict[str, Callable[[], dict[str, Any]]]:
        """Baselines and the probe of a model; neurons of every block. `prefix` tells a model from the trained one."""
        site = arena.site

        def x(at: Site) -> Any:
            return arena.board.selection.activations[at]

        def neurons(at: Site) -> dict[str, Any]:
            basis = signed_neurons(at, x(at), features)
            return self._held_out(arena.board.score(basis)) | {"paper": self._paper(arena.paper_board.paper(basis))}

        jobs: dict[str, Callable[[], dict[str, Any]]] = {
            f"{prefix}random dictionary": lambda: self._held_out(
                arena.board.score(random_dictionary(site, x(site), features, l0))
            ),
            f"{prefix}principal components": lambda: self._held_out(
                arena.board.score(principal_components(site, x(site), features))
            ),
            f"{prefix}linear probe": lambda: self._held_out(arena.board.probe(site)),
        }
        return jobs | {f"{prefix}neurons of block {i}": lambda at=at: neurons(at) for i, at in enumerate(arena.blocks)}

    def _untrained(self, features: int, l0: float) -> dict[str, Callable[[], dict[str, Any]]]:
        """The same for a model of the same shape that was never trained."""
        arena = Arena(random_weights(self.model), self.site, self.parts, self.run)
        arena.__dict__["games"] = self.games  # the same labels
        return self._without_dictionary("random model/", arena, features, l0)

    def _held_out(self, scores: Mapping[str, GroupScore]) -> dict[str, Any]:
        found: dict[str, Any] = {"groups": {name: score.to_json() for name, score in scores.items()}}
        summaries = {"low_level": Summary.of(scores[LOW_LEVEL[self.parts.game]])}
        if self.parts.game == "chess":
            from boardgames.chess.properties import STRATEGY

            summaries["strategy"] = strategy_mean(scores, STRATEGY)
        for level, summary in summaries.items():
            samples = {kind: getattr(summary, kind).samples.astype(np.float32).tolist() for kind in KINDS}
            found[level] = {**summary.to_json(), "samples": samples}
        return found

    def _paper(self, found: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
        """The original's averages: low level, and the plain mean of the 14 strategy functions."""
        low = LOW_LEVEL[self.parts.game]
        averages = {"low_level": dict(found[low])}
        if self.parts.game == "chess":
            from boardgames.chess.properties import STRATEGY

            averages["strategy"] = {kind: float(np.mean([found[name][kind] for name in STRATEGY])) for kind in KINDS}
        return averages

    def facts(self) -> dict[str, Any]:
        """What the document says of model and games."""
        return {
            "game": self.parts.game,
            "site": self.site.name,
            "games": self.games.said,
            "layers": self.model.config.n_layer,
            "width": self.model.config.n_embd,
            "limit": self._limit(),
        }

    def _limit(self) -> float:
        return float(
            self.board.referee.scoring.positives[:, self.board.referee.scoring.columns(self._low)].any(0).mean()
        )

    @property
    def _low(self) -> str:
        return LOW_LEVEL[self.parts.game]


def bytes_of(game: Any) -> bytes:
    """A game as bytes: a transcript, or the moves of Othello."""
    return game.encode() if isinstance(game, str) else game.tobytes()


def paired(one: Mapping[str, Any], other: Mapping[str, Any], level: str, kind: str) -> Interval:
    """The difference of two sets of features on the same resamples of games."""
    parts = (Interval(s[level][kind]["score"], np.array(s[level]["samples"][kind])) for s in (one, other))
    first, second = parts
    return first - second
