"""`kibitz bench recovery` and `kibitz sweep`: small runs end to end, and one clear sentence for a mistake."""

import pytest
import torch

from kibitz.bench import COMPARED, SETTINGS, BenchConfig, run_bench, summary
from kibitz.sweep import SweepConfig, folder_name, run_sweep
from saes.checkpoint import load_dictionary
from saes.files import read_json
from saes.recipes import Member

TINY = {"atoms": 16, "width": 8, "features": 32, "l0": 1}


def test_a_tiny_benchmark_is_whole_and_repeatable(tmp_path, capfd):
    texts = []
    for name in ("first", "second"):
        config = BenchConfig(
            "recovery", seeds=2, steps=20, out=tmp_path / name, recipes=("relu", "topk", "jumprelu"), **TINY
        )
        texts.append(run_bench(config).split("\nWritten")[0])
    assert texts[0] == texts[1]
    assert "80/80" in capfd.readouterr().err  # steps of all four settings
    run = tmp_path / "first"
    assert {p.name for p in run.iterdir()} == {
        "config.yaml",
        "manifest.json",
        "recovery.md",
        "recovery.json",
        "recovery.png",
    }
    assert (run / "recovery.md").read_text().rstrip() == texts[0].rstrip()
    results = read_json(run / "recovery.json")["results"]
    assert tuple(results) == SETTINGS
    for setting, by_recipe in results.items():
        assert list(by_recipe) == ["relu", "topk", "jumprelu"]
        for rows in by_recipe.values():
            assert len(rows) == 2 and rows[0] != rows[1]
            assert all((row["absorption"] is None) == (setting != "hierarchical") for row in rows)
    assert texts[0].count("absorption") == 1
    assert texts[0].count("| topk ") == 4


def test_mean_and_deviation_are_over_seeds():
    from saes.synthetic import Recovery

    rows = [Recovery(c, 0.5, 0.5, 2.0, 2.0, 0.9, 1.0, None, None) for c in (0.2, 0.4)]
    assert summary(rows, "cosine") == pytest.approx((0.3, 0.1 * 2**0.5))
    assert summary(rows[:1], "cosine") == (0.2, 0.0)
    assert summary(rows, "absorption") is None


def test_quick_is_shorter_and_steps_win():
    assert BenchConfig("recovery", quick=True).total_steps < BenchConfig("recovery").total_steps
    assert BenchConfig("recovery", quick=True, steps=77).total_steps == 77
    assert "crosscoder" not in COMPARED


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"seeds": 0}, "seeds is 0"),
        ({"steps": 5}, "steps is 5"),
        ({"recipes": ()}, "recipes is empty"),
        ({"recipes": ("sparse",)}, "no recipe is called 'sparse'"),
        ({"recipes": ("crosscoder",)}, "reads several sites"),
        ({"l0": 99, "features": 128}, "cannot fire 99.0 at a time"),
        ({"atoms": 30}, "30 atoms cannot be split"),
        ({"l0": 40, "features": 32}, "l0 is 40 of 32 features"),
    ],
)
def test_a_benchmark_that_cannot_run_is_refused_before_it_starts(changed, said):
    with pytest.raises(ValueError, match=said):
        BenchConfig("recovery", **changed)


def test_a_small_sweep_saves_every_dictionary(tmp_path):
    config = SweepConfig(
        architecture="relu",
        coefficients=(0.01, 0.1),
        p_ends=(0.2,),
        seeds=(3,),
        steps=20,
        expansion=1,
        out=tmp_path / "run",
    )
    said = run_sweep(config)
    table = (tmp_path / "run" / "table.txt").read_text()
    assert said.startswith(table.rstrip()) and "loss_recovered" in table and len(table.splitlines()) == 3
    rows = read_json(tmp_path / "run" / "sweep.json")["rows"]
    assert [row["coefficient"] for row in rows] == [0.01, 0.1]
    weights = [load_dictionary(tmp_path / "run" / row["folder"]) for row in rows]
    assert weights[0].site.name == "resid_1" and not torch.equal(weights[0].W_dec, weights[1].W_dec)
    assert rows[0]["l0"] > rows[1]["l0"]
    assert (tmp_path / "run" / "pareto.png").stat().st_size > 5000


def test_defaults_of_a_sweep_fit_the_architecture():
    assert [m.coefficient for m in SweepConfig().members()] == [0.01, 0.02, 0.04]
    assert [m.k for m in SweepConfig(architecture="topk").members()] == [16, 32, 64]
    assert [m.target_l0 for m in SweepConfig(architecture="jumprelu").members()] == [16, 32, 64]
    assert SweepConfig(architecture="gated", target_l0s=(20.0,)).members() == [Member(target_l0=20.0)]
    assert folder_name(Member(1, 0.01, 0.2)) == "coefficient-0.01_p_end-0.2_seed-1"


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"architecture": "rleu"}, "no recipe is called 'rleu'"),
        ({"architecture": "crosscoder"}, "several sites"),
        ({"architecture": "topk", "coefficients": (0.1,)}, "topk has no coefficient"),
        ({"coefficients": (0.1, 0.1)}, "given twice"),
        ({"coefficients": (-0.1,)}, "coefficient is -0.1"),
        ({"seeds": (-1,)}, "seed is -1"),
        ({"seeds": ()}, "seeds is empty"),
        ({"steps": 3}, "steps is 3"),
    ],
)
def test_a_sweep_that_cannot_run_is_refused_before_it_starts(changed, said):
    with pytest.raises(ValueError, match=said):
        SweepConfig(**changed)
