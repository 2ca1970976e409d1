"""`kibitz shift prepare | judge | freeze | score | report` on the shipped model, and what they say to mistakes."""

import json

import pytest
import torch
from safetensors.torch import save_file

from kibitz.cli import main
from saes.files import read_json, write_json
from shift.judgements import Frozen
from shift.methods import CORE
from shift.run_folder import judgements_path, read_outcome, read_queue

SPEC = {
    "intended": "mine b2",
    "spurious": "mine g6",
    "filters": ["occupied b2", "occupied g6"],
    "site": "resid_0",
    "train": 80,
    "test": 20,
    "cell": 10,
}
SMALL = ["--candidates", "6", "--examples", "6", "--steps", "1", "--names", "12"]


@pytest.fixture(scope="module")
def prepared(tmp_path_factory):
    folder = tmp_path_factory.mktemp("shift")
    write_json(folder / "task.json", SPEC)
    main(["shift", "prepare", "--task", str(folder / "task.json"), "--out", str(folder / "run"), *SMALL])
    return folder / "run"


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(["shift", *map(str, arguments)])
    assert leaving.value.code in (1, 2)  # 2: an option that cannot be, on its own
    said = capsys.readouterr().err.strip().splitlines()[-1]
    assert said.startswith("kibitz: ") and "Error parsing" not in said
    return said


def test_from_prepare_to_report(prepared, capsys):
    assert len([item for item in read_queue(prepared) if item.role == "candidate"]) <= 6
    assert "not scored yet" in refused(capsys, "report", prepared)
    assert "nothing has been judged" in refused(capsys, "freeze", prepared)
    main(["shift", "judge", str(prepared), "--judge", "strongest-half"])
    assert "strongest 50%: keep " in capsys.readouterr().out
    assert "not frozen" in refused(capsys, "score", prepared)
    main(["shift", "judge", str(prepared), "--judge", "concept"])
    main(["shift", "freeze", str(prepared)])
    assert "frozen" in refused(capsys, "judge", prepared, "--judge", "one-square")
    capsys.readouterr()
    main(
        ["shift", "score", str(prepared), "--quick", "--labelled", "0", "--leave-one-out", "1", "--by", "strongest 50%"]
    )
    said = capsys.readouterr().out
    outcome = read_outcome(prepared)
    rows = {row["method"]: row for row in outcome["rows"]}
    assert rows.keys() == {method.name for method in CORE}
    trimmed = Frozen.read(judgements_path(prepared)).trimmed(raters=["strongest 50%"])
    assert outcome["trimmed"] == sum(map(len, trimmed.values())) >= 3 and outcome["candidates"] == 6
    assert f"{rows['shift']['worst_group']:.2f}" in said
    assert outcome["judges"]["strongest 50%"]["reference"] == "concept oracle"
    assert outcome["frozen"] == Frozen.read(judgements_path(prepared)).sha256
    assert (outcome["settings"]["by"], outcome["settings"]["ablation"]) == (["strongest 50%"], "zero")
    assert [row["name"] for row in outcome["leave_one_out"]][:2] == [
        "only the site that is read",
        "only sites before it",
    ]
    before, after = outcome["side_effects"]["legal-move rate"]
    assert 0.9 < before <= 1 and 0 <= after <= 1
    assert outcome["side_effects"]["cross-entropy, nats per token"][0] > 0
    opened = [json.loads(line) for line in judgements_path(prepared).read_text().splitlines()]
    unsealed = [line for line in opened if line["kind"] == "unsealed"]
    assert len(unsealed) == 1 and "mixed keep" in unsealed[0]["reason"]
    main(["shift", "report", str(prepared)])
    page = (prepared / "report.html").read_text()
    assert "strongest 50%" in page and "Oracle head" in page and "http" not in page.replace("http-equiv", "")
    assert (prepared / "report.md").read_text().startswith("# SHIFT: owner of b2 against owner of g6")


def test_a_run_that_no_longer_fits_is_refused(prepared, tmp_path, capsys):
    import shutil

    moved = tmp_path / "run"
    shutil.copytree(prepared, moved)
    judgements_path(moved).unlink(missing_ok=True)
    task = read_json(moved / "task.json")
    write_json(moved / "task.json", {**task, "digests": {**task["digests"], "model": "0"}})
    assert "the model: not what" in refused(capsys, "judge", moved, "--judge", "concept")
    write_json(moved / "task.json", {**task, "spec": {**task["spec"], "seed": 5}})
    assert "prepare it again" in refused(capsys, "judge", moved, "--judge", "concept")


def test_another_probe_than_the_one_that_was_judged_is_refused(tmp_path, capsys):
    probe = tmp_path / "probe.safetensors"
    write_json(tmp_path / "task.json", SPEC)
    save_file({"weight": torch.ones(128)}, probe)
    run = tmp_path / "run"
    main(["shift", "prepare", "--task", str(tmp_path / "task.json"), "--probe", str(probe), "--out", str(run), *SMALL])
    save_file({"weight": torch.arange(128.0)}, probe)
    assert "the classifier that was given: not what" in refused(capsys, "judge", run, "--judge", "strongest-half")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "say what the task is"),
        (["--intended", "mine b2"], "give both"),
        (["--intended", "mine b2", "--spurious", "mine z9"], "mine z9"),
        (["--intended", "mine b2", "--spurious", "mine b4"], "share a line"),
        (["--intended", "mine b2", "--spurious", "mine g6", "--site", "resid_9"], "resid_9"),
        (["--intended", "mine b2", "--spurious", "mine g6", "--candidates", "0"], "choose 1 or more"),
        (["--intended", "mine b2", "--spurious", "mine g6", "--classifier", "x"], "reads texts"),
        (["--known", "madlibs"], "give --table"),
        (["--task", "absent.json"], "absent.json"),
    ],
)
def test_bad_tasks(tmp_path, capsys, arguments, message):
    assert message in refused(capsys, "prepare", "--out", tmp_path / "run", *arguments)
    assert not (tmp_path / "run").exists()


def test_a_judge_that_lacks_something(prepared, tmp_path, capsys):
    assert "--verdicts" in refused(capsys, "judge", prepared, "--judge", "file")
    assert "name" in refused(capsys, "judge", prepared, "--judge", "endpoint")
    assert "texts" in refused(capsys, "judge", prepared, "--judge", "words")
    assert "task.json" in refused(capsys, "judge", tmp_path, "--judge", "concept")
