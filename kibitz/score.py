"""`kibitz score`: how well single features of dictionaries know YOUR concepts, given as labels of tokens of any corpus.

Coverage and reconstruction as `kibitz board` has them (docs/metrics.md), with documents in place of games;
docs/score.md says how a table of labels is made.
"""

import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import tyro
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.label_tables import read_labels
from boardgames.labelled_corpus import LabelledCorpus, join
from boardgames.scoreboard import Scoreboard
from kibitz.chain.board import neurons_beside
from kibitz.corpora import CorpusOptions
from kibitz.evaluate import find_dictionaries, place_at
from kibitz.runs import check_replaceable, run_folder
from kibitz.score_results import ScoreResults
from kibitz.scored import Row, beside, measure
from saes.architectures import AffineDictionary
from saes.samples import Sample
from saes.sites import Site, SiteError


@dataclass(frozen=True)
class ScoreConfig(CorpusOptions):
    """Score dictionaries on your own concepts: a table of labels of tokens, for any model and corpus."""

    dictionaries: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of dictionaries, with others below them; folders of other tools; addresses on the hub"""
    labels: Path | None = None
    """a .npz or .parquet file: `document`, `token`, and a column of booleans for each concept (docs/score.md)"""
    concepts: tuple[str, ...] = ()
    """columns of labels to score; by default all"""
    site: str | None = None
    """for one dictionary: where to read the model; by default the site that it was trained at"""
    tokens: int = 100_000
    """of the corpus to read; fewer if the labels or the corpus end before"""
    selection_share: float = 0.5
    """share of the documents that features and thresholds are chosen on; the others are scored on"""
    baselines: bool = True
    """score what needs no dictionary too"""
    faithful: bool = True
    """measure L0, variance explained and loss recovered on the same tokens"""
    resampled: int = 1000
    """random weightings of the documents that intervals are taken from"""
    out: Path = Path("runs/score")
    """folder for scores.json and table.md; an earlier run there is replaced"""
    json: bool = False
    """print JSON in place of a table"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dictionaries:
            raise ValueError("no dictionary is given: name one or more folders")
        if self.labels is None:
            raise ValueError("no labels are given: --labels FILE, a table in .npz or .parquet")
        if self.corpus is None:
            raise ValueError(
                "labels are of documents of a corpus: give --corpus; `kibitz board` scores boards of games"
            )
        for name, least in (("tokens", 1), ("resampled", 0)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if not 0 < self.selection_share < 1:
            raise ValueError(f"selection_share is {self.selection_share}: choose a share between 0 and 1")


def run_score(config: ScoreConfig) -> str:
    """The table or JSON to print; the folder appears, or is replaced, only when all is done."""
    check_replaceable(config.out)
    assert config.labels is not None  # checked with the options
    table = read_labels(config.labels, config.concepts)
    places = find_dictionaries(config.dictionaries)
    if config.site is not None and len(places) > 1:
        raise ValueError(f"--site is for one dictionary, and there are {len(places)}")
    model = config.load_model()
    dictionaries = {name: place.read(device=model.device) for name, place in places.items()}
    for dictionary in dictionaries.values():
        place_at(model, dictionary, config.site)
    corpus = config.open_corpus(model, config.tokens)
    sample = Sample(corpus, config.tokens, batch_rows=config.batch_rows, drop_bos=config.drop_bos)
    inputs = {**{name: place.weights for name, place in places.items()}, "labels": config.labels}
    with run_folder(config.out, config, config.seed, inputs) as run:
        labelled = join(table, sample, config.selection_share, config.seed)
        print(labelled.said, file=sys.stderr, flush=True)
        results = _score(config, model, dictionaries, labelled, sample)
        results.write(run)
    return results.shown(config.json) + ("" if config.json else f"\nResults: {config.out}")


def _score(
    config: ScoreConfig,
    model: PreTrainedModel,
    dictionaries: Mapping[str, AffineDictionary],
    labelled: LabelledCorpus,
    sample: Sample,
) -> ScoreResults:
    sites = list(dict.fromkeys(site for d in dictionaries.values() for site in d.reads))
    neurons = {site: _neurons(model, site) if config.baselines else None for site in sites}
    board = Scoreboard(
        model,
        [*sites, *(site for site in neurons.values() if site is not None)],
        labelled.selection,
        labelled.scoring,
        resampled=config.resampled,
        each_property=True,
        seed=config.seed,
        batch_rows=config.batch_rows,
    )
    faithful = measure(model, dictionaries, sample, labelled.tokens) if config.faithful else {}
    rows, sizes = [], {site: [] for site in sites}
    with tqdm(total=len(dictionaries) + len(sites) * config.baselines, desc="score", unit="set") as bar:
        for name, dictionary in dictionaries.items():
            where = ",".join(site.name for site in dictionary.reads)
            features = board.features(dictionary)
            for site in dictionary.reads:
                sizes[site].append((dictionary.features, features.scoring.l0))
            scores = board.referee.score(*features)
            rows.append(Row(name, where, dictionary.features, faithful.get(name), scores))
            bar.update()
        for site in sites if config.baselines else ():
            found = beside(board, site, neurons[site], sizes[site])
            rows += [Row(name, site.name, count, scores=scores) for name, count, scores in found]
            bar.update()
    assert config.labels is not None
    return ScoreResults(config.labels.name, labelled, tuple(rows))


def _neurons(model: PreTrainedModel, site: Site) -> Site | None:
    """Those of the block that a site belongs to; None in a model that has none."""
    try:
        return neurons_beside(model, site.name).site
    except SiteError:
        return None
