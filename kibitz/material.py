"""What a run of `kibitz train` learns from and is scored on: a model that reads a corpus, or activations on disk."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor
from transformers import PreTrainedModel

from kibitz.corpora import CorpusOptions
from saes.architectures import AffineDictionary
from saes.buffer import ActivationBuffer, RowBuffer
from saes.evaluation import evaluate_all
from saes.families import find_site, site_width
from saes.files import sha256
from saes.models import DTYPES
from saes.ranks import ALONE, Ranks, RanksError
from saes.row_sources import CorpusRows, MemoryRows, RowSource
from saes.samples import in_batches
from saes.shards import INDEX, ActivationShards, ShardStream
from saes.sites import Site
from saes.sources import CorpusError
from saes.streams import Activations

GAME_TOKENS = 1_000_000  # of random games, where nothing else is given: they are held in memory and read again
GAME_ROWS = 2048  # of a refill
REFILL_TOKENS = 1 << 17  # of a corpus
SCORED = 16  # batches


@dataclass(frozen=True)
class ShardMaterial:
    """Activations on disk; without the model nothing can be said of its loss."""

    shards: ActivationShards
    widths: dict[Site, int]
    stream: ShardStream
    device: torch.device

    def identity(self) -> dict[str, Any]:
        """The index holds the checksums of all activations."""
        return {"activations": sha256(self.shards.folder / INDEX)}

    def unseen(self, batch_size: int, steps: int) -> list[Activations]:
        """The batches that would come next."""
        return list(islice(self.stream.batches(steps), SCORED))

    def qualities(self, dictionaries: Sequence[AffineDictionary]) -> list[dict[str, float]]:
        return [{} for _ in dictionaries]

    def note(self) -> str:
        return f"Scored on the {SCORED} batches behind those of training."


@dataclass(frozen=True)
class ModelMaterial:
    """A model, the rows that it reads in training, and the first rows of the corpus, kept apart."""

    model: PreTrainedModel
    widths: dict[Site, int]
    stream: RowBuffer
    held_out: Int[Tensor, "rows length"]
    mask: Bool[Tensor, "rows length"]
    batch_rows: int
    model_identity: dict[str, Any]
    corpus_identity: dict[str, Any]

    @property
    def device(self) -> torch.device:
        return self.model.device

    def identity(self) -> dict[str, Any]:
        return {"model": self.model_identity, "corpus": self.corpus_identity}

    def unseen(self, batch_size: int, steps: int) -> list[Activations]:
        """Batches of the rows that were kept apart."""
        positions = int(self.mask.sum())
        size = min(batch_size, positions)
        buffer = ActivationBuffer(
            self.model,
            list(self.widths),
            self.held_out,
            self.mask,
            batch_size=size,
            rows_per_refill=len(self.held_out),
            batch_rows=self.batch_rows,
            prefetch=False,
        )
        return list(islice(buffer.batches(), min(SCORED, positions // size)))

    def qualities(self, dictionaries: Sequence[AffineDictionary]) -> list[dict[str, float]]:
        """What the model loses when each dictionary stands in for its site, from shared passes."""
        batches = in_batches(self.held_out, self.mask, self.batch_rows)
        found = evaluate_all(self.model, dictionaries, batches)
        return [{"loss_recovered": each.quality.loss_recovered, "kl": each.quality.kl} for each in found]

    def note(self) -> str:
        read = f"; of the rest it came to epoch {self.stream.epoch + 1}" if self.stream.epoch else ""
        return f"Scored on the corpus's first {len(self.held_out)} rows, which training has not seen{read}."


Material = ShardMaterial | ModelMaterial


@dataclass(frozen=True)
class MaterialOptions(CorpusOptions):
    """A model and its corpus, or activations on disk, and how they become batches."""

    sites: tuple[str, ...] = ("resid_1",)
    """where the dictionaries are trained, such as resid_1 mlp_1"""
    activations: Path | None = None
    """a folder of `kibitz harvest`, in place of a model and a corpus"""
    refill_rows: int | None = None
    """rows that are shuffled together; by default those of 131072 tokens, and 2048 games"""
    prefetch: bool | None = None
    """harvest the next rows while training goes on; by default on a GPU; no result depends on it"""
    max_norm: float | None = None
    """leave out tokens whose activations have more than so many times the median norm; by default none"""
    autocast: Literal["bfloat16", "float16"] | None = None
    """the type of the model's matrix products in training, if not that of its weights"""
    held_out_tokens: int = 20_000
    """tokens at the start of the corpus that are scored on and never trained on; a quarter of it at most"""

    def __post_init__(self) -> None:
        if self.activations is not None and (self.games, self.corpus, self.model) != (None, None, None):
            raise ValueError("give activations, or a model and what it reads, not both")
        super().__post_init__()
        for name in ("refill_rows", "held_out_tokens"):
            if getattr(self, name) is not None and getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if self.max_norm is not None and not self.max_norm > 1:
            raise ValueError(f"max_norm is {self.max_norm}: choose more than 1, the median norm itself")
        if self.max_norm is not None and self.activations is not None:
            raise ValueError("max_norm is for a model's activations; kibitz harvest has chosen those on disk")
        if not self.sites:
            raise ValueError("sites is empty: give at least one")

    def open_material(self, batch_size: int, ranks: Ranks = ALONE) -> Material:
        """The model or the activations, and this rank's share of batches of `batch_size`."""
        if batch_size % ranks.size:
            raise RanksError(f"batch_size is {batch_size}: {ranks.size} processes cannot share it evenly")
        share: dict[str, Any] = {"batch_size": batch_size // ranks.size, "rank": ranks.rank, "world": ranks.size}
        return self._on_disk(share) if self.activations is not None else self._from_model(share)

    def _on_disk(self, share: dict[str, Any]) -> ShardMaterial:
        assert self.activations is not None
        shards = ActivationShards(self.activations)
        sites = [shards.find(name) for name in dict.fromkeys(self.sites)]
        device = self.torch_device
        stream = ShardStream(shards, sites, seed=self.seed, device=device, **share)
        return ShardMaterial(shards, {site: shards.width(site) for site in sites}, stream, device)

    def _from_model(self, share: dict[str, Any]) -> ModelMaterial:
        model = self.load_model()
        widths = {site: site_width(model, site) for site in (find_site(model, name) for name in self.sites)}
        corpus = self.open_corpus(model, GAME_TOKENS)
        context, bos = corpus.layout.context, corpus.layout.bos_id
        wanted = -(-self.held_out_tokens // context)
        held = min(wanted, len(corpus.stream().take(4 * wanted)) // 4)
        if not held:
            raise CorpusError("the corpus has less than four rows: too few to train on some and score on others")
        stream = corpus.stream()
        kept_apart = stream.take(held)
        if self.corpus is None:
            rest = stream.take(GAME_TOKENS)  # all of them
            source: RowSource = MemoryRows(rest.tokens, rest.counted(self.drop_bos, bos), self.seed)
            refill = min(self.refill_rows or GAME_ROWS, len(rest))
        else:
            source = CorpusRows(corpus, drop_bos=self.drop_bos, start=stream.cursor())
            refill = self.refill_rows or max(1, REFILL_TOKENS // context)
        buffer = RowBuffer(
            model,
            list(widths),
            source,
            rows_per_refill=max(1, refill // share["world"]),
            seed=self.seed,
            prefetch=self.prefetch,
            batch_rows=self.batch_rows,
            max_norm=self.max_norm,
            autocast=None if self.autocast is None else DTYPES[self.autocast],
            **share,
        )
        return ModelMaterial(
            model,
            widths,
            buffer,
            kept_apart.tokens,
            kept_apart.counted(self.drop_bos, bos),
            self.batch_rows,
            self.model_identity(model),
            corpus.identity(),
        )
