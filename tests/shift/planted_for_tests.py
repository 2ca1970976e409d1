"""A planted confound: a model whose embedding holds two properties, true dictionaries, and a perfect judge."""

from pathlib import Path

import torch
from transformers import GPT2Config, GPT2LMHeadModel

from boardgames.matching import Match
from saes.architectures import ReLUConfig, ReLUDictionary
from saes.families import circuit_sites, find_site
from shift.concept_oracle import ConceptOracle
from shift.contest import Contest
from shift.labelled import Labelled
from shift.preparing import prepare
from shift.reading import Reading
from shift.scoring import judge_all, open_contest
from shift.task import Ambiguous, Balanced, BalancedSplits, Sealed, ShiftTask

INTENDED, SPURIOUS = 0, 1  # coordinates of the embedding that hold the two properties
WIDTH = 16


class Planted:
    """Tokens are (intended, spurious, nuisance) triples, embedded as such; the dictionary is true.

    `opened` lists the openings of the balanced set. `labelled` is of a sample of its own, spoilt by a correlation of
    the two properties.
    """

    def __init__(self, folder: Path, reading: Reading | None = None, length: int = 2) -> None:
        torch.manual_seed(0)
        config = GPT2Config(
            vocab_size=64, n_positions=4, n_embd=WIDTH, n_layer=1, n_head=1, bos_token_id=None, eos_token_id=None
        )
        self.model = GPT2LMHeadModel(config).eval().requires_grad_(False)
        token = torch.arange(64)
        intended, spurious = token % 2 == 1, token // 2 % 2 == 1
        embedding = 0.1 * torch.randn(64, WIDTH)
        embedding[:, INTENDED], embedding[:, SPURIOUS] = intended * 2.0 - 1, spurious * 6.0 - 3
        self.model.transformer.wte.weight.copy_(embedding)
        self.model.transformer.wpe.weight.zero_()
        for module in (self.model.transformer.h[0].attn.c_proj, self.model.transformer.h[0].mlp.c_proj):
            module.weight.zero_()
        self.dictionaries = {}
        for site in circuit_sites(self.model):
            d = ReLUDictionary(ReLUConfig(WIDTH, 2 * WIDTH), [site])
            d.W_dec.data = torch.cat([torch.eye(WIDTH), -torch.eye(WIDTH)])
            d.W_enc.data = d.W_dec.data.clone()
            self.dictionaries[site] = d.requires_grad_(False)
        self.opened: list[int] = []
        self.path = folder / "judgements.jsonl"

        def draw(kept, seed: int):
            rows = torch.randint(64, (4000,), generator=torch.Generator().manual_seed(seed))
            rows = rows[kept(intended[rows], spurious[rows], torch.arange(4000))]
            tokens = rows[:, None].repeat(1, length)
            return tokens, torch.full((len(rows),), length - 1), intended[rows], spurious[rows]

        def agree(a, b, row):
            return a == b

        def every(a, b, row):
            return row >= 0

        def mostly_agree(a, b, row):
            return (a == b) | (row % 3 == 0)

        def generate(opening):
            self.opened.append(opening.key("planted"))
            return BalancedSplits(Balanced(*draw(every, 3)), Balanced(*draw(every, 4)))

        self.task = ShiftTask(
            "planted",
            "intended",
            "spurious",
            reading or Reading(find_site(self.model, "resid_0")),
            Ambiguous(*draw(agree, 1)[:3]),
            Ambiguous(*draw(agree, 2)[:3]),
            Sealed("planted", generate),
        )
        self.labelled = Labelled(*draw(mostly_agree, 5))

    def oracle(self) -> ConceptOracle:
        """Knows what every feature detects."""

        def match(feature: int) -> Match:
            square = {INTENDED: "a", SPURIOUS: "b"}.get(feature % WIDTH, "")
            return Match(f"about {square}", square, 1.0, 1.0, 1.0, 0, 0.5)

        matches = {(s.name, f): match(f) for s in self.dictionaries for f in range(2 * WIDTH)}
        depends = {"about a": frozenset("a"), "about b": frozenset("b"), "about ": frozenset()}
        return ConceptOracle(matches, depends, frozenset("a"), frozenset("b"))

    def contest(self, **settings) -> Contest:
        """Judged by the oracle, frozen and opened; small sizes."""
        task = self.task
        prepared = prepare(self.model, self.dictionaries, task, candidates=12, examples=40, steps=3, progress=False)
        frozen = judge_all(prepared, self.oracle(), self.path, task)
        given = {"labelled": self.labelled, "examples": 40, "steps": 3, "progress": False, **settings}
        return open_contest(self.model, self.dictionaries, task, prepared, frozen, **given)
