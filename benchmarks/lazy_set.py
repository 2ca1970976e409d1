"""Time to load one dictionary of 16384 features of 2304 numbers from a set, and what bfloat16 changes.

    python benchmarks/lazy_set.py [--device cuda]

Loading: from our folder in bf16 and in fp32, and from Gemma Scope's layout, into bf16; files come from the page cache.
Precision: L0, variance explained and features that go on or off in bfloat16 against float32 on the same activations,
for the shipped ReLU dictionaries and for a planted JumpReLU dictionary of that size. docs/scale.md has the result.
"""

import platform
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import tyro
from torch import Tensor

from boardgames.dictionaries import OTHELLO_DICTIONARIES
from boardgames.lm import load_othello_gpt
from boardgames.othello.rules import random_games
from boardgames.othello.transcript import PAD, to_tokens
from saes.architectures import AffineDictionary, JumpReLUConfig, JumpReLUDictionary
from saes.checkpoint import save_dictionary
from saes.dictionary_set import DictionarySet
from saes.sites import Site, capture


@dataclass(frozen=True)
class Settings:
    device: str = "cpu"
    width: int = 2304
    features: int = 16384
    rows: int = 256
    """activations for the precision of the planted dictionary"""
    repeats: int = 5


def planted(width: int, features: int, rows: int, active: int = 100) -> tuple[JumpReLUDictionary, Tensor]:
    """Random unit directions, rows that are sums of `active` of them, and thresholds halfway to their strength."""
    random = torch.Generator().manual_seed(0)
    dictionary = JumpReLUDictionary(JumpReLUConfig(width, features, center=False), [Site("resid_0", "resid_0")])
    dictionary.requires_grad_(False)
    dictionary.W_enc.copy_(dictionary.W_dec)
    dictionary.threshold.fill_(1.5)
    x = torch.zeros(rows, width)
    for row in x:
        chosen = torch.randperm(features, generator=random)[:active]
        strength = 2 + torch.rand(active, generator=random)
        row += strength @ dictionary.W_dec[chosen]
    return dictionary, x


def seconds(work: Callable[[], object], repeats: int, device: str) -> list[float]:
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        work()
        if device != "cpu":
            torch.cuda.synchronize()
        times.append(time.perf_counter() - start)
    return sorted(times)


def loading(settings: Settings, dictionary: AffineDictionary, folder: Path) -> None:
    print("| files | into | seconds: best | median |\n|---|---|---|---|")
    for name, dtype in (("bf16", torch.bfloat16), ("fp32", torch.float32)):
        save_dictionary(dictionary, folder / name, dtype=dtype)
    npz = folder / "gemma-scope-2b-pt-res/layer_0/width_16k/average_l0_71"
    npz.mkdir(parents=True)
    w = {name: t.numpy() for name, t in dictionary.state_dict().items()}
    np.savez(npz / "params.npz", **{**w, "W_enc": np.ascontiguousarray(w["W_enc"].T)})
    cases = [
        ("ours, bf16", folder / "bf16", torch.bfloat16),
        ("ours, fp32", folder / "fp32", torch.float32),
        ("ours, fp32", folder / "fp32", torch.bfloat16),
        ("Gemma Scope's npz", npz, torch.bfloat16),
    ]
    for name, source, dtype in cases:
        lazy = DictionarySet(source, dtype=dtype, device=settings.device, budget_bytes=0)
        (site,) = lazy
        times = seconds(lambda lazy=lazy, site=site: lazy[site], settings.repeats, settings.device)
        print(f"| {name} | {dtype} | {times[0]:.2f} | {times[len(times) // 2]:.2f} |".replace("torch.", ""))


def compared(name: str, dictionary: AffineDictionary, x: Tensor) -> None:
    """One line: bfloat16 weights, activations and products against float32."""
    f = dictionary.encode(x)
    low = type(dictionary)(dictionary.config, dictionary.reads)
    low.load_state_dict(dictionary.state_dict())
    low = low.bfloat16().requires_grad_(False)
    f_low = low.encode(x.bfloat16())
    whole = (x - x.mean(0)).square().sum()
    explained = [
        float(1 - (x - d.decode(g).float()).square().sum() / whole) for d, g in ((dictionary, f), (low, f_low))
    ]
    on, on_low = f != 0, f_low != 0
    l0, l0_low = float(on.sum(1).float().mean()), float(on_low.sum(1).float().mean())
    flips = float((on ^ on_low).sum() / on.sum())
    print(
        f"| {name} | {l0:.2f} | {l0_low:.2f} | {100 * flips:.2f} % | {explained[0]:.5f} | {explained[1]:.5f} |",
        flush=True,
    )


def main(settings: Settings) -> None:
    device = torch.cuda.get_device_name() if settings.device != "cpu" else platform.processor() or platform.machine()
    print(f"torch {torch.__version__}, {device}, {torch.get_num_threads()} threads\n")
    dictionary, x = planted(settings.width, settings.features, settings.rows)
    with tempfile.TemporaryDirectory() as folder:
        loading(settings, dictionary, Path(folder))
    print("\n| dictionary | L0 fp32 | bf16 | on or off differs | variance explained fp32 | bf16 |")
    print("|---|---|---|---|---|---|")
    model = load_othello_gpt()
    tokens = torch.as_tensor(to_tokens(random_games(100, np.random.default_rng(0))))[:, :59]
    shipped = DictionarySet(OTHELLO_DICTIONARIES, model=model)
    with torch.no_grad(), capture(model, shipped) as values:
        model(input_ids=tokens, use_cache=False)
    for site, one in shipped.items():
        if site.name in ("embed", "attn_1", "mlp_1", "resid_1", "resid_3"):
            compared(f"shipped, {site}", one, values[site][tokens != PAD])
    compared(f"planted JumpReLU, {settings.features} features of {settings.width}", dictionary, x)


if __name__ == "__main__":
    main(tyro.cli(Settings))
