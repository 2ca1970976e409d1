"""Sweeps: settings go to the members they belong to, a stack equals its members alone, tables and plots are whole."""

from dataclasses import replace

import pytest
import torch

from saes.files import read_json, write_json
from saes.p_annealing import PAnneal
from saes.penalties import L0, Lp
from saes.recipes import RECIPES, Member, RecipeError, grid, trainer_for
from saes.sweep import Row, StackConfig, Sweep, plot_pareto, train_and_score
from saes.synthetic import Planted, PlantedConfig
from saes.target_l0 import TargetL0
from saes.trainer import TrainConfig

DATA = PlantedConfig(atoms=12, widths=(8,), l0=1.5)
TRAIN = TrainConfig(steps=30, learning_rate=5e-3)


def run(recipe: str, members: list[Member], **changed):
    planted = Planted(DATA, 32)
    config = StackConfig(recipe, 8, 32, tuple(members), TRAIN, held_out_batches=3)
    held_out = Planted(replace(DATA, seed=1), 64)
    return train_and_score(replace(config, **changed), planted, held_out, planted.sites, progress=False)


def test_grid_is_every_combination():
    members = grid((0, 1), coefficients=(0.1, 0.2), p_ends=(0.5,))
    assert members == [Member(s, c, 0.5) for s in (0, 1) for c in (0.1, 0.2)]
    assert grid() == [Member()]
    assert str(members[1]) == "seed 0, coefficient 0.2, p_end 0.5"


def test_rows_are_what_each_member_is_when_trained_alone():
    members = grid((0, 1), coefficients=(0.05, 0.5), p_ends=(1.0, 0.3))
    together, dictionaries = run("relu", members)
    assert [row.member for row in together.rows] == members and len(dictionaries) == 8
    for n in (0, 3, 7):
        alone, (single,) = run("relu", [members[n]])
        torch.testing.assert_close(single.W_dec, dictionaries[n].W_dec, rtol=1e-3, atol=1e-4)
        for name, value in alone.rows[0].numbers.items():
            assert together.rows[n].numbers[name] == pytest.approx(value, rel=1e-2, abs=1e-3), name


def test_numbers_are_those_of_the_definitions():
    sweep, (dictionary,) = run("topk", [Member(k=2)])
    (site,) = Planted(DATA).sites
    stream = Planted(replace(DATA, seed=1), 64).batches()
    x = torch.cat([next(stream)[site] for _ in range(3)])
    f = dictionary.encode(x)
    numbers = sweep.rows[0].numbers
    left, whole = (x - dictionary.decode(f)).square().sum(), (x - x.mean(0)).square().sum()
    assert numbers["l0"] == pytest.approx(float((f != 0).sum(1).float().mean()))
    assert numbers["variance_explained"] == pytest.approx(float(1 - left / whole), rel=1e-4)
    assert numbers["alive"] == pytest.approx(float((f != 0).any(0).float().mean()))
    assert set(numbers) == {"l0", "variance_explained", "alive", "loss"}


@pytest.mark.parametrize("name", RECIPES)
def test_a_target_l0_reaches_every_recipe(name):
    planted = Planted(replace(DATA, widths=(8, 4)) if name == "crosscoder" else DATA, 32)
    options = {"widths": (8, 4)} if name == "crosscoder" else {}
    members = [Member(0, target_l0=2.0), Member(0, target_l0=3.0)]
    width = sum(planted.config.widths)
    trainer = trainer_for(name, members, TRAIN, planted.sites, width=width, features=32, **options)
    penalty = trainer.objective.penalty
    if RECIPES[name].sparse_by == "k":
        assert penalty is None and [c.k for c in trainer.stack.member_configs] == [2, 3]
    elif RECIPES[name].sparse_by == "l0":
        assert isinstance(penalty, L0) and [c.target for c in penalty.configs] == [2.0, 3.0]
    else:
        assert isinstance(penalty, TargetL0) and penalty.config.targets == (2.0, 3.0)
        assert isinstance(penalty.penalty, PAnneal if "p_annealing" in name else Lp)


def test_p_ends_and_coefficients_reach_their_members():
    (site,) = Planted(DATA).sites
    members = grid(coefficients=(0.1, 0.2), p_ends=(0.5, 1.0))
    penalty = trainer_for("gated", members, TRAIN, [site], width=8, features=16).objective.penalty
    assert isinstance(penalty, PAnneal)
    assert [(c.coefficient, c.p_end) for c in penalty.configs] == [(0.1, 0.5), (0.1, 1.0), (0.2, 0.5), (0.2, 1.0)]
    assert penalty.config.end == 24 < TRAIN.steps


WRONG = [
    ("relu", [Member(k=3)], "relu has no k"),
    ("topk", [Member(k=3, coefficient=0.1)], "topk has no coefficient"),
    ("topk", [Member()], "needs either k or target_l0"),
    ("topk", [Member(k=3, target_l0=3.0)], "needs either k or target_l0"),
    ("jumprelu", [Member(p_end=0.2)], "jumprelu has no p_end"),
    ("relu", [Member(target_l0=3.0), Member()], "all members of a stack have a target_l0 or none"),
    ("relu", [], "at least one member"),
    ("rleu", [Member()], "no recipe is called 'rleu'; choose from relu"),
]


@pytest.mark.parametrize(("recipe", "members", "said"), WRONG)
def test_settings_that_do_not_fit_are_refused(recipe, members, said):
    with pytest.raises(RecipeError, match=said):
        StackConfig(recipe, 8, 32, tuple(members), TRAIN)


@pytest.mark.parametrize("setting", ["coefficient", "p_end", "k", "target_l0"])
def test_nothing_is_set_to_zero(setting):
    with pytest.raises(RecipeError, match=f"{setting} is 0"):
        Member(**{setting: 0})


def rows_of(*points: tuple[float, float]) -> Sweep:
    return Sweep(
        tuple(
            Row("relu", Member(coefficient=0.5 + n), {"l0": l0, "variance_explained": explained})
            for n, (l0, explained) in enumerate(points)
        )
    )


def test_the_frontier_holds_what_nothing_dominates():
    sweep = rows_of((10, 0.8), (5, 0.7), (6, 0.6), (20, 0.8), (5, 0.65), (40, 0.95))
    assert [(r.numbers["l0"], r.numbers["variance_explained"]) for r in sweep.pareto()] == [
        (5, 0.7),
        (10, 0.8),
        (40, 0.95),
    ]


def test_the_table_is_aligned_and_json_says_the_same(tmp_path):
    sweep = rows_of((10, 0.8), (5, 0.7), (6, 0.6)).with_numbers([{"loss_recovered": 0.5}] * 3)
    lines = sweep.table().splitlines()
    assert lines[0].split() == ["recipe", "seed", "coefficient", "l0", "variance_explained", "loss_recovered", "pareto"]
    assert lines[1].split() == ["relu", "0", "0.5", "10", "0.8", "0.5", "*"]
    assert [line.endswith("*") for line in lines] == [False, True, True, False]
    ends = {line.index("0.5", line.index("0.") + 3) if "*" in line else None for line in lines[1:]}
    assert len(ends - {None}) == 1
    write_json(tmp_path / "sweep.json", sweep.to_json())
    assert read_json(tmp_path / "sweep.json")[2] == {
        "recipe": "relu",
        "seed": 0,
        "coefficient": 2.5,
        "l0": 6,
        "variance_explained": 0.6,
        "loss_recovered": 0.5,
        "pareto": False,
    }


def test_the_plot_is_whole_and_the_same_twice(tmp_path):
    sweep = rows_of((10, 0.8), (5, 0.7))
    for name in ("a.png", "b.png"):
        plot_pareto({"L1": sweep.rows, "p to 0.2": sweep.rows[:1]}, tmp_path / name, "a title")
    plotted = (tmp_path / "a.png").read_bytes()
    assert plotted.startswith(b"\x89PNG") and plotted == (tmp_path / "b.png").read_bytes()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.png", "b.png"]
    with pytest.raises(ValueError, match="nothing to plot"):
        plot_pareto({"L1": []}, tmp_path / "c.png")
    assert not (tmp_path / "c.png").exists()


def test_series_are_recipes_and_chosen_p_ends():
    sweep = Sweep(
        tuple(Row("relu", m, {"l0": 1.0, "variance_explained": 0.5}) for m in grid((0, 1), (0.1,), (1.0, 0.2)))
    )
    assert {name: len(rows) for name, rows in sweep.groups().items()} == {"relu, p to 1": 2, "relu, p to 0.2": 2}
