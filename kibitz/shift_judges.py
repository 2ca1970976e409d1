"""The judges of `kibitz shift judge` that are no person: oracles, rules, a file, a model behind an endpoint."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from boardgames.report import Positions
from kibitz.shift_problem import ShiftProblem
from kibitz.shift_shown import Sample
from shift.candidates import Candidate
from shift.cards import Card, bare
from shift.causal_oracle import CausalOracle
from shift.concept_oracle import ConceptOracle, DependenceSets, named_squares, rule_dependence
from shift.endpoint import EndpointConfig, EndpointJudge
from shift.feature_cards import FeatureCards
from shift.file_judge import FileJudge
from shift.heuristics import OneSquare, StrongestHalf
from shift.judge import Judge, JudgeError, run_judge
from shift.judgements import JudgementLog
from shift.labelled import labelled_board
from shift.queue import Group, Item
from shift.run_folder import judgements_path, read_queue, read_task
from shift.specs import BoardTaskSpec
from shift.tasks.questions import parts
from shift.word_judge import WordJudge

JudgeName = Literal["concept", "causal", "words", "strongest-half", "one-square", "file", "endpoint"]


@dataclass(frozen=True)
class JudgeOptions:
    """What some judges need to know."""

    verdicts: Path | None = None
    """of `file`: a table with site, feature, verdict, or a frozen file of judgements"""
    endpoint: EndpointConfig | None = None
    """of `endpoint`: an OpenAI-compatible server; asked only if you name it"""
    labelled: int = 4000
    """of `causal`: labelled games, none of them the task's"""
    blind: bool = False
    """of `endpoint`: effects are not sent, as where the run itself is blind"""


@dataclass(frozen=True)
class Arbiter:
    """Makes judges for one run; positions and matches are made once, and only if a judge asks for them."""

    problem: ShiftProblem
    run: Path
    options: JudgeOptions = field(default_factory=JudgeOptions)

    @cached_property
    def items(self) -> list[Item]:
        return read_queue(self.run, list(self.problem.dictionaries))

    @cached_property
    def candidates(self) -> list[Candidate]:
        """All that is shown, controls among them."""
        return list({(c.site.name, c.feature): c for item in self.items for c in item.group}.values())

    @cached_property
    def sample(self) -> Sample:
        """What features are named and shown on, as it was when the run was prepared."""
        said = read_task(self.run)
        return Sample(self.problem, said["names"], tuple(map(Path, said["games"])), said["seed"])

    @cached_property
    def depends(self) -> DependenceSets:
        """What every property depends on: in Othello by the rules, in chess by its name."""
        board = self.sample.board
        assert board is not None
        if isinstance(board, Positions):
            return rule_dependence(board.replay.at(board.mask))
        return named_squares(board.labels, "chess")

    def board_spec(self, judge: str) -> BoardTaskSpec:
        """The task's, which must be one of a board."""
        spec = self.problem.source.spec
        if not isinstance(spec, BoardTaskSpec):
            raise JudgeError(f"judge {judge} knows boards, and this task is one of texts")
        return spec

    def concept_oracle(self) -> ConceptOracle:
        """Knows what each feature matches, and on what that depends."""
        spec = self.board_spec("concept")

        def about(question: str) -> frozenset[str]:
            return frozenset().union(*(self.depends[name] for name, _ in parts(spec.game, question)))

        matches = self.sample.matches(self.candidates)
        return ConceptOracle(matches, self.depends, about(spec.intended), about(spec.spurious))

    def word_judge(self) -> WordJudge:
        """Knows the words that tell the spurious attribute."""
        spec, tokenizer = self.problem.source.spec, self.problem.tokenizer
        if isinstance(spec, BoardTaskSpec) or tokenizer is None:
            raise JudgeError("judge words knows texts, and this task is one of a board")
        problem = self.problem
        return WordJudge(problem.model, problem.dictionaries, self.candidates, spec, tokenizer, self.sample.texts)

    def reference(self) -> Judge | None:
        """What other judges are measured against; None where nobody knows."""
        spec = self.problem.source.spec
        if isinstance(spec, BoardTaskSpec):
            return self.concept_oracle()
        return self.word_judge() if all(spec.attribute_words) else None

    def judge(self, name: JudgeName) -> tuple[Judge, Callable[[Group], Card]]:
        """The judge, and the cards that it looks at."""
        match name:
            case "concept":
                return self.concept_oracle(), bare
            case "causal":
                return self._causal(), bare
            case "words":
                return self.word_judge(), bare
            case "strongest-half":
                return StrongestHalf([c for item in self.items if item.role == "candidate" for c in item.group]), bare
            case "one-square":
                return OneSquare(), self.cards
            case "file":
                if self.options.verdicts is None:
                    raise JudgeError("the file judge needs a file: give --verdicts FILE")
                return FileJudge(self.options.verdicts), bare
            case "endpoint":
                if self.options.endpoint is None:
                    raise JudgeError("the endpoint judge asks only a server that you name: give --endpoint and --model")
                blind = self.options.blind or bool(read_task(self.run)["blind"])
                return EndpointJudge(self.options.endpoint, self.problem.task.intended, blind=blind), self.cards

    @cached_property
    def cards(self) -> FeatureCards:
        """What a judge that looks is shown; without names."""
        return self.sample.cards(self.candidates)

    def _causal(self) -> CausalOracle:
        labelled = labelled_board(self.board_spec("causal"), self.options.labelled)
        problem = self.problem
        return CausalOracle(problem.model, problem.dictionaries, problem.task.reading, labelled)

    def run_judge(self, name: JudgeName) -> str:
        """Have everything judged that this judge has not judged yet; returns his name."""
        judge, cards = self.judge(name)
        log = JudgementLog(judgements_path(self.run), self.problem.task.name)
        run_judge(judge, self.items, log, cards, progress=True)
        return judge.name


def verdict_counts(run: Path, task: str, rater: str) -> dict[str, Any]:
    """How often the rater said what, of the candidates."""
    standing = [j for j in JudgementLog(judgements_path(run), task).standing() if j.rater == rater]
    said = [j.verdict for j in standing if j.role == "candidate"]
    return {verdict: said.count(verdict) for verdict in dict.fromkeys(sorted(said))}
