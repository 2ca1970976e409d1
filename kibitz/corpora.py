"""What the commands that run a language model on a corpus have in common: which model, which tokens, in which rows.

docs/corpora.md describes the sources and the layout, docs/models.md the models.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from transformers import PreTrainedModel

from boardgames.lm import OTHELLO_GPT
from boardgames.othello.streams import stream
from boardgames.othello.transcript import CONTEXT, PAD
from kibitz.chain.games import prepare_games
from saes.corpus import Corpus, Layout
from saes.digests import weights_digest
from saes.models import find_device, load_model, load_tokenizer
from saes.sources import TOKEN_SUFFIXES, CorpusError, Source, TokenSource
from saes.text import TextSource

_MOVES_PER_GAME = 50  # fewer than nearly all games have, so that enough are played


@dataclass(frozen=True)
class CorpusOptions:
    """A model and the corpus that it reads."""

    model: str | None = None
    """a folder, a GGUF file or a name on the hub; by default the OthelloGPT that ships"""
    corpus: str | None = None
    """text (.txt, .jsonl, .json, .csv, .tsv, .parquet; a file, a folder, a pattern with *, or a name on the hub) or
    token ids (.npy, .npz, .safetensors, .bin); by default games"""
    games: Path | None = None
    """an .npz file with `moves`, in place of a corpus; by default random games"""
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
    model_dtype: Literal["float32", "bfloat16", "float16"] = "float32"
    """of the model's weights"""
    device: str = "auto"
    """where the model runs; auto: the GPU if there is one"""
    batch_rows: int = 32
    """rows per forward pass"""
    seed: int = 0
    """of random games, and of whatever else is drawn"""

    def __post_init__(self) -> None:
        for name in ("context", "batch_rows"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}: choose 1 or more")
        if self.seed < 0:
            raise ValueError(f"seed is {self.seed}: choose 0 or more")
        if self.corpus is not None and self.games is not None:
            raise ValueError("give a corpus or games, not both")
        if self.model is not None and self.corpus is None and self.games is None:
            raise ValueError("a model other than the one that ships needs --corpus or --games")

    @property
    def model_source(self) -> str:
        """What load_model is given."""
        return self.model or str(OTHELLO_GPT)

    @property
    def torch_device(self) -> torch.device:
        """`device` as torch knows it; ModelError if it is not to be had."""
        return find_device(self.device)

    def load_model(self) -> PreTrainedModel:
        """The model, on its device."""
        return load_model(self.model_source, dtype=self.model_dtype, device=self.device)

    def model_identity(self, model: PreTrainedModel) -> dict[str, Any]:
        """What tells the model from another, as plain JSON."""
        path = Path(self.model_source)
        name = path.resolve().name if path.exists() else self.model_source
        return {"source": name, "weights": weights_digest(model), "dtype": self.model_dtype}

    def open_corpus(self, model: PreTrainedModel, tokens: int) -> Corpus:
        """The corpus laid out for the model; where games are played for it, enough of them for so many `tokens`."""
        source, layout = self._source(tokens)
        longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
        if longest is not None and layout.context > longest:
            raise CorpusError(f"context is {layout.context} and the model reads at most {longest} tokens")
        return Corpus(source, layout, int(model.config.get_text_config().vocab_size))

    def _source(self, tokens: int) -> tuple[Source, Layout]:
        if self.corpus is None:
            count = -(-tokens // _MOVES_PER_GAME)
            games = prepare_games(self.games, count, 0, 0, stream("corpus", self.seed))
            moves = games.tokens(games.training).numpy()
            return TokenSource(moves, pad=PAD), Layout(CONTEXT, "document", pad_id=PAD)
        bos: dict[str, Any] = {"bos": self.bos or "none", "bos_id": None}
        if self.corpus.endswith(TOKEN_SUFFIXES):
            source: Source = TokenSource.open(
                Path(self.corpus), key=self.key, dtype=self.bin_dtype, separator=self.separator, pad=self.pad
            )
            if bos["bos"] != "none":
                bos["bos_id"] = load_tokenizer(self.model_source).bos_token_id
            return source, Layout(self.context, self.rows, **bos)
        tokenizer = load_tokenizer(self.model_source)
        source = TextSource(
            self.corpus,
            tokenizer,
            column=self.column,
            split=self.split,
            subset=self.subset,
            revision=self.revision,
            streaming=self.streaming,
            documents=self.documents,
        )
        bos["bos_id"] = tokenizer.bos_token_id
        bos["bos"] = self.bos or ("none" if tokenizer.bos_token_id is None else "document")
        return source, Layout(self.context, self.rows, **bos)
