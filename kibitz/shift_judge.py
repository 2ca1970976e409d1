"""`kibitz shift judge`: a person judges the features of a run in the browser (docs/judging_page.md)."""

import getpass
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import tyro

from kibitz.pages.judge_server import judge_app
from kibitz.pages.judging import Judging
from kibitz.pages.serving import serve
from kibitz.shift_judges import Arbiter, JudgeName, JudgeOptions, verdict_counts
from kibitz.shift_problem import ShiftError, reopen
from kibitz.shift_score import ScoreConfig, run_score
from shift.endpoint import EndpointConfig


@dataclass(frozen=True)
class JudgeConfig:
    """Judge the features of a run: keep, trim, unsure or mixed."""

    run: tyro.conf.Positional[Path]
    """the folder that `kibitz shift prepare` made"""
    judge: Literal["page"] | JudgeName = "page"
    """who judges. page: a person in the browser. concept: knows what each feature matches, and on what that depends.
    causal: ablates features under probes of A and B. strongest-half, one-square: blind rules. file: --verdicts.
    endpoint: a language model, --endpoint and --model"""
    verdicts: Path | None = None
    """of file: a .csv or .jsonl with site, feature, verdict; or a frozen file of judgements"""
    endpoint: str = ""
    """of endpoint: base URL of an OpenAI-compatible server, such as https://host/v1; nothing is sent without it"""
    model: str = ""
    """of endpoint: the model's name there"""
    key_variable: str = ""
    """of endpoint: environment variable that holds the key"""
    device: str = "auto"
    """of all judges that are no person"""
    rater: str = ""
    """of the page: the name in the judgement file; by default that of the user"""
    blind: bool = False
    """show neither properties nor effects, whatever the run says"""
    port: int = 0
    """of the page, on this machine only; 0: a free one"""
    open: bool = True
    """open the page in the browser"""

    def __post_init__(self) -> None:
        if not 0 <= self.port < 1 << 16:
            raise ValueError(f"port is {self.port}: choose 0 to 65535")
        if self.rater and self.judge != "page":
            raise ShiftError(f"judge {self.judge} goes by a name of its own: --rater is for the page")


def run_judge_command(config: JudgeConfig) -> str:
    """The sentence to print; a page is served until Ctrl-C."""
    if config.judge == "page":
        return run_judge_page(config, lambda: _score(config.run))
    asked = config.endpoint or config.model
    options = JudgeOptions(
        config.verdicts,
        EndpointConfig(config.endpoint, config.model, config.key_variable) if asked else None,
        blind=config.blind,
    )
    problem = reopen(config.run, config.device)
    try:
        rater = Arbiter(problem, config.run, options).run_judge(config.judge)
    except KeyboardInterrupt:
        raise KeyboardInterrupt("interrupted; what is judged is written, and the same command goes on") from None
    said = ", ".join(f"{verdict} {n}" for verdict, n in verdict_counts(config.run, problem.task.name, rater).items())
    return f"{rater}: {said or 'nothing left to judge'}. Close the judging: kibitz shift freeze {config.run}"


def _score(run: Path) -> None:
    run_score(ScoreConfig(run))


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # a number without an entry in the list of users
        raise ShiftError("this user has no name on this machine: give --rater") from None


def run_judge_page(config: JudgeConfig, score: Callable[[], None] | None = None) -> str:
    """Serve until Ctrl-C; `score` makes the outcome once the judgements are frozen."""
    judging = Judging(config.run, config.rater or _user(), blind=config.blind or None, score=score)
    serve(lambda keys: judge_app(judging, keys), config.port, show=config.open)
    left = judging.state()
    return "The judgements are frozen." if left["frozen"] else f"{left['unjudged']} cards are not judged yet."
