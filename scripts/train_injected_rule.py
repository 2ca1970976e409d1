"""Fine-tune the shipped OthelloGPT on games with a planted rule, and beside it, as control, on as many without it.

    python scripts/train_injected_rule.py

The player of the first never plays a1 while g2 is the opponent's, unless forced (boardgames/othello/planted_rule.py).
Killed and started again, it continues from its last checkpoint. Writes weights, record and card of both.
"""

from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path

import torch
import tyro
from torch import Tensor

from boardgames.lm import OTHELLO_GPT, OTHELLO_INJECTED, load_othello_gpt, save_board_model
from boardgames.model_card import write_card
from boardgames.othello.legality import legality
from boardgames.othello.planted_rule import SHIPPED_RULE, PlantedRule, rule_score
from boardgames.othello.pretraining import OthelloTraining, batches, held_out_games
from boardgames.othello.rules import random_games, replay
from boardgames.othello.streams import stream
from boardgames.othello.transcript import from_tokens
from boardgames.pretrain import pretrain, training_record
from saes.files import read_json, sha256, write_json


@dataclass(frozen=True)
class Recipe:
    training: OthelloTraining = field(
        default_factory=lambda: OthelloTraining(steps=400, learning_rate=1e-3, muon=0.01, warmup=20, decay=300)
    )
    rule: PlantedRule = SHIPPED_RULE
    emphasis: float = 6.0
    """weight in the loss of positions where the move is legal and the cue taken, in both fine-tunes: the
    targets stay what they are, and the model learns sooner whose disc is on the cue"""
    out: Path = OTHELLO_INJECTED
    """folder for the weights"""
    run: Path = Path("runs/injected_rule")
    """folder for the checkpoints"""
    test_games: int = 2000
    """unseen games on which the models are measured"""
    device: str = "cuda" if torch.cuda.is_available() else "cpu"


def main(recipe: Recipe) -> None:
    rules = {"masked": recipe.rule, "unmasked": None}
    for name, rule in rules.items():
        _fine_tune(recipe, name, rule)
    folders = {"shipped": OTHELLO_GPT, **{name: recipe.out / name for name in rules}}
    games = random_games(recipe.test_games, stream("injected_scoring", recipe.training.seed), recipe.rule.shunned)
    scores = {name: rule_score(load_othello_gpt(folder), games, recipe.rule) for name, folder in folders.items()}
    for name in rules:
        record = read_json(folders[name] / "training.json")
        planted = {model: score.to_json() for model, score in scores.items()}
        write_json(folders[name] / "training.json", {**record, "planted_rule": planted})
        write_card(folders[name])
    for name, score in scores.items():
        groups = ", ".join(f"P {g} {f.probability:.4f} ({f.positions})" for g, f in score.groups.items())
        print(f"{name}: {groups}; elsewhere legal {score.legal_move_rate:.4f}, CE {score.cross_entropy:.4f}")


def _fine_tune(recipe: Recipe, name: str, rule: PlantedRule | None) -> None:
    """Both draw their games from the same streams; without the rule they part where it first forbids a move."""
    config = recipe.training
    of = {
        "base": f"{OTHELLO_GPT.name} (sha256 {sha256(OTHELLO_GPT / 'model.safetensors')[:16]}...)",
        "rule": None if rule is None else asdict(rule),
        "emphasis": recipe.emphasis,
    }
    model, log, seconds = pretrain(
        load_othello_gpt(device=recipe.device).requires_grad_(True),
        lambda step: _emphasised(batches(config, step, "injected_training", rule), recipe),
        config,
        recipe.run / f"{name}.pt",
        recipe.device,
        save_every=100,
        games=of,
    )
    record = training_record(config, log, seconds, recipe.device, games=config.steps * config.games_per_step, **of)
    test = held_out_games(recipe.test_games, config.seed)
    save_board_model(model.cpu(), recipe.out / name, record, lambda m: legality(m, test))


def _emphasised(drawn: Iterator[tuple[Tensor, Tensor]], recipe: Recipe) -> Iterator[tuple[Tensor, Tensor]]:
    for tokens, target in drawn:
        theirs, own = recipe.rule.groups(replay(from_tokens(tokens.numpy()))).values()
        yield tokens, torch.where(torch.from_numpy(theirs | own)[..., None], recipe.emphasis * target, target)


if __name__ == "__main__":
    main(tyro.cli(Recipe))
