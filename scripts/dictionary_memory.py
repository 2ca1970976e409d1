"""What a set of dictionaries for every site of a 2B model takes, in numbers, bytes and traffic (docs/scale.md).

    python scripts/dictionary_memory.py

Gemma 2 2B: 26 blocks, residual stream 2304 wide, concatenated heads 2048 wide, 2,614,341,888 parameters (embeddings
counted once). GB are 1e9 bytes. Nothing is measured: sizes are those of the parameters, the bus has its nominal speed.
"""

from dataclasses import dataclass

import torch

from saes.architectures import JumpReLUConfig, JumpReLUDictionary
from saes.dictionary_set import bytes_of
from saes.sites import Site

STREAM, HEADS, BLOCKS, MODEL = 2304, 2048, 26, 2_614_341_888
CARD = 24.0
"""GB"""
BUSES = {"PCIe 4.0 x16": 31.5, "PCIe 5.0 x16": 63.0}
"""GB/s, nominal"""


@dataclass(frozen=True)
class Row:
    name: str
    widths: dict[int, int]
    """how many dictionaries of a width"""
    features: int

    @property
    def count(self) -> int:
        return sum(self.widths.values())

    @property
    def numbers(self) -> int:
        return sum(count * numbers(width, self.features) for width, count in self.widths.items())


def numbers(width: int, features: int) -> int:
    """Parameters of a JumpReLU dictionary: 2 D F + 2 F + D."""
    with torch.device("meta"):
        dictionary = JumpReLUDictionary(JumpReLUConfig(width, features, center=False), [Site("site", "site")])
    return bytes_of(dictionary) // 4


def rows(features: int) -> list[Row]:
    return [
        Row("one of width 2304", {STREAM: 1}, features),
        Row("one of width 2048 (heads)", {HEADS: 1}, features),
        Row("attn, mlp, resid of 23 blocks, all 2304 wide", {STREAM: 69}, features),
        Row("heads, mlp, resid of 23 blocks", {STREAM: 46, HEADS: 23}, features),
        Row("heads, mlp, resid of 26 blocks", {STREAM: 52, HEADS: 26}, features),
        Row("the same and embed", {STREAM: 53, HEADS: 26}, features),
    ]


def table() -> str:
    model = 2 * MODEL / 1e9
    lines = [
        f"Model in bf16: {model:.2f} GB; {CARD - model:.1f} GB of a {CARD:.0f} GB card are left for dictionaries and "
        "activations.",
        "",
        "| set | F | dictionaries | numbers | fp32 GB | bf16 GB | bf16 beside the model, GB | "
        + " | ".join(f"whole set over {bus}, s" for bus in BUSES)
        + " |",
        "|---|---|---|---|---|---|---|" + "---|" * len(BUSES),
    ]
    for features in (16384, 65536):
        for row in rows(features):
            fp32, bf16 = 4 * row.numbers / 1e9, 2 * row.numbers / 1e9
            beside = f"{model + bf16:.1f}" + ("" if model + bf16 < CARD else " (does not fit)")
            traffic = " | ".join(f"{bf16 / speed:.2f}" for speed in BUSES.values())
            lines.append(
                f"| {row.name} | {features} | {row.count} | {row.numbers:,} | {fp32:.3f} | {bf16:.3f} | {beside} | "
                f"{traffic} |"
            )
    lines += [
        "",
        "| budget, GB | dictionaries of 2304 x 16384 in bf16 that stay | left for activations, GB |",
        "|---|---|---|",
    ]
    one = 2 * numbers(STREAM, 16384) / 1e9
    for budget in (2.0, 4.0, 8.0, 12.0):
        # the budget, and one that a caller holds while the next is loaded
        lines.append(f"| {budget:.0f} | {int(budget // one)} | {CARD - model - budget - one:.1f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    print(table())
