"""`kibitz eval`: how faithful and how sparse saved dictionaries are, on one corpus, from shared passes of one model.

docs/evaluation.md defines the numbers. With games as the corpus the dictionaries' knowledge of the board is scored too.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import tyro
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.othello.rules import square_name
from boardgames.othello.streams import stream
from boardgames.othello.transcript import SQUARE_OF_TOKEN, GamesError
from kibitz.chain.board import score_boards
from kibitz.chain.games import Games, prepare_games
from kibitz.corpora import CorpusOptions
from kibitz.eval_results import Results, file_name
from kibitz.runs import check_replaceable, run_folder
from saes.architectures import AffineDictionary
from saes.contexts import ContextCollector, write_contexts
from saes.densities import nearest_rows
from saes.evaluation import evaluate_all
from saes.families import find_site, site_width
from saes.models import ModelError, load_tokenizer
from saes.released import Place, fit, locate
from saes.samples import Sample

_GAMES_PER_SPLIT = 1000


@dataclass(frozen=True)
class EvalConfig(CorpusOptions):
    """Score dictionaries: L0, variance explained, MSE, cosine, loss recovered, KL, densities, and boards for games."""

    dictionaries: tyro.conf.Positional[tuple[str, ...]] = ()
    """folders of dictionaries, with others below them; folders of other tools; addresses on the hub,
    owner/name[:folder/in/it][@revision]"""
    site: str | None = None
    """for one dictionary: where to read the model; by default the site that it was trained at"""
    tokens: int = 100_000
    """how many to measure on; fewer if the corpus ends before"""
    boards: bool = True
    """where the corpus is games: also score how well features know the board, on 2,000 other games"""
    contexts: int = 0
    """positions to write of each kind and feature: the strongest, a sample of each octave, a sample of all"""
    features: tuple[int, ...] = ()
    """whose contexts to write; by default all features"""
    window: int = 10
    """tokens to show on each side of a position"""
    bands: int = 5
    """octaves of activation to sample"""
    out: Path | None = None
    """folder for results.json, table.txt, plots, SAEBench's JSON and contexts; an earlier run there is replaced"""
    json: bool = False
    """print JSON in place of a table"""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not self.dictionaries:
            raise ValueError("no dictionary is given: name one or more folders")
        for name, least in (("tokens", 1), ("contexts", 0), ("window", 0), ("bands", 1)):
            if getattr(self, name) < least:
                raise ValueError(f"{name} is {getattr(self, name)}: choose {least} or more")
        if self.contexts and self.out is None:
            raise ValueError("contexts are written to a folder: give --out")
        if self.features and not self.contexts:
            raise ValueError("--features are those whose contexts are written: give --contexts with their number")


def run_eval(config: EvalConfig) -> str:
    """The table or JSON to print; the folder appears, or is replaced, only when all is done."""
    places = find_dictionaries(config.dictionaries)
    if config.site is not None and len(places) > 1:
        raise ValueError(f"--site is for one dictionary, and there are {len(places)}")
    if config.out is not None:
        check_replaceable(config.out)
    model = config.load_model()
    dictionaries = {name: place.read(device=model.device) for name, place in places.items()}
    for dictionary in dictionaries.values():
        place_at(model, dictionary, config.site)
    sample = Sample(
        config.open_corpus(model, config.tokens), config.tokens, batch_rows=config.batch_rows, drop_bos=config.drop_bos
    )
    games = _games(config)
    if config.out is None:
        return _measure(config, model, dictionaries, sample, games).shown(config.json)
    inputs = {name: place.weights for name, place in places.items()}
    with run_folder(config.out, config, config.seed, inputs) as run:
        measured = _measure(config, model, dictionaries, sample, games, run)
        measured.write(run, config, sample)
    return measured.shown(config.json) + ("" if config.json else f"\nResults and plots: {config.out}")


def find_dictionaries(sources: tuple[str, ...]) -> dict[str, Place]:
    """Dictionaries by their shortest names that differ; FileError where none is.

    A source is an address on the hub, a folder of another tool, or a folder with ours anywhere below it.
    """
    found: list[Place] = []
    for source in sources:
        found += [Place(source, folder, "kibitz") for folder in ours_below(source)] or locate(source)
    by_path = {(p.folder if p.layer is None else p.weights).resolve(): p for p in found}
    return {_short_name(path, list(by_path)): place for path, place in by_path.items()}


def ours_below(source: str) -> list[Path]:
    """The folders of our dictionaries anywhere below a folder, but for checkpoints; none where it is an address."""
    path = Path(source).expanduser()
    return [file.parent for file in sorted(path.rglob("dictionary.safetensors")) if not _hidden(file, path)]


def _short_name(path: Path, among: list[Path]) -> str:
    """The fewest last parts of a path that no other ends in."""
    others = [other for other in among if other != path]
    lengths = range(1, len(path.parts) + 1)
    depth = next(d for d in lengths if all(other.parts[-d:] != path.parts[-d:] for other in others))
    return "/".join(path.parts[-depth:]).strip("/")


def _hidden(file: Path, above: Path) -> bool:
    """In a folder of checkpoints, or in one whose name begins with a dot."""
    parts = file.relative_to(above).parts
    return any(part.startswith(".") or part.startswith("checkpoint") for part in parts)


def place_at(model: PreTrainedModel, dictionary: AffineDictionary, site: str | None) -> None:
    """Put a dictionary at sites of this model: those of its own names, or one that is asked for."""
    if site is not None:
        dictionary.site  # noqa: B018  # SiteError unless it reads and writes one site
        dictionary.reads = dictionary.writes = (find_site(model, site),)
    else:
        fit(model, dictionary.reads, dictionary.writes).put(dictionary)
    dictionary.check_width(sum(site_width(model, each) for each in dictionary.reads))  # before a corpus is opened


def _measure(
    config: EvalConfig,
    model: PreTrainedModel,
    dictionaries: Mapping[str, AffineDictionary],
    sample: Sample,
    games: Games | None,
    run: Path | None = None,
) -> Results:
    collectors = {
        name: ContextCollector(
            dictionary,
            config.features or None,
            count=config.contexts,
            window=config.window,
            bands=config.bands,
            seed=config.seed,
        )
        for name, dictionary in (dictionaries.items() if config.contexts else ())
    }

    def observe(batch: Any, values: Any) -> None:
        for collector in collectors.values():
            collector.observe(batch, values)

    with tqdm(total=2 * config.tokens, desc="eval", unit="token", unit_scale=True) as bar:
        found = evaluate_all(model, list(dictionaries.values()), sample, observe=observe, progress=bar.update)
    spell = _speller(config)
    for name, collector in collectors.items():
        assert run is not None  # checked with the options
        write_contexts(run / "contexts" / f"{file_name(name)}.jsonl", collector.contexts(), spell)
    nearest = {name: nearest_rows(dictionary.W_dec) for name, dictionary in dictionaries.items()}
    boards = {} if games is None else _score_boards(model, dictionaries, games)
    return Results(config.tokens, dictionaries, dict(zip(dictionaries, found, strict=True)), nearest, boards)


def _games(config: EvalConfig) -> Games | None:
    """Games to score boards on, other random ones than those of the corpus; None where boards are not scored."""
    if config.corpus is not None or not config.boards:
        return None
    try:
        return prepare_games(config.games, 0, _GAMES_PER_SPLIT, 0, stream("eval", config.seed))
    except GamesError as error:
        raise GamesError(f"{error}; --no-boards leaves the boards out") from None


def _score_boards(
    model: PreTrainedModel, dictionaries: Mapping[str, AffineDictionary], games: Games
) -> dict[str, dict[str, object]]:
    """Coverage and reconstruction of every SAE; a transcoder or crosscoder has none."""
    saes = {name: d for name, d in dictionaries.items() if d.reads == d.writes and len(d.reads) == 1}
    scored = tqdm(saes.items(), desc="boards", unit="dictionary", disable=len(saes) < 2)
    return {name: score_boards(model, each, games.selection, games.scoring).summary() for name, each in scored}


def _speller(config: EvalConfig) -> Callable[[int], str] | None:
    """Token ids to texts: squares for games, the tokenizer's pieces where there is a tokenizer."""
    if config.corpus is None:
        return lambda token: square_name(int(SQUARE_OF_TOKEN[token]))
    try:
        tokenizer = load_tokenizer(config.model_source)
    except ModelError:
        return None
    return lambda token: str(tokenizer.decode([token]))
