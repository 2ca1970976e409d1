"""The section of docs/results/circuits.md about subject-verb agreement, written of the measured numbers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from circuit_truth.agreement import BEHAVIOURS


def section(result: Mapping[str, Any]) -> list[str]:
    """Markdown; `result` holds `scale` and what circuit_truth.agreement.measure_agreement found."""
    scale, found = result["scale"], result["found"]
    lines = [
        "## Subject-verb agreement on a real language model",
        "",
        f"{found['model']} (30 layers, width 576), with dictionaries of {scale['expansion']} x 576 features trained "
        f"by `kibitz train` ({scale['architecture']}, k {scale['k']}, {scale['steps']:,} steps of "
        f"{scale['batch_size']:,}) at {', '.join(scale['sites'])}, on {scale['tokens']:,} tokens of WikiText-2, "
        "TinyStories, GAP and BOLD sentences, one a row as the prompts are. That is little: dictionaries of the "
        f"literature saw a thousand times as many. How good they are, on {scale['held_out']:,} tokens of sentences "
        "that they never saw:",
        "",
        "| site | L0 | variance explained | loss recovered | KL | alive |",
        "|---|---|---|---|---|---|",
        *(_quality(site, numbers) for site, numbers in found["quality"].items()),
        "",
        f"Tokens of more than {scale['max_norm']:g} times the median norm count neither in training nor here: a few "
        "massive activations hold most of the variance. Loss recovered is against setting the site to zero. Nodes "
        "are features and errors at each position; blocks between the sites are computed anew. Circuits are found "
        "on pairs of the train files and measured on pairs of the test files that did not find them (integrated "
        f"gradients, {scale['steps_ig']} steps; metric: logit difference between the verb that agrees with the clean "
        "and that with the patch subject).",
        "",
    ]
    for name, behaviour in found["behaviours"].items():
        lines += _behaviour(name, behaviour)
    return lines


def _quality(site: str, q: Mapping[str, Any]) -> str:
    return (
        f"| {site} | {q['l0']:.1f} | {q['variance_explained']:.3f} | {q['loss_recovered']:.3f} | {q['kl']:.2f} | "
        f"{q['alive']:.0%} |"
    )


def _behaviour(name: str, b: Mapping[str, Any]) -> list[str]:
    curves = b["curves"]
    features, neurons = curves["features"], curves["neurons"]
    lines = [
        f"### {name}: {BEHAVIOURS[name].replace('|', '...')}",
        "",
        f"Found on {b['finding']} pairs of {len(b['prompt'])} tokens, measured on {b['testing']}; the model is right "
        f"on {b['right']:.0%} of them (mean difference {b['difference']:.2f}). {_said(b['left out'])} Largest gap of "
        f"a site's effects: {max(b['gaps'].values()):.1%} of what the whole site does. {b['audit said']} "
        "Error nodes hold "
        f"{b['error share']:.0%} of the absolute effect of the circuit of 100 nodes.",
        "",
        f"![faithfulness over circuit size, {name}](../img/circuit_agreement_{name}.png)",
        "",
        "| kept nodes | of them errors | faithfulness | errors all kept | errors removed | completeness | random | "
        "matched |",
        "|---|---|---|---|---|---|---|---|",
    ]
    bands = {
        band["kind"]: dict(zip(band["sizes"], np.array(band["faithfulness"]).mean(0), strict=True))
        for band in features["bands"]
    }
    for point in features["points"]:
        s = point["score"]
        numbers = [s[k]["value"] for k in ("faithfulness", "errors_kept", "errors_removed", "completeness")]
        random = [bands[kind].get(point["size"]) for kind in ("uniform", "matched")]
        shown = [*(f"{n:.2f}" for n in numbers), *("" if r is None else f"{r:.2f}" for r in random)]
        lines.append(f"| {point['size']} | {point['errors']} | " + " | ".join(shown) + " |")
    half = [_half(curve) for curve in (features, neurons)]
    lines += [
        "",
        f"{b['said']} Half of the behaviour is reached with {half[0]} of {features['active']} active features and "
        f"errors, and with {half[1]} of {neurons['active']} neurons.",
        "",
        "The strongest features, and where they are most active on text that found nothing:",
        "",
        "| site | at | effect | feature | contexts |",
        "|---|---|---|---|---|",
    ]
    for node in b["strongest"]:
        contexts = "; ".join(c.replace("|", "\\|") for c in node["contexts"][:3]) or "never active there"
        word = b["prompt"][node["position"]].strip()
        lines.append(
            f"| {node['site']} | {node['position']} ({word}) | {node['effect']:+.3f} | {node['feature']} | {contexts} |"
        )
    return [*lines, ""]


def _half(curve: Mapping[str, Any]) -> str:
    """The first measured size with faithfulness of a half or more."""
    reached = [p["size"] for p in curve["points"] if p["score"]["faithfulness"]["value"] >= 0.5]
    return str(reached[0]) if reached else "none"


def _said(left_out: Mapping[str, int]) -> str:
    said = [f"{count} with {why}" for why, count in left_out.items() if count]
    return f"Left out of the train file: {', '.join(said)}." if said else ""
