"""What `kibitz shift prepare` and `judge` make of their options, and what they refuse before anything is computed."""

from pathlib import Path

import pytest

from kibitz.cli import main, parse
from kibitz.shift_judge import JudgeConfig, run_judge_page
from kibitz.shift_prepare import PrepareConfig, run_prepare
from kibitz.shift_problem import ShiftError, Source
from saes.files import write_json
from shift.judge import Opinion, verdicts_on
from shift.judgements import JudgementLog
from shift.queue import Item
from shift.run_folder import judgements_path
from shift.specs import BoardTaskSpec
from shift.tasks.text_specs import TextTaskSpec
from tests.shift.judging_for_tests import candidate


@pytest.fixture
def no_model(monkeypatch):
    """Whatever gets as far as loading a model fails in another way than with a ShiftError."""

    def load(*_: object) -> None:
        raise RuntimeError("a model is loaded")

    monkeypatch.setattr(Source, "open", load)


def on_board(out: Path, replace: bool = False) -> PrepareConfig:
    return PrepareConfig(intended="mine b2", spurious="mine g6", out=out, replace=replace)


def judged(run: Path) -> bytes:
    """A run that somebody has judged; what is in his file."""
    write_json(run / "manifest.json", {"format": "kibitz-run-1"})
    log = JudgementLog(judgements_path(run), "a task")
    for number in range(3):
        item = Item(f"{number}", (candidate(number, -1.0),), "candidate")
        log.add(*verdicts_on(item, Opinion("keep", ""), "ann", 1.0))
    return judgements_path(run).read_bytes()


def test_a_judged_run_is_not_replaced_unasked(tmp_path, no_model):
    run = tmp_path / "run"
    before = judged(run)
    with pytest.raises(ShiftError, match=r"3 so far.*another --out, or give --replace"):
        run_prepare(on_board(run))
    assert judgements_path(run).read_bytes() == before
    with pytest.raises(RuntimeError, match="a model is loaded"):
        run_prepare(on_board(run, replace=True))
    judgements_path(run).unlink()
    with pytest.raises(RuntimeError, match="a model is loaded"):
        run_prepare(on_board(run))


def test_a_run_that_is_judged_while_another_is_prepared_stays(tmp_path):
    """The folder is replaced at the end, minutes after it was looked at first."""
    file = tmp_path / "task.json"
    said = {"intended": "mine b2", "spurious": "mine g6", "site": "resid_0", "train": 80, "test": 20, "cell": 10}
    write_json(file, said)

    class JudgedMeanwhile(PrepareConfig):
        def source(self) -> Source:
            judged(self.out)
            return super().source()

    def small(kind: type[PrepareConfig]) -> PrepareConfig:
        return kind(task=file, out=tmp_path / "run", candidates=2, examples=4, steps=1, names=4, controls=0.0)

    run_prepare(small(PrepareConfig))
    with pytest.raises(ShiftError, match="3 so far"):
        run_prepare(small(JudgedMeanwhile))
    assert judgements_path(tmp_path / "run").exists() and (tmp_path / "run" / "queue.json").exists()


def spec(*arguments: str) -> BoardTaskSpec | TextTaskSpec:
    command = parse(["shift", "prepare", *arguments])
    return command.what.spec()


@pytest.mark.parametrize(
    ("arguments", "site", "seed"),
    [
        (["--intended", "mine b2", "--spurious", "mine g6"], "resid_2", 0),
        (["--intended", "mine b2", "--spurious", "mine g6", "--site", "resid_4", "--seed", "3"], "resid_4", 3),
        (["--known", "madlibs", "--table", "t.csv"], "resid_2", 0),
        (["--known", "madlibs", "--table", "t.csv", "--seed", "3"], "resid_2", 3),
        (["--known", "madlibs", "--table", "t.csv", "--site", "resid_0"], "resid_0", 0),
        (["--known", "gap-gender", "--table", "t.csv", "--site", "resid_0", "--seed", "1"], "resid_0", 1),
        (["--known", "gap-coreference", "--table", "t.csv"], "resid_15", 0),
        (["--known", "bias-in-bios"], "resid_4", 42),
        (["--known", "bias-in-bios", "--site", "resid_3", "--seed", "0"], "resid_3", 0),
        (["--known", "bias-in-bios-gemma"], "resid_22", 42),
    ],
)
def test_site_and_seed_count_where_they_are_given(arguments, site, seed):
    found = spec(*arguments)
    assert (found.site, found.seed) == (site, seed)


def test_bias_in_bios_is_that_of_its_model():
    pythia, gemma = spec("--known", "bias-in-bios"), spec("--known", "bias-in-bios-gemma", "--table", "bios.csv")
    assert isinstance(pythia, TextTaskSpec) and isinstance(gemma, TextTaskSpec)
    assert (pythia.head_batch, gemma.head_batch) == (128, 32)
    assert (pythia.path, gemma.path) == ("LabHC/bias_in_bios", "bios.csv")


def refused(capsys, *arguments: str) -> str:
    with pytest.raises(SystemExit) as leaving:
        main(["shift", *arguments])
    assert leaving.value.code in (1, 2)
    return " ".join(capsys.readouterr().err.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--task", "task.json", "--site", "resid_1"], "said in task.json"),
        (["--task", "task.json", "--table", "t.csv"], "give --known"),
        (["--task", "task.json", "--filters", "occupied b2"], "--filters are of a board"),
        (["--known", "bias-in-bios", "--classifier", "c", "--site", "resid_1"], "its last residual site"),
        (["--known", "madlibs", "--table", "t.csv", "--seed", "-1"], "choose 0 or more"),
    ],
)
def test_options_that_say_nothing_about_the_task(capsys, arguments, message):
    assert message in refused(capsys, "prepare", *arguments)


def test_judges_that_are_no_person_have_names_of_their_own(tmp_path, capsys):
    said = refused(capsys, "judge", str(tmp_path), "--judge", "concept", "--rater", "ann")
    assert "judge concept goes by a name of its own: --rater is for the page" in said


@pytest.mark.parametrize("error", [KeyError("uid not found: 4711"), OSError("No username set")])
def test_a_user_without_a_name(tmp_path, monkeypatch, error):
    def nobody() -> str:
        raise error

    monkeypatch.setattr("getpass.getuser", nobody)
    with pytest.raises(ShiftError, match="give --rater"):
        run_judge_page(JudgeConfig(tmp_path))


def test_an_interrupted_judge_has_written_what_he_said(tmp_path, monkeypatch, capsys):
    """The message of other commands, that the folder is as it was, would be false here."""

    class Interrupted:
        def __init__(self, *_: object) -> None: ...

        def run_judge(self, _: str) -> str:
            raise KeyboardInterrupt

    monkeypatch.setattr("kibitz.shift_judge.reopen", lambda *_: None)
    monkeypatch.setattr("kibitz.shift_judge.Arbiter", Interrupted)
    with pytest.raises(SystemExit) as leaving:
        main(["shift", "judge", str(tmp_path), "--judge", "concept"])
    said = capsys.readouterr().err
    assert leaving.value.code == 130 and "what is judged is written" in said and "as it was before" not in said
