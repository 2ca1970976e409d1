"""Judges on planted features: what detects the spurious property is trimmed, and nothing else."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.game import label as label_positions
from boardgames.game import unpack
from boardgames.lm import load_othello_gpt
from boardgames.matching import Match
from boardgames.othello.properties import CORRECTED, EVERYTHING, FLIPPED, LAST_MOVE, LEGAL, MINE, PLY, SQUARES
from boardgames.othello.rules import random_games, replay
from boardgames.othello.transcript import PAD, SQUARE_OF_TOKEN
from boardgames.report import Positions
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import find_site
from shift.board_cards import OthelloBoards
from shift.candidates import Candidate
from shift.cards import Card, Showing, bare
from shift.causal_oracle import CausalOracle
from shift.concept_oracle import ConceptOracle, named_squares, outside_share, rule_dependence
from shift.data_oracle import DataOracle
from shift.feature_cards import FeatureCards
from shift.file_judge import FileJudge
from shift.heuristics import OneSquare, StrongestHalf
from shift.judge import JudgeError
from shift.judgements import JudgementLog
from shift.labelled import Labelled, labelled_board
from shift.probe import fit_head, readout
from shift.reading import Reading
from shift.specs import BoardTaskSpec
from shift.task import Balanced
from shift.tasks.board import board_task
from tests.shift.flag_model_for_tests import flag_model
from tests.shift.judging_for_tests import candidate, judged

INTENDED, SPURIOUS, BOTH, NOTHING = range(4)  # features of the planted dictionary, one coordinate each
VERDICTS = {INTENDED: "keep", SPURIOUS: "trim", BOTH: "mixed", NOTHING: "unsure"}


@pytest.fixture(scope="module")
def planted():
    """A token is (intended, spurious, noise); features read a coordinate each, which holds one, both or neither."""
    config = GPT2Config(
        vocab_size=64, n_positions=2, n_embd=8, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None
    )
    model = GPT2LMHeadModel(config).eval().requires_grad_(False)
    token = torch.arange(64)
    intended, spurious, noise = (token // 2**k % 2 == 1 for k in range(3))
    model.transformer.wte.weight.zero_()
    for coordinate, value in enumerate((intended, spurious, intended * 1.0 + spurious * 1.0, noise)):
        model.transformer.wte.weight[:, coordinate] = 1.0 * value
    model.transformer.wpe.weight.zero_()
    for module in (model.transformer.h[0].attn.c_proj, model.transformer.h[0].mlp.c_proj):
        module.weight.zero_()
    site = find_site(model, "resid_0")
    dictionary = ReLUDictionary(ReLUConfig(8, 8), [site])
    dictionary.W_dec.data, dictionary.W_enc.data = torch.eye(8), torch.eye(8)
    rows = torch.randint(64, (600,), generator=torch.Generator().manual_seed(5))
    tokens = rows[:, None].repeat(1, 2)
    data = (tokens, torch.ones(600, dtype=torch.long), intended[rows], spurious[rows])
    return model, {site: dictionary.requires_grad_(False)}, site, data


class TestCausalOracle:
    def test_planted_features(self, planted):
        model, dictionaries, site, data = planted
        judge = CausalOracle(model, dictionaries, Reading(site), Labelled(*data))
        assert judge.accuracy == {"intended": 1.0, "spurious": 1.0}
        for feature, verdict in VERDICTS.items():
            assert judge(bare((Candidate(site, feature, 0.0),))).verdict == verdict
        alone, together = (
            judge.effect(tuple(Candidate(site, f, 0.0) for f in group)) for group in ((SPURIOUS,), (SPURIOUS, BOTH))
        )
        assert together.spurious < alone.spurious < -0.1 and abs(alone.intended) < 0.02

    def test_effects_are_those_of_a_hand_edited_readout(self, planted):
        model, dictionaries, site, data = planted
        labelled = Labelled(*data).equal_cells()
        found = CausalOracle(model, dictionaries, Reading(site), Labelled(*data)).effect(
            (Candidate(site, SPURIOUS, 0.0),)
        )
        fitted, labelled = labelled.halves()
        first, x = (readout(model, Reading(site), half.tokens, half.position) for half in (fitted, labelled))
        without = x.clone()
        without[:, SPURIOUS] = 0
        for name, effect in (("intended", found.intended), ("spurious", found.spurious)):
            label = getattr(labelled, name)
            head, sign = fit_head(first, getattr(fitted, name)), torch.where(label, 1.0, -1.0)
            change = (head(without) - head(x))[:, 0] * sign
            assert effect == pytest.approx(float(change.mean() / head(x).abs().mean()), abs=1e-6)

    def test_its_positions_need_all_four_cells(self, planted):
        *_, (tokens, position, intended, _) = planted
        with pytest.raises(JudgeError, match="each needs some"):
            Labelled(tokens, position, intended, intended).equal_cells()
        even = Labelled(*planted[3]).equal_cells()
        cells = 2 * even.intended.long() + even.spurious.long()
        assert len(set(cells.bincount().tolist())) == 1

    @pytest.mark.parametrize(("given", "message"), [({"ratio": 0.5}, "ratio"), ({"minimum": 0.0}, "minimum")])
    def test_bad_thresholds(self, planted, given, message):
        model, dictionaries, site, data = planted
        with pytest.raises(JudgeError, match=message):
            CausalOracle(model, dictionaries, Reading(site), Labelled(*data), **given)


def test_labelled_boards_are_none_of_the_tasks():
    spec = BoardTaskSpec(
        "mine c3", "mine f5", ("occupied c3", "occupied f5"), site="resid_0", train=40, test=10, cell=2
    )
    found = labelled_board(spec, 64)
    assert len(found.tokens) == 64 == len({row.numpy().tobytes() for row in found.tokens})
    for tokens, last, mine_c3, mine_f5 in zip(
        found.tokens, found.position.tolist(), found.intended.tolist(), found.spurious.tolist(), strict=True
    ):
        board = replay(SQUARE_OF_TOKEN[tokens[: last + 1].numpy()][None].astype(np.uint8))
        own, taken = (unpack(x[0, last : last + 1])[0] for x in (board.mine, board.black | board.white))
        for square, said in (("c3", mine_c3), ("f5", mine_f5)):
            assert taken[SQUARES.index(square)] and bool(own[SQUARES.index(square)]) == said
    task = board_task(spec, find_site(load_othello_gpt(), "resid_0"))
    theirs = {row[row != PAD].numpy().tobytes() for row in task.train.tokens}
    assert not theirs & {row[row != PAD].numpy().tobytes() for row in found.tokens}


class TestDataOracle:
    def test_trims_what_the_spurious_labels_lean_on(self, planted):
        model, dictionaries, site, data = planted
        tokens, position, intended, spurious = data
        agree = intended == spurious
        head = fit_head(readout(model, Reading(site), tokens[agree], position[agree]), intended[agree])
        judge = DataOracle(
            model, dictionaries, head, Reading(site), Balanced(*data), 2, examples=200, steps=2, progress=False
        )
        said = {f: judge(bare((Candidate(site, f, 0.0),))).verdict for f in VERDICTS}
        assert said == {INTENDED: "keep", SPURIOUS: "trim", BOTH: "trim", NOTHING: "keep"}

    def test_takes_nothing_but_opened_data(self, planted):
        model, dictionaries, site, data = planted
        head = torch.nn.Linear(8, 1)
        with pytest.raises((JudgeError, TypeError), match="opened|Balanced"):  # the annotation says so, too
            DataOracle(model, dictionaries, head, Reading(site), Labelled(*data), 2)  # type: ignore[arg-type]


class TestConceptOracle:
    def judge(self, *found: tuple[str, float], **given) -> ConceptOracle:
        matches = {("resid_0", i): Match(c, c[-2:], f1, 1.0, 1.0, 0, 0.1) for i, (c, f1) in enumerate(found)}
        sets = {
            "mine c3": {"c3"},
            "mine f5": {"f5"},
            "legal b4": {"b4", "c3"},
            "legal e4": {"c3", "f5"},
            "ply": {"ply"},
        }
        depends = {name: frozenset(s) for name, s in sets.items()}
        return ConceptOracle(matches, depends, frozenset({"c3"}), frozenset({"f5"}), **given)

    def test_by_what_the_property_depends_on(self):
        names = ("mine c3", "mine f5", "legal b4", "legal e4", "ply")
        judge = self.judge(*((name, 0.9) for name in names))
        said = [judge(bare((candidate(i),))).verdict for i in range(len(names) + 1)]
        assert said == ["keep", "trim", "keep", "mixed", "unsure", "unsure"]

    def test_all_columns_of_one_fact_are_about_the_same(self, sets):
        matches = {("resid_0", 0): Match("ply 20-29", "", 0.9, 1.0, 1.0, 0, 0.1)}
        about = sets["ply 30-39"] | sets["ply 40-49"]
        said = ConceptOracle(matches, sets, sets["legal b4"], about)(bare((candidate(0),)))
        assert said.verdict == "trim"  # how far the game is tells that it is not further

    def test_a_poor_match_tells_nothing(self):
        judge = self.judge(("mine f5", 0.5), ("mine f5", 0.49), minimum_f1=0.5)
        assert [judge(bare((candidate(i),))).verdict for i in range(2)] == ["trim", "unsure"]

    def test_needs_a_difference_and_all_sets(self):
        with pytest.raises(JudgeError, match="nothing tells them apart"):
            ConceptOracle({}, {}, frozenset({"a1", "b2"}), frozenset({"b2"}))
        with pytest.raises(JudgeError, match="no dependence set for empty h8"):
            self.judge(("empty h8", 0.9))

    def test_the_share_outside_both(self):
        names = ("mine c3", "mine f5", "legal b4", "ply", "mine h8")
        matches = {("resid_0", i): Match(name, name[-2:], 0.9, 1.0, 1.0, 0, 0.1) for i, name in enumerate(names)}
        sets = {
            name: frozenset(s) for name, s in zip(names, (["c3"], ["f5"], ["b4", "c3"], ["ply"], ["h8"]), strict=True)
        }
        effects = (1.0, -2.0, 4.0, -8.0, 16.0, 32.0)  # the last has no match
        found = [replace(candidate(i), effect=effect) for i, effect in enumerate(effects)]
        share = outside_share(found, matches, sets, frozenset({"c3"}), frozenset({"f5"}))
        assert share == pytest.approx((8 + 16 + 32) / sum(map(abs, effects)))
        assert outside_share([], matches, sets, frozenset({"c3"}), frozenset({"f5"})) == 0


@pytest.fixture(scope="module")
def some_positions():
    games = replay(random_games(2, np.random.default_rng(1)))
    return games.at(games.played)[::4]


@pytest.fixture(scope="module")
def sets(some_positions):
    return rule_dependence(some_positions, (MINE, LEGAL, FLIPPED, LAST_MOVE, PLY, CORRECTED["empty"]))


class TestDependence:
    def test_by_the_rules(self, sets):
        for square in SQUARES:
            for name in ("mine", "empty", "flipped", "last move"):
                assert sets[f"{name} {square}"] == {square}
            assert square in sets[f"legal {square}"]
        assert sets["ply 0-9"] == sets["ply 40-49"] == {"ply"}
        row, col = np.divmod(np.arange(64), 8)
        for i, square in enumerate(SQUARES):  # a move's legality hangs on its eight lines, and on nothing else
            near = (row == row[i]) | (col == col[i]) | (abs(row - row[i]) == abs(col - col[i]))
            assert sets[f"legal {square}"] <= set(np.array(SQUARES)[near])

    def test_whole_games_are_sampled_at_all_plies(self):
        positions = Positions(random_games(200, np.random.default_rng(3)))
        sets = rule_dependence(positions.replay.at(positions.mask), (LEGAL,), sample=500)
        assert "b7" in sets["legal a8"]  # a corner is taken along a line that begins beside it

    def test_the_share_decides(self, sets, some_positions):
        always = rule_dependence(some_positions, (LEGAL,), 1.0)
        assert all(found <= sets[name] for name, found in always.items())
        assert sum(map(len, always.values())) < sum(len(sets[name]) for name in always)
        with pytest.raises(JudgeError, match="usually"):
            rule_dependence(some_positions, (LEGAL,), 0.0)

    def test_names_alone(self, some_positions):
        sets = named_squares(label_positions(some_positions, EVERYTHING))
        assert sets["legal b4"] == {"b4"} and sets["ply 0-9"] == {"ply"}


class TestFileJudge:
    def test_a_table(self, tmp_path):
        path = tmp_path / "v.csv"
        path.write_text(
            "﻿site,feature,verdict,confidence,note\nresid_0,1,trim,0.5,x\nresid_0,2,keep,,\n", encoding="utf-8"
        )
        judge = FileJudge(path)
        said = [judge(bare((candidate(f),))) for f in (1, 2, 3)]
        assert [o.verdict for o in said] == ["trim", "keep", "unsure"] and said[0].confidence == 0.5
        with pytest.raises(JudgeError, match="no verdict on resid_0/3"):
            FileJudge(path, missing=None)(bare((candidate(3),)))

    def test_lines_and_another_runs_judgements(self, tmp_path):
        path = tmp_path / "v.jsonl"
        path.write_text(json.dumps({"site": "resid_0", "feature": 1, "verdict": "mixed", "reason": "both"}) + "\n")
        assert FileJudge(path)(bare((candidate(1),))).reason == "both"
        log = JudgementLog(tmp_path / "j.jsonl", "task")
        log.add(judged(1, "keep"))
        log.add(judged(1, "trim"))
        log.add(judged(1, "keep", role="repeat"))
        with pytest.raises(JudgeError, match="not frozen"):
            FileJudge(log.path)
        log.freeze()
        assert FileJudge(log.path)(bare((candidate(1),))).verdict == "trim"

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("site,feature\n", "no column verdict"),
            ("site,feature,verdict\nresid_0,1,maybe\n", "line 2: the verdict is 'maybe'"),
            ("site,feature,verdict\nresid_0,x,trim\n", "'x'"),
            ("site,feature,verdict\nresid_0,-1,trim\n", "below 0"),
            ("site,feature,verdict\n,1,trim\n", "the site is ''"),
            ("site,feature,verdict,confidence\nresid_0,1,trim,nan\n", "not between 0 and 1"),
            ("site,feature,verdict\nresid_0,1,trim\nresid_0,1,keep\n", "judged trim and keep"),
        ],
    )
    def test_bad_tables(self, tmp_path, text, message):
        path = tmp_path / "v.csv"
        path.write_text(text)
        with pytest.raises(JudgeError, match=message):
            FileJudge(path)

    def test_no_table(self, tmp_path):
        with pytest.raises(JudgeError, match="cannot be read"):
            FileJudge(tmp_path / "absent.csv")
        with pytest.raises(JudgeError, match="ends in .csv or .jsonl"):
            FileJudge(tmp_path / "v.xlsx")


class TestHeuristics:
    def test_strongest_half(self):
        candidates = [candidate(f, effect) for f, effect in enumerate((0.1, -5.0, 2.0, -0.3))]
        judge = StrongestHalf(candidates)
        assert [judge(bare((c,))).verdict for c in candidates] == ["keep", "trim", "trim", "keep"]

    def test_one_square(self):
        rng = np.random.default_rng(0)

        def showing(**fixed: str) -> Showing:
            squares = {s: str(rng.choice(["mine", "yours", "empty"])) for s in SQUARES[:6]}
            return Showing(1.0, "", {**squares, **fixed})

        anywhere = tuple(showing(h8="empty") for _ in range(60))
        top = tuple(showing(h8="empty", b2="mine") for _ in range(60))
        card = Card((candidate(1),), top, anywhere)
        assert OneSquare()(card).verdict == "trim" and "b2 is mine" in OneSquare()(card).reason
        assert OneSquare()(replace(card, top=anywhere)).verdict == "keep"  # h8 is empty everywhere, so it says nothing
        assert OneSquare()(replace(card, top=top[:2])).verdict == "unsure"


def test_cards_show_what_the_feature_saw():
    """A model whose stream is its token's embedding, and a feature that fires on one move."""
    model, positions, token = flag_model(0, 5)
    site = find_site(model, "embed")
    dictionary = ReLUDictionary(ReLUConfig(8, 8), [site])
    dictionary.W_dec.data, dictionary.W_enc.data = torch.eye(8), torch.eye(8)
    fires, never = Candidate(site, 0, -0.5), Candidate(site, 1, 0.0)
    match = Match("mine f5", "f5", 0.9, 0.9, 0.9, 0, 0.1)
    cards = FeatureCards(
        model,
        {site: dictionary.requires_grad_(False)},
        [fires, never],
        OthelloBoards(positions),
        matches={("embed", 0): match},
    )
    card = cards((fires,))
    mask = torch.from_numpy(positions.mask)
    assert card.density == pytest.approx(float((positions.tokens[mask] == token).float().mean()))
    square = SQUARES[int(positions.moves[0, 10])]
    for showing in card.top:
        assert showing.activation == pytest.approx(2.0) and showing.squares[square] == "mine"
        line = next(row for row in showing.text.splitlines() if row.startswith(square[0]))
        assert line[2 + 3 * (int(square[1]) - 1) :].startswith("[X]")
        discs = showing.text.count("X") + showing.text.count("O")
        assert discs == sum(content != "empty" for content in showing.squares.values())
    assert len(card.random) == 12 and cards((never,)).top == ()
    text = card.text()
    assert "embed" in text and "-0.5" in text and "mine f5 (F1 0.90)" in text
    assert "mine f5" not in replace(card, match=None).text()
    assert "-1" in cards((fires, Candidate(site, 1, -0.5))).text()  # the effect of a group is that of all its members
