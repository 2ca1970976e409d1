"""`kibitz harvest`: activations of a language model at several sites, from one pass over a corpus, to a folder.

The same command again goes on where the last one stopped, also after a kill; docs/corpora.md has the format.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from tqdm import tqdm

from kibitz.corpora import CorpusOptions
from saes.families import find_site, site_width
from saes.shard_writer import ShardPlan, prepare, size_sentence, write_shards
from saes.shards import StoredType


@dataclass(frozen=True)
class HarvestConfig(CorpusOptions):
    """Write activations of several sites, aligned by token, as checksummed shards; the same call again continues."""

    sites: tuple[str, ...] = ("resid_1",)
    """where to read the model, such as resid_1 mlp_1"""
    tokens: int = 1_000_000
    """how many to write; fewer if the corpus ends before"""
    dtype: StoredType = "fp16"
    """of the activations on disk; int8 has a scale for each token"""
    max_norm: float | None = None
    """leave out tokens whose norm at some site is more than so many times the median of their forward pass"""
    autocast: Literal["bfloat16", "float16"] | None = None
    """the type of the forward pass's matrix products, if not that of the model's weights"""
    shard_mib: int = 256
    """size of a shard, about"""
    out: Path = Path("runs/activations")
    """folder to write, or to go on with"""
    dry_run: bool = False
    """only say how large it would be"""

    def __post_init__(self) -> None:
        super().__post_init__()
        for name in ("tokens", "shard_mib"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")


def run_harvest(config: HarvestConfig) -> str:
    """The sentence to print; shards appear in the folder one by one, each whole."""
    model = config.load_model()
    sites = list(dict.fromkeys(find_site(model, name) for name in config.sites))
    plan = ShardPlan(
        {site: site_width(model, site) for site in sites},
        config.tokens,
        config.dtype,
        config.shard_mib << 20,
        config.batch_rows,
        config.drop_bos,
        config.model_identity(model),
        config.max_norm,
        config.autocast,
    )
    corpus = config.open_corpus(model, config.tokens)
    size = size_sentence(plan.total_bytes(corpus.layout.context))
    names = ", ".join(site.name for site in sites)
    sentence = f"{config.tokens} tokens at {names} in {config.dtype}: up to {size} in {config.out}"
    if config.dry_run:
        return sentence
    index = prepare(config.out, plan, corpus)
    kept = sum(shard["tokens"] for shard in index["shards"])
    print(sentence + (f"; {kept} tokens are there" if kept else ""), flush=True)
    try:
        with tqdm(total=config.tokens, desc="harvest", unit="token", unit_scale=True) as bar:
            index = write_shards(config.out, model, plan, corpus, progress=bar.update, report=bar.write)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(f"interrupted; the same command goes on with {config.out}") from None
    written, count = sum(shard["tokens"] for shard in index["shards"]), len(index["shards"])
    ended = "" if written == config.tokens else ", where the corpus ended"
    return f"{config.out}: {written} tokens in {count} shards{ended}"
