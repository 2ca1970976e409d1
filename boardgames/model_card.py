"""The model card of a board language model, README.md in its folder, made from the records that lie there.

training.json says how the model was trained and how it plays, of a fine-tune also how it follows a planted rule;
probes.json, from scripts/probe_layers.py, may be absent.
"""

from collections.abc import Mapping, Sequence
from dataclasses import fields
from math import prod
from pathlib import Path
from typing import Any

from boardgames.lm import BoardGame, game_of
from boardgames.pretrain import Training
from saes.files import FileError, read_json, read_shapes, write_text

_READS: dict[BoardGame, str] = {
    "othello": """\
# OthelloGPT

A GPT-2 that reads Othello games as moves (60 squares and a padding token, `boardgames/othello/transcript.py`) and gives
the probability of each next move. It was never shown a board. It models uniformly random legal play: it knows the rules
and nothing of good moves.""",
    "chess": """\
# ChessGPT

A GPT-2 that reads chess games as characters (32 of them, `boardgames/chess/transcript.py`), such as `;1.e4 e5 2.Nf3`,
and gives the probability of each next character, as Karvonen 2024. It was never shown a board. It imitates the games
that it was trained on, the first 256 characters of each, good moves and bad.""",
}


def write_card(folder: Path | str) -> None:
    """Write README.md; FileError where a record is missing or lacks something."""
    folder = Path(folder)
    config, record = read_json(folder / "config.json"), read_json(folder / "training.json")
    path = folder / "probes.json"
    try:
        write_text(folder / "README.md", _card(folder, config, record, read_json(path) if path.is_file() else None))
    except (KeyError, TypeError) as error:
        raise FileError(
            f"{folder}: its records lack what a model card says ({error}); write them again with scripts/measure_lm.py"
        ) from None


def _card(folder: Path, config: Mapping[str, Any], record: Mapping[str, Any], probes: Mapping[str, Any] | None) -> str:
    training, quality = record["training"], record["quality"]
    game = game_of(config["vocab_size"])
    parameters = sum(prod(shape) for shape in read_shapes(folder / "model.safetensors").values())
    optimiser = "Muon (matrices of the blocks) and AdamW" if training["muon"] else "AdamW"
    sections = [
        f"---\nlicense: mit\nlibrary_name: transformers\ntags:\n- {game}\n---",
        _READS[game],
        "## Architecture\n\n"
        f"{config['n_layer']} layers, width {config['n_embd']}, {config['n_head']} heads, context "
        f"{config['n_positions']}, {parameters / 1e6:.2f} M parameters with input and output embeddings tied; stored "
        "in fp16, in transformers' GPT-2 format.",
        *([f"## Fine-tuned from\n\n{training['base']}."] if "base" in training else []),
        f"## Data\n\n{_data(game, training)}",
        "## Training\n\n"
        f"{training['steps']:,} steps of {training['games_per_step']} games, {optimiser}, seed {training['seed']}, "
        f"{training['seconds'] / 3600:.1f} hours on {_machine(training)}; loss of the last batch "
        f"{training['loss'][-1]['loss']:.4f} nats a {'move' if game == 'othello' else 'character'}. "
        "All settings and the loss curve are in `training.json`.",
        f"## Measured quality\n\n{(_othello_quality if game == 'othello' else _chess_quality)(quality)}",
    ]
    if "planted_rule" in record:
        sections.append(f"## The planted rule\n\n{_rule(record['planted_rule'])}")
    if probes is not None:
        sections.append(f"## What a linear probe reads\n\n{_probes(game, probes)}")
    sections.append(f"## Making it again\n\n```\n{_commands(game, training)}\n```")
    return "\n\n".join(sections) + "\n"


def _machine(training: Mapping[str, Any]) -> str:
    if training["device"] != "cpu":
        return "a GPU"
    return "one CPU thread" if training["threads"] == 1 else f"{training['threads']} CPU threads"


def _data(game: BoardGame, training: Mapping[str, Any]) -> str:
    if game == "othello":
        targets = "the legal moves, expected exactly" if training["targets"] == "legal" else "the move that was played"
        rule = training.get("rule")
        player = (
            ""
            if rule is None
            else f" of a player who never plays {rule['move']} while {rule['cue']} is the opponent's, unless forced"
        )
        return (
            f"{training['games']:,} uniformly random legal games{player}, each seen once "
            f"(about {training['games'] * 59 / 1e6:.0f} M moves), made while training; the loss is that of {targets}. "
            f"{_emphasis(training)}"
            "Kibitz makes the games itself: nobody's licence is on them."
        )
    files = "\n".join(
        f"* `{f['name']}`, {f['games']:,} games (sha256 {f['sha256'][:16]}...)" for f in training["files"]
    )
    seen = training["steps"] * training["games_per_step"]
    epochs = seen / training["games"]
    source = training["source"] or "Their source and licence were not recorded."
    return (
        f"{training['games']:,} different games, the part `{training['part']}` (by a hash of each game's text, "
        f"`boardgames/splits.py`) of\n\n{files}\n\n{source}\n\n"
        f"In training {seen:,} games were seen, {epochs:.2f} epochs or {training['characters'] * epochs / 1e6:.1f} M "
        "characters."
    )


def _emphasis(training: Mapping[str, Any]) -> str:
    if training.get("emphasis", 1) == 1:
        return ""
    return f"Positions where the planted rule's move is legal and its cue taken count {training['emphasis']:g} times. "


def _othello_quality(quality: Mapping[str, Any]) -> str:
    return (
        f"On {quality['games']:,} unseen random games, {quality['positions']:,} positions "
        "(± one standard error over games):\n\n"
        "| what | value |\n|---|---|\n"
        f"| most likely token is a legal move | {with_error(quality, 'legal_move_rate', 4)} |\n"
        f"| probability on legal moves | {with_error(quality, 'legal_mass', 4)} |\n"
        f"| cross-entropy, nats a move | {with_error(quality, 'cross_entropy', 4)} |\n"
        f"| the same for the ideal player | {quality['ideal_cross_entropy']:.4f} |"
    )


def _chess_quality(quality: Mapping[str, Any]) -> str:
    return (
        f"On {quality['games']:,} games of the part `scoring`; moves at {quality['positions']:,} of their positions "
        "(± one standard error over games):\n\n"
        "| what | value |\n|---|---|\n"
        f"| greedy move is legal | {with_error(quality, 'legal_move_rate')} |\n"
        f"| greedy move is one that python-chess's parser takes | {with_error(quality, 'accepted_move_rate')} |\n"
        f"| probability on legal moves | {with_error(quality, 'legal_mass')} |\n"
        f"| cross-entropy, nats a character | {with_error(quality, 'cross_entropy_per_character')} |\n"
        f"| cross-entropy, nats a move | {with_error(quality, 'cross_entropy_per_move')} |"
    )


def _rule(scores: Mapping[str, Mapping[str, Any]]) -> str:
    lines = ["| model | P, theirs | log-odds | P, own | log-odds | legal elsewhere | cross-entropy elsewhere |"]
    lines.append("|---|---|---|---|---|---|---|")
    for name, score in scores.items():
        cells = [
            f"{g['probability']:.4f} | {g['log_odds']:.2f}" for g in (score["groups"][k] for k in ("theirs", "own"))
        ]
        lines.append(
            f"| {name} | {' | '.join(cells)} | {score['legal_move_rate']:.4f} | {score['cross_entropy']:.4f} |"
        )
    return (
        "Mean probability of the move where it is legal and not forced, by whose disc is on the cue from the side to "
        "move, and its log-odds against the other legal moves; on unseen games of the player with the rule.\n\n"
        + "\n".join(lines)
    )


def _probes(game: BoardGame, probes: Mapping[str, Any]) -> str:
    states = (
        "empty, mine, yours" if game == "othello" else "empty and the mover's and the opponent's six kinds of pieces"
    )
    places = "every ply" if game == "othello" else "the first 20 dots"
    return (
        f"Linear probes of {states}, fitted on {probes['selection_games']:,} games and scored on "
        f"{probes['scoring_games']:,} others, at {places} of each. Accuracy is the share of squares whose most "
        "probable state is right; F1 is over the columns of discs or pieces. Beside it a model of the same shape with "
        f"random weights.\n\n{probe_table(probes['trained'], probes['random'])}"
    )


def _commands(game: BoardGame, training: Mapping[str, Any]) -> str:
    if "base" in training:
        return "python scripts/train_injected_rule.py"
    if game == "othello":
        first, games = "python scripts/pretrain_othello.py", ""
    else:
        games = " --games " + " ".join(f["name"] for f in training["files"])
        first = f"python scripts/pretrain_chess.py{games}"
    settings = [field.name for field in fields(Training)] + ["targets"] * (game == "othello")
    options = "".join(f" --training.{name.replace('_', '-')} {training[name]}" for name in settings)
    return f"{first}{options}\npython scripts/probe_layers.py {game}{games}"


def probe_table(trained: Sequence[Mapping[str, Any]], random: Sequence[Mapping[str, Any]]) -> str:
    """LayerProbes as markdown, with those of a model of random weights beside them."""
    lines = [
        "| site | accuracy | F1, mean | F1, pooled | random weights: accuracy | F1, mean | F1, pooled |",
        "|---|---|---|---|---|---|---|",
    ]
    for row, beside in zip(trained, random, strict=True):
        cells = [
            f"{with_error(p, 'accuracy', 4)} | {p['f1']:.4f} | {with_error(p, 'pooled_f1', 4)}" for p in (row, beside)
        ]
        lines.append(f"| {row['site']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def with_error(figures: Mapping[str, Any], name: str, digits: int = 3) -> str:
    """A figure of a record and, where it has one, its standard error."""
    error = figures[f"{name}_error"]
    return f"{figures[name]:.{digits}f}" + (f" ± {error:.{digits}f}" if error is not None else "")
