"""`kibitz harvest`: activations of a language model at several sites, from one pass over a corpus, to a folder.

The same command again goes on where the last one stopped, also after a kill; docs/corpora.md has the format.
"""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from tqdm import tqdm
from transformers import PreTrainedModel

from boardgames.lm import OTHELLO_GPT
from boardgames.othello.transcript import CONTEXT, PAD
from kibitz.chain.games import prepare_games
from saes.corpus import Corpus, Layout
from saes.families import find_site, site_width
from saes.models import load_model, load_tokenizer
from saes.shard_writer import ShardPlan, prepare, size_sentence, write_shards
from saes.shards import StoredType
from saes.sources import TOKEN_SUFFIXES, CorpusError, Source, TokenSource
from saes.text import TextSource

_MOVES_PER_GAME = 50  # fewer than nearly all games have, so that enough are played


@dataclass(frozen=True)
class HarvestConfig:
    """Write activations of several sites, aligned by token, as checksummed shards; the same call again continues."""

    sites: tuple[str, ...] = ("resid_1",)
    """where to read the model, such as resid_1 mlp_1"""
    model: str | None = None
    """a folder, a GGUF file or a name on the hub; by default the OthelloGPT that ships"""
    corpus: str | None = None
    """text (.txt, .jsonl, .json, .csv, .tsv, .parquet; a file, a folder, a pattern with *, or a name on the hub) or
    token ids (.npy, .npz, .safetensors, .bin); by default games"""
    games: Path | None = None
    """an .npz file with `moves`, in place of a corpus; by default random games"""
    tokens: int = 1_000_000
    """how many to write; fewer if the corpus ends before"""
    context: int = 128
    """tokens per row; games have rows of their own, of 59"""
    rows: Literal["pack", "document"] = "pack"
    """full rows over the ends of documents, or one document a row, cut or padded"""
    bos: Literal["document", "row", "none"] | None = None
    """a BOS token before each document, at the start of each row, or nowhere; by default `document` for text whose
    tokenizer has one, else `none`"""
    drop_bos: bool = False
    """leave out BOS tokens and the first token of every row, which are outliers in many models"""
    column: str = "text"
    """the column of a text corpus"""
    split: str = "train"
    """the part of a data set on the hub"""
    subset: str | None = None
    """the configuration of a data set on the hub"""
    revision: str | None = None
    """the version of a data set on the hub"""
    streaming: bool = True
    """read a data set on the hub as it is downloaded; else download it whole first"""
    documents: Literal["line", "paragraph", "file"] = "line"
    """what a document is in a .txt file"""
    key: str | None = None
    """the array of an .npz or .safetensors file of token ids; by default `tokens`, or the only one"""
    bin_dtype: Literal["uint16", "uint32"] = "uint16"
    """the integers of a .bin file"""
    separator: int | None = None
    """the id that ends each document of a long row of token ids"""
    pad: int | None = None
    """the id that fills up the rows of a table of token ids"""
    dtype: StoredType = "fp16"
    """of the activations on disk; int8 has a scale for each token"""
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the model's weights"""
    device: str = "auto"
    """where the model runs; auto: the GPU if there is one"""
    batch_rows: int = 32
    """rows per forward pass"""
    shard_mib: int = 256
    """size of a shard, about"""
    seed: int = 0
    """of random games"""
    out: Path = Path("runs/activations")
    """folder to write, or to go on with"""
    dry_run: bool = False
    """only say how large it would be"""

    def __post_init__(self) -> None:
        for name in ("tokens", "context", "batch_rows", "shard_mib"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: choose 0 or more")
        if self.corpus is not None and self.games is not None:
            raise ValueError("give a corpus or games, not both")
        if self.model is not None and self.corpus is None and self.games is None:
            raise ValueError("a model other than the one that ships needs --corpus or --games")


def run_harvest(config: HarvestConfig) -> str:
    """The sentence to print; shards appear in the folder one by one, each whole."""
    source_of_model = config.model or str(OTHELLO_GPT)
    model = load_model(source_of_model, dtype=config.model_dtype, device=config.device)
    vocabulary = int(model.config.get_text_config().vocab_size)
    sites = list(dict.fromkeys(find_site(model, name) for name in config.sites))
    plan = ShardPlan(
        {site: site_width(model, site) for site in sites},
        config.tokens,
        config.dtype,
        config.shard_mib << 20,
        config.batch_rows,
        config.drop_bos,
        {"source": _named(source_of_model), "weights": weights_digest(model), "dtype": config.model_dtype},
    )
    source, layout = _corpus(config, source_of_model)
    _check_length(model, layout)
    corpus = Corpus(source, layout, vocabulary)
    size = size_sentence(plan.total_bytes(layout.context))
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


def weights_digest(model: PreTrainedModel) -> str:
    """A hash of names, shapes and a sample of values of all weights, wherever they were loaded from."""
    digest = hashlib.sha256()
    for name, tensor in sorted(model.state_dict().items()):
        flat = tensor.detach().flatten()
        sample = flat[:: max(1, flat.numel() // 256)].double().cpu().numpy()
        digest.update(f"{name} {list(tensor.shape)} {tensor.dtype}".encode() + sample.tobytes())
    return digest.hexdigest()


def _named(model: str) -> str:
    """A folder's or file's own name, wherever it stands, or the name on the hub."""
    return Path(model).resolve().name if Path(model).exists() else model


def _corpus(config: HarvestConfig, model: str) -> tuple[Source, Layout]:
    if config.corpus is None:
        count = -(-config.tokens // _MOVES_PER_GAME)
        games = prepare_games(config.games, count, 0, 0, np.random.default_rng(config.seed))
        tokens = games.tokens(games.training).numpy()
        return TokenSource(tokens, pad=PAD), Layout(CONTEXT, "document", pad_id=PAD)
    bos: dict[str, Any] = {"bos": config.bos or "none", "bos_id": None}
    if config.corpus.endswith(TOKEN_SUFFIXES):
        source: Source = TokenSource.open(
            Path(config.corpus), key=config.key, dtype=config.bin_dtype, separator=config.separator, pad=config.pad
        )
        if bos["bos"] != "none":
            bos["bos_id"] = load_tokenizer(model).bos_token_id
        return source, Layout(config.context, config.rows, **bos)
    tokenizer = load_tokenizer(model)
    source = TextSource(
        config.corpus,
        tokenizer,
        column=config.column,
        split=config.split,
        subset=config.subset,
        revision=config.revision,
        streaming=config.streaming,
        documents=config.documents,
    )
    bos["bos_id"] = tokenizer.bos_token_id
    bos["bos"] = config.bos or ("none" if tokenizer.bos_token_id is None else "document")
    return source, Layout(config.context, config.rows, **bos)


def _check_length(model: PreTrainedModel, layout: Layout) -> None:
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if longest is not None and layout.context > longest:
        raise CorpusError(f"context is {layout.context} and the model reads at most {longest} tokens")
