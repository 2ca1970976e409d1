"""Circuits against what is known: Othello's rules, planted transformers, subject-verb agreement.

    python scripts/circuit_ground_truth.py
    python scripts/circuit_ground_truth.py --language-model SmolLM2.gguf --text DIR --pairs DIR

Writes docs/results/circuits.md. Each part is measured once and kept in the run's folder, with its settings; the
document is of the parts that are there. Agreement needs a language model, text for its dictionaries and the pairs of
Marks et al. 2024; without them it is left out.
"""

from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from circuit_truth import agreement_text, othello_text, planted
from circuit_truth.agreement import AgreementScale, measure_agreement
from circuit_truth.othello import OthelloScale, measure

from boardgames.dictionaries import load_dictionaries
from boardgames.lm import load_board_model
from saes.files import read_json, write_json, write_text

Part = Literal["othello", "planted", "agreement"]
SECTIONS = {"othello": othello_text.section, "planted": planted.section, "agreement": agreement_text.section}
HEAD = """# Circuits against what is known

Written by `python scripts/circuit_ground_truth.py`; all numbers are in circuits.json beside this file.
docs/circuits.md says how circuits are found and measured.
"""


@dataclass(frozen=True)
class Recipe:
    parts: tuple[Part, ...] = ("othello", "planted", "agreement")
    language_model: str | None = None
    """a folder, a GGUF file or a name on the hub, for subject-verb agreement"""
    text: Path | None = None
    """folder of texts that its dictionaries learn from (WikiText-2, TinyStories, GAP, BOLD)"""
    pairs: Path | None = None
    """folder of agreement pairs, NAME_train.json and NAME_test.json"""
    run: Path = Path("runs/circuit_truth")
    out: Path = Path("docs/results/circuits.md")
    images: Path = Path("docs/img")
    device: str = "cuda" if torch.cuda.is_available() else "cpu"
    seed: int = 0


def main(recipe: Recipe) -> None:
    found: dict[str, Any] = {}
    for part in recipe.parts:
        file = recipe.run / f"{part}.json"
        if not file.exists():
            measured = _measured(recipe, part)
            if measured is None:
                print(f"{part}: left out; give --language-model, --text and --pairs")
                continue
            write_json(file, {"seed": recipe.seed, **measured})
        found[part] = read_json(file)
    text = [HEAD, *("\n".join(SECTIONS[part](result)) for part, result in found.items())]
    write_text(recipe.out, "\n\n".join(part.strip() for part in text) + "\n")
    write_json(recipe.out.with_suffix(".json"), {part: _short(result) for part, result in found.items()})
    print(f"{recipe.out}: {', '.join(found)}")


def _measured(recipe: Recipe, part: Part) -> dict[str, Any] | None:
    if part == "othello":
        model = load_board_model("othello", None, recipe.device)
        model.requires_grad_(False)
        scale = OthelloScale()
        return {"scale": asdict(scale), "found": measure(model, load_dictionaries(model), scale, recipe.seed)}
    if part == "planted":
        return planted.measure(planted.PlantedConfig(seed=recipe.seed))
    if recipe.language_model is None or recipe.text is None or recipe.pairs is None:
        return None
    scale = AgreementScale()
    found = measure_agreement(
        scale, recipe.language_model, recipe.text, recipe.pairs, recipe.run / "agreement", recipe.images,
        recipe.device, recipe.seed,
    )  # fmt: skip
    return {"scale": asdict(scale), "found": found}


def _short(value: Any) -> Any:
    """Without the rows of single behaviours, which stay in the run's folder."""
    if isinstance(value, dict):
        return {k: _short(v) for k, v in value.items() if k != "rows"}
    return [_short(v) for v in value] if isinstance(value, list) else value


def run(recipe: Recipe) -> None:
    """What is wrong with the input is told in one sentence, with status 1."""
    try:
        main(recipe)
    except (ValueError, OSError) as error:
        raise SystemExit(f"circuit_ground_truth: {' '.join(str(error).split())}") from None


if __name__ == "__main__":
    run(tyro.cli(Recipe))
