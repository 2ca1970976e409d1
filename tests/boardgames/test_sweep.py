"""scripts/replicate_boardgames.py in small: it trains, scores and writes, goes on, and mixes no two runs."""

import json
import runpy
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from saes.files import FileError

ROOT = Path(__file__).resolve().parents[2]
TYPES = ("standard", "p_anneal_original", "p_anneal")


@pytest.fixture(scope="module")
def sweep():
    """(the script's module, the recipe) after one run."""
    patch = pytest.MonkeyPatch()
    patch.syspath_prepend(str(ROOT / "scripts"))
    import replicate_boardgames

    yield replicate_boardgames, patch
    patch.undo()


@pytest.fixture(scope="module")
def finished(sweep, tmp_path_factory):
    script, patch = sweep
    from boardgame_sweep.plan import Scale

    small = Scale((20,), 40, 256, seeds=(0, 1), rates=(1e-3, 3e-3), pilot_steps=20)
    patch.setattr(script, "SCALES", {("small", "othello"): small})
    out = tmp_path_factory.mktemp("sweep")
    recipe = script.Recipe(
        games=("othello",), split=25, types=TYPES, run=out / "run", out=out / "result.md", images=out, device="cpu"
    )
    script.main(recipe)
    return script, recipe


def test_every_dictionary_is_named_and_scored(finished):
    _, recipe = finished
    found = json.loads(recipe.out.with_suffix(".json").read_text())["othello"]
    assert len(found["trained"]) == len(TYPES) * 2 == len({r["folder"] for r in found["trained"]})
    names = {"linear probe", "principal components", "random dictionary", "neurons of block 3"}
    assert names < found["scores"].keys() and "random model/linear probe" in found["scores"]
    for record in found["trained"]:
        scores = found["scores"][record["folder"]]
        assert record["learning_rate"] in (1e-3, 3e-3) and record["tokens"] == 40 * 256
        assert 0 <= scores["low_level"]["coverage"]["low"] <= scores["low_level"]["coverage"]["score"]
        assert scores["paper"]["low_level"]["denominator"] == 192
        assert "samples" not in scores["low_level"]


def test_the_document_tells_seeds_apart_and_compares_pairs(finished):
    _, recipe = finished
    text = recipe.out.read_text()
    rows = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ") and ", seed " in line]
    dictionaries = [row for row in rows if ", L0 " in row]
    assert len(dictionaries) == len(set(dictionaries)) == 6 and "p-anneal, ours, 8 D, L0 20, seed 1" in dictionaries
    assert sum(row.startswith("p-annealing (ours) against L1") for row in rows) == 2
    assert "The probe reaches" in text and (recipe.images / "boardgames_othello_coverage.png").stat().st_size > 1000


def test_a_second_run_trains_nothing_and_writes_the_same(finished, monkeypatch):
    script, recipe = finished
    before = recipe.out.read_text()
    from boardgame_sweep import measuring, training

    for module, name in ((training, "train_stacks"), (measuring, "evaluate_all")):
        monkeypatch.setattr(module, name, lambda *_, **__: pytest.fail("this was done already"))
    script.main(recipe)
    assert recipe.out.read_text() == before


@pytest.mark.parametrize(
    ("changed", "named"),
    [({"split": 30}, "scoring, selection"), ({"types": TYPES[:2]}, "types")],
    ids=["split", "types"],
)
def test_another_run_at_the_same_place_is_refused(finished, changed, named):
    script, recipe = finished
    with pytest.raises(FileError, match=f"was begun with another {named}"):
        script.main(replace(recipe, **changed))


def test_chess_needs_files(sweep):
    script, _ = sweep
    with pytest.raises(ValueError, match="--chess-games FILE"):
        script.main(script.Recipe(games=("chess",)))


@pytest.mark.parametrize(
    ("changed", "sentence"),
    [
        ({"types": ("standard", "unicorn")}, "there is no 'unicorn'; there are standard"),
        ({"othello_model": Path("nowhere")}, "nowhere"),
        ({"othello_site": "resid_99"}, "site 'resid_99'"),
        ({"split": 30}, "was begun with another scoring, selection"),
    ],
)
def test_wrong_input_ends_in_one_sentence(finished, changed, sentence):
    script, recipe = finished
    with pytest.raises(SystemExit) as leaving:
        script.run(replace(recipe, **changed))
    said = str(leaving.value.code)
    assert said.startswith("replicate_boardgames: ") and sentence in said and "\n" not in said


def test_the_command_itself_is_guarded(sweep, tmp_path, monkeypatch):
    script = str(ROOT / "scripts" / "replicate_boardgames.py")
    monkeypatch.setattr(sys, "argv", [script, "--games", "chess", "--run", str(tmp_path / "run")])
    with pytest.raises(SystemExit, match=r"replicate_boardgames: --chess-games FILE... names the games of chess"):
        runpy.run_path(script, run_name="__main__")
    assert not any(tmp_path.iterdir())
