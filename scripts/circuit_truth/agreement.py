"""Subject-verb agreement on a real language model, with dictionaries trained here by our own recipe at a few layers."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from circuit_truth.sentences import check_unread, write_sentences
from circuits.attribution import counterfactual, site_values
from circuits.audit import audit_effects
from circuits.circuit_files import save_circuit
from circuits.curve_figures import draw_curves
from circuits.curves import CurveConfig, faithfulness_curves
from circuits.discover import CircuitConfig, find_circuit
from circuits.examples import Examples
from circuits.held_out import unseen
from circuits.metrics import LogitDifference, measure
from circuits.pairs import Reading, read_pairs
from circuits.provenance import provenance
from kibitz.circuit_problem import open_dictionaries
from kibitz.corpora import CorpusOptions
from kibitz.harvest import HarvestConfig, run_harvest
from kibitz.train import RunConfig, run_train
from saes.contexts import ContextCollector
from saes.dictionary import Dictionary
from saes.evaluation import evaluate_all
from saes.models import load_model, load_tokenizer
from saes.samples import Sample, TokenBatch
from saes.sites import Site

BEHAVIOURS = {
    "nounpp": "The uncles behind the dogs | do / does",
    "within_rc": "The athlete that the managers | like / likes",
}
"""files and an example; `simple` has 17 different prompts of one length, too few to find and measure apart"""


@dataclass(frozen=True)
class AgreementScale:
    sites: tuple[str, ...] = ("resid_5", "resid_11", "resid_17", "resid_23", "resid_29")
    tokens: int = 200_000
    """that dictionaries learn from, several times over"""
    max_norm: float = 5
    """tokens of more than so many times the median norm are left out: one in a thousand holds most of the variance"""
    context: int = 24
    architecture: str = "topk"
    """p-annealing computes through nearly all features at its start: ten times as long on a CPU"""
    k: int = 64
    expansion: int = 4
    steps: int = 1500
    batch_size: int = 1024
    learning_rate: float = 3e-3
    held_out: int = 3000
    """tokens that the dictionaries are scored on"""
    finding: int = 40
    """pairs of prompts, for each behaviour"""
    testing: int = 60
    steps_ig: int = 10
    nodes: int = 100
    """of the circuit whose strongest nodes are listed"""
    draws: int = 2
    """random circuits of each kind at each size"""


def train(scale: AgreementScale, model: str, text: Path, run: Path, device: str, seed: int) -> Path:
    """Text, activations and dictionaries, each gone on with where an earlier call stopped; the dictionaries' folder."""
    sentences = run / "sentences.txt"
    if not sentences.exists():
        write_sentences(text, seed, sentences, run / "held_out.txt")
    harvest = HarvestConfig(
        **_corpus(scale, model, sentences, device), sites=scale.sites, tokens=scale.tokens,
        max_norm=scale.max_norm, shard_mib=64, out=run / "acts",
    )  # fmt: skip
    print(run_harvest(harvest))
    check_unread(run / "acts", sentences)
    training = RunConfig(
        activations=run / "acts", sites=scale.sites, architecture=scale.architecture, ks=(scale.k,),
        expansion=scale.expansion, steps=scale.steps, batch_size=scale.batch_size,
        learning_rate=scale.learning_rate, seeds=(seed,), device=device, out=run / "training",
    )  # fmt: skip
    print(run_train(training))
    return run / "training" / "dictionaries"


def _corpus(scale: AgreementScale, model: str, text: Path, device: str) -> dict[str, Any]:
    return {
        "model": model, "corpus": str(text), "context": scale.context, "rows": "document", "bos": "none",
        "drop_bos": True, "batch_rows": 64, "device": device,
    }  # fmt: skip


def measure_agreement(
    scale: AgreementScale, model: str, text: Path, pairs: Path, run: Path, images: Path, device: str, seed: int
) -> dict[str, Any]:
    """All numbers as JSON; circuits in `run`, curves as figures in `images`."""
    folder = train(scale, model, text, run, device, seed)
    loaded, tokenizer = load_model(model, device=device), load_tokenizer(model)
    loaded.requires_grad_(False)
    dictionaries = dict(open_dictionaries(loaded, (str(folder),)))
    found = {
        name: _behaviour(scale, loaded, tokenizer, dictionaries, pairs, name, run, images, seed) for name in BEHAVIOURS
    }
    features = {
        site: sorted({n["feature"] for f in found.values() for n in f["strongest"] if n["site"] == site.name})
        for site in dictionaries
    }
    quality, contexts = _quality(scale, model, loaded, tokenizer, dictionaries, features, run, device)
    for behaviour in found.values():
        for node in behaviour["strongest"]:
            node["contexts"] = contexts[node["site"], node["feature"]]
    return {"model": Path(model).stem, "quality": quality, "behaviours": found}


def _behaviour(
    scale: AgreementScale,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dictionaries: Mapping[Site, Dictionary],
    folder: Path,
    name: str,
    run: Path,
    images: Path,
    seed: int,
) -> dict[str, Any]:
    """Found on pairs of the training file, measured on pairs of the test file; every position a place of its own."""
    finding, left_out = _examples(folder / f"{name}_train.json", tokenizer, scale.finding, seed)
    others, _ = _examples(folder / f"{name}_test.json", tokenizer, 2 * scale.testing, seed, finding.clean.shape[1])
    testing = unseen(others, finding)
    testing = testing.take(torch.arange(min(scale.testing, len(testing))))
    metric = LogitDifference()
    config = CircuitConfig(scale.nodes, edges=5 * scale.nodes, steps=scale.steps_ig, batch_size=8)
    with torch.no_grad():
        difference = measure(model, metric, testing.clean, testing)
    circuit = find_circuit(model, dictionaries, finding, metric, config)
    said = provenance(model, dictionaries, finding, metric, config, to=counterfactual)
    save_circuit(circuit.circuit.with_provenance(said), run / "circuits" / name)
    audit = audit_effects(
        model, dictionaries, finding.take(torch.arange(8)), metric, counterfactual, config, nodes=40, seed=seed
    )
    print(audit.sentence())
    curves = faithfulness_curves(
        model, dictionaries, finding, testing, metric, counterfactual,
        CurveConfig(per_decade=2, draws=scale.draws, nominal=False, batch_size=30, seed=seed), config,
    )  # fmt: skip
    print(curves.sentence())
    draw_curves(curves, images / f"circuit_agreement_{name}.png", f"{name}: {BEHAVIOURS[name]}")
    words = [str(tokenizer.decode([t])) for t in finding.clean[0].tolist()]
    strongest = sorted(circuit.circuit.nodes.items(), key=lambda item: -abs(item[1]))
    total = sum(abs(effect) for effect in circuit.circuit.nodes.values())
    return {
        "prompt": words,
        "finding": len(finding),
        "testing": len(testing),
        "left out": left_out,
        "right": float((difference > 0).float().mean()),
        "difference": float(difference.mean()),
        "gaps": {site.name: gap for site, gap in circuit.gaps.items()},
        "error share": sum(abs(e) for node, e in circuit.circuit.nodes.items() if node.feature is None) / total,
        "audit": audit.to_json(),
        "audit said": audit.sentence(),
        "curves": curves.to_json(),
        "said": curves.sentence(),
        "strongest": [
            {"site": node.site, "feature": node.feature, "position": int(node.place), "effect": effect}
            for node, effect in strongest
            if node.feature is not None
        ][:8],
    }


def _examples(
    file: Path, tokenizer: PreTrainedTokenizerBase, count: int, seed: int, length: int | None = None
) -> tuple[Examples, dict[str, int]]:
    """The first pairs of the most frequent (or a given) length, in an order that the seed draws."""
    pairs = read_pairs(file, tokenizer, Reading(bos=False, unequal="skip", long_answers="skip"))
    lengths = Counter(len(pair.clean) for pair in pairs.pairs)
    wanted = lengths.most_common(1)[0][0] if length is None else length
    order = torch.randperm(len(pairs), generator=torch.Generator().manual_seed(seed)).tolist()
    kept = [pairs.pairs[i] for i in order if len(pairs.pairs[i].clean) == wanted]
    chosen = replace(pairs, pairs=tuple({pair.key(0): pair for pair in kept}.values())[:count])
    left = {**pairs.skipped, f"prompts of other than {wanted} tokens": len(pairs) - len(kept)}
    return chosen.examples(explain="clean").by_position(), left


def _quality(
    scale: AgreementScale,
    path: str,
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dictionaries: Mapping[Site, Dictionary],
    features: Mapping[Site, list[int]],
    run: Path,
    device: str,
) -> tuple[dict[str, Any], dict[tuple[str, int], list[str]]]:
    """Each dictionary on sentences that it never saw, and where some features are most active there."""
    options = CorpusOptions(**_corpus(scale, path, run / "held_out.txt", device))
    sample = Sample(options.open_corpus(model, scale.held_out), scale.held_out, batch_rows=64, drop_bos=True)
    collectors = {
        site: ContextCollector(dictionaries[site], chosen, count=4, window=4)
        for site, chosen in features.items()
        if chosen
    }

    def observe(batch: Any, values: Any) -> None:
        for collector in collectors.values():
            collector.observe(batch, values)

    batches = [_without_outliers(scale, model, list(dictionaries), batch) for batch in sample]
    with tqdm(total=2 * scale.held_out, desc="quality", unit="token") as bar:
        scored = evaluate_all(model, list(dictionaries.values()), batches, observe=observe, progress=bar.update)
    quality = {site.name: each.quality.to_json() for site, each in zip(dictionaries, scored, strict=True)}
    contexts = {
        (site.name, found.feature): [_said(tokenizer, context) for context in found.top]
        for site, collector in collectors.items()
        for found in collector.contexts()
    }
    return quality, contexts


def _without_outliers(
    scale: AgreementScale, model: PreTrainedModel, sites: Sequence[Site], batch: TokenBatch
) -> TokenBatch:
    """The tokens that count, less those of large norm at some site, as in training."""
    norms = [x.norm(dim=-1).cpu() for x in site_values(model, sites, batch.rows.tokens).values()]
    usual = [norm <= scale.max_norm * norm[batch.keep].median() for norm in norms]
    return TokenBatch(batch.rows, batch.keep & torch.stack(usual).all(0))


def _said(tokenizer: PreTrainedTokenizerBase, context: Any) -> str:
    """A few tokens, the active one in brackets."""
    words = [str(tokenizer.decode([t])) for t in context.tokens]
    words[context.position] = f"[{words[context.position]}]"
    return "".join(words).replace("\n", " ").strip()
