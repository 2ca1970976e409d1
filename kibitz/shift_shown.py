"""What features of a SHIFT run are shown on, and named on where names are known: games, or texts of no set."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from jaxtyping import Bool, Int
from torch import Tensor

from boardgames.chess.transcript import decode
from boardgames.labelled_rows import LabelledRows
from boardgames.matching import Match, match_features
from boardgames.report import Positions
from boardgames.skipped import Skipped
from kibitz.board_games import read_all
from kibitz.board_words import labelled_positions, named_positions
from kibitz.shift_problem import ShiftProblem
from saes.files import FileError
from saes.harvest import harvest_features
from shift.board_cards import ChessBoards, OthelloBoards
from shift.candidates import Candidate, chosen_features
from shift.feature_cards import FeatureCards, Shown
from shift.specs import BoardTaskSpec
from shift.tasks.draws import chess_games_for
from shift.tasks.prompts import tokenise
from shift.tasks.tables import naming_rows
from shift.text_cards import TextContexts, speller


@dataclass(frozen=True)
class Sample:
    """Positions that are none of the task's; made when they are asked for, the same for the same settings."""

    problem: ShiftProblem
    count: int
    """games, or texts"""
    games: tuple[Path, ...] = ()
    """files of games; by default random ones"""
    seed: int = 0

    @cached_property
    def board(self) -> Positions | LabelledRows | None:
        """Labelled positions of games; None for texts."""
        spec = self.problem.source.spec
        if not isinstance(spec, BoardTaskSpec):
            return None
        if spec.game == "othello" or not self.games:
            return named_positions(spec.game, self.games, self.count, self.seed)
        games = read_all("chess", self.games, Skipped())  # the task's own games may stand in the same files
        free = chess_games_for("shift_names", games)[: self.count]
        if not free:
            raise FileError(f"{self.games[0]}: none of {len(games)} games is kept for naming features; give more games")
        return labelled_positions(spec.game, free)

    @cached_property
    def transcripts(self) -> list[str]:
        """Of games of chess, up to the space behind the last move that is read; [] for anything else."""
        if self.board is None or isinstance(self.board, Positions):
            return []
        ends = [int(row.nonzero()[0][-1]) + 1 for row in self.board.mask]
        return [decode(row[:end].numpy()) for row, end in zip(self.board.tokens, ends, strict=True)]

    @cached_property
    def texts(self) -> list[str]:
        """Texts of no set of the task, or of the ambiguous training set if there are no others."""
        spec = self.problem.source.spec
        return [] if isinstance(spec, BoardTaskSpec) else naming_rows(spec, self.count)

    @cached_property
    def shown(self) -> Shown:
        """How the positions are drawn."""
        if isinstance(self.board, Positions):
            return OthelloBoards(self.board)
        if self.board is not None:
            return ChessBoards(self.transcripts, "moves")
        tokens, mask = self._text_tokens
        tokenizer = self.problem.tokenizer
        assert tokenizer is not None
        return TextContexts(tokens, mask, speller(tokenizer))

    @property
    def _text_tokens(self) -> tuple[Int[Tensor, "texts length"], Bool[Tensor, "texts length"]]:
        spec, tokenizer = self.problem.source.spec, self.problem.tokenizer
        assert tokenizer is not None and not isinstance(spec, BoardTaskSpec)
        tokens, position = tokenise(spec, tokenizer, self.texts)
        return tokens, self.problem.task.reading.text(position, tokens.shape[1])

    def matches(self, candidates: Sequence[Candidate]) -> dict[tuple[str, int], Match]:
        """The property that each feature matches best; nothing is known of texts."""
        if self.board is None:
            return {}
        return match_features(self.problem.model, self.problem.dictionaries, chosen_features(candidates), self.board)

    def firing(self, candidates: Sequence[Candidate]) -> list[Candidate]:
        """Those that fire somewhere: the others have nothing to show."""
        features, shown = chosen_features(candidates), self.shown
        acts = harvest_features(self.problem.model, self.problem.dictionaries, features, shown.tokens, shown.mask)
        fires = {(site.name, f) for site, values in acts.items() for f in features[site][values.amax(0) > 0].tolist()}
        return [c for c in candidates if (c.site.name, c.feature) in fires]

    def cards(
        self, candidates: Sequence[Candidate], matches: Mapping[tuple[str, int], Match] | None = None
    ) -> FeatureCards:
        """Cards of the candidates' groups; without names where none are given."""
        problem = self.problem
        return FeatureCards(
            problem.model, problem.dictionaries, candidates, self.shown, matches=matches, seed=self.seed
        )
