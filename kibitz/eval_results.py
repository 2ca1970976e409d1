"""What `kibitz eval` found: as a table, as JSON, as plots, and in SAEBench's layout."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from kibitz.corpora import CorpusOptions
from saes.architectures import AffineDictionary
from saes.densities import NearestRows, cosine_histogram, frequency_histogram, plot_histograms
from saes.evaluation import Evaluation
from saes.files import write_json, write_text
from saes.saebench import core_result
from saes.samples import Sample
from saes.sweep import aligned

_COLUMNS = {
    "l0": "L0",
    "variance_explained": "variance",
    "mse": "MSE",
    "cosine": "cosine",
    "loss_recovered": "loss rec. (zero)",
    "loss_recovered_mean": "loss rec. (mean)",
    "kl": "KL",
}


@dataclass(frozen=True)
class Results:
    """What is known of each dictionary, by name."""

    asked: int
    dictionaries: Mapping[str, AffineDictionary]
    evaluations: Mapping[str, Evaluation]
    nearest: Mapping[str, NearestRows]
    boards: Mapping[str, dict[str, object]]

    @property
    def tokens(self) -> int:
        return next(iter(self.evaluations.values())).quality.tokens

    def shown(self, as_json: bool) -> str:
        """For the terminal."""
        return json.dumps(self.to_json(), indent=2, allow_nan=False) if as_json else self.table()

    def to_json(self) -> dict[str, Any]:
        rows = []
        for name, dictionary in self.dictionaries.items():
            evaluation = self.evaluations[name]
            rows.append(
                {
                    "name": name,
                    "architecture": dictionary.architecture,
                    "reads": [site.name for site in dictionary.reads],
                    "writes": [site.name for site in dictionary.writes],
                    "features": dictionary.features,
                    "sae": evaluation.quality.to_json(),
                    "log10_frequency": frequency_histogram(evaluation.features).to_json(),
                    "decoder_cosine": cosine_histogram(self.nearest[name].absolute).to_json(),
                    "board": self.boards.get(name),
                }
            )
        return {"tokens": self.tokens, "tokens_asked": self.asked, "dictionaries": rows}

    def table(self) -> str:
        """One row a dictionary; ± one standard error."""
        header = ["dictionary", "site", "features", *_COLUMNS.values(), "alive", "dead", "dense"]
        header += ["coverage", "reconstruction"] if self.boards else []
        rows = []
        for name, dictionary in self.dictionaries.items():
            quality = self.evaluations[name].quality
            sites = [",".join(map(str, part)) for part in (dictionary.reads, dictionary.writes)]
            cells = [name, ">".join(dict.fromkeys(sites)), str(dictionary.features)]
            cells += [_with_error(getattr(quality, key), quality.standard_errors[key]) for key in _COLUMNS]
            cells += [f"{share:.3f}" for share in (quality.alive, quality.dead, quality.dense)]
            if self.boards:
                board = self.boards.get(name, {})
                cells += [f"{board[key]:.3f}" if key in board else "" for key in ("coverage", "reconstruction")]
            rows.append(cells)
        first = next(iter(self.evaluations.values())).quality
        said = f"{first.tokens} tokens in {first.rows} rows"
        if self.tokens < self.asked:
            said += f", where the corpus ended: {self.asked} were asked for"
        return f"{aligned(rows, header)}\n{said}; ± one standard error, rows as units"

    def write(self, run: Path, config: CorpusOptions, sample: Sample) -> None:
        """All but the contexts."""
        write_json(run / "results.json", self.to_json())
        write_text(run / "table.txt", self.table() + "\n")
        frequencies = {name: frequency_histogram(each.features) for name, each in self.evaluations.items()}
        plot_histograms(frequencies, run / "density.png", "log10 of the share of tokens where a feature fires", "dead")
        cosines = {name: cosine_histogram(each.absolute) for name, each in self.nearest.items()}
        plot_histograms(cosines, run / "decoder_cosine.png", "largest |cosine| with another decoder row")
        for name, dictionary in self.dictionaries.items():
            result = core_result(
                dictionary,
                self.evaluations[name],
                name=file_name(name),
                release="kibitz",
                model=Path(config.model_source).name,
                corpus=config.corpus or str(config.games or "random Othello games"),
                context=sample.corpus.layout.context,
                batch_rows=config.batch_rows,
                drop_bos=config.drop_bos,
                model_dtype=config.model_dtype,
                decoder=self.nearest[name],
            )
            write_json(run / "eval_results" / "core" / f"kibitz_{file_name(name)}_eval_results.json", result)


def file_name(name: str) -> str:
    """A dictionary's name as part of a file's."""
    return name.replace("/", "_")


def _with_error(value: float, error: float) -> str:
    """42.31±0.04: as many decimals as show one digit of the error, six at most."""
    if not error > 0:
        return f"{value:.4g}"
    decimals = min(max(0, -math.floor(math.log10(error))), 6)
    return f"{value:.{decimals}f}±{error:.{decimals}f}"
