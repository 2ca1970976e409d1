"""Text as a source of tokens: local files, or a data set on the hub, read through `datasets` and tokenised.

The state of a chunk is that of the data set before the chunk's first text: a dropped connection, like a new process,
goes on from there.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from saes.sources import Chunk, CorpusError, State, fingerprint

_CHUNK_TEXTS = 256  # a resume tokenises at most so many texts again
READERS: dict[str, tuple[str, dict[str, Any]]] = {  # by the ending of a file: what `datasets` reads it with, and how
    ".txt": ("text", {}),
    ".json": ("json", {}),
    ".jsonl": ("json", {}),
    ".csv": ("csv", {}),
    ".tsv": ("csv", {"sep": "\t"}),
    ".parquet": ("parquet", {}),
}
_COMPRESSED = (".gz", ".zst", ".bz2", ".xz")
_SAMPLE_BY = {"line": "line", "paragraph": "paragraph", "file": "document"}  # ours: datasets' name for it
_log = logging.getLogger(__name__)


class TextSource:
    """Texts of local files or of a data set on the hub, tokenised without special tokens."""

    def __init__(
        self,
        where: str,
        tokenizer: PreTrainedTokenizerBase,
        *,
        column: str = "text",
        split: str = "train",
        subset: str | None = None,
        revision: str | None = None,
        streaming: bool = True,
        documents: Literal["line", "paragraph", "file"] = "line",
        retries: int = 10,
        first_wait: float = 1.0,
    ) -> None:
        """`where`: a file, a folder, a pattern with *, or a name on the hub. `documents`: what one is in a .txt file.

        A dropped connection is tried again after `first_wait` seconds, twice as many each time up to a minute.
        """
        if len(tokenizer) < 2:  # transformers makes an empty one for a folder that holds none
            raise CorpusError(f"{where}: text needs a tokenizer, and this model has none; give a file of token ids")
        self._where, self._tokenizer, self._column, self._streaming = where, tokenizer, column, streaming
        self._retries, self._first_wait = retries, first_wait
        self._files = local_files(where)
        self._load: dict[str, Any] = {"path": where, "name": subset, "revision": revision, "split": split}
        self._documents = None
        if self._files:
            reader, options = READERS[kind_of(self._files[0])]
            self._load = {"path": reader, "data_files": [str(f) for f in self._files], "split": "train", **options}
            if reader == "text":
                self._documents = documents
                self._load["sample_by"] = _SAMPLE_BY[documents]
        self._check_column()

    def identity(self) -> State:
        vocabulary = json.dumps(sorted(self._tokenizer.get_vocab().items()))
        where = {k: v for k, v in self._load.items() if k != "data_files"} if not self._files else {}
        return {
            "kind": "text",
            **where,
            "files": [fingerprint(f) for f in self._files],
            "column": self._column,
            "documents": self._documents,
            "tokenizer": hashlib.sha256(vocabulary.encode()).hexdigest(),
        }

    def chunks(self, state: State | None = None) -> Iterator[Chunk]:
        state = state or {"dataset": None, "document": 0}
        opened, failures = None, 0
        while True:
            try:
                opened = opened or self._open(state["dataset"])
                dataset, examples = opened
                batch = list(islice(examples, _CHUNK_TEXTS))
                after = {"dataset": dataset.state_dict(), "document": state["document"] + len(batch)}
            except Exception as error:
                self._wait(error, failures)
                opened, failures = None, failures + 1  # read this chunk again from its start
                continue
            failures = 0
            if not batch:
                return
            yield self._tokenise(batch, state)
            state = after

    def _open(self, state: State | None) -> tuple[Any, Iterator[dict[str, Any]]]:
        """The data set in that state, and its examples."""
        try:
            import datasets
        except ImportError:
            raise CorpusError("reading text needs the package `datasets`: pip install 'kibitz[text]'") from None
        datasets.disable_progress_bars()
        dataset = datasets.load_dataset(**self._load, streaming=self._streaming)
        dataset = dataset if self._streaming else dataset.to_iterable_dataset()
        if state is not None:
            dataset.load_state_dict(state)
        return dataset, iter(dataset)

    def _wait(self, error: Exception, failures: int) -> None:
        """Return after a while if it may help to try again; else raise a CorpusError that says why not."""
        if isinstance(error, CorpusError):
            raise error
        from datasets.utils.file_utils import CONNECTION_ERRORS_TO_RETRY
        from huggingface_hub.constants import HF_HUB_OFFLINE

        reason = " ".join(f"{type(error).__name__}: {error}".split())
        dropped = isinstance(error, (OSError, *CONNECTION_ERRORS_TO_RETRY)) and not isinstance(error, FileNotFoundError)
        if self._files or not dropped or HF_HUB_OFFLINE:
            raise CorpusError(f"{self._where}: cannot be read ({reason})") from error
        if failures >= self._retries:
            raise CorpusError(f"{self._where}: gave up after {failures + 1} tries ({reason})") from error
        seconds = min(self._first_wait * 2**failures, 60.0)
        _log.warning("%s: %s; trying again in %g s", self._where, reason, seconds)
        time.sleep(seconds)

    def _check_column(self) -> None:
        failures = 0
        while True:
            try:
                _, examples = self._open(None)
                first = next(examples)
                break
            except StopIteration:
                raise CorpusError(f"{self._where}: holds no document") from None
            except Exception as error:
                self._wait(error, failures)
                failures += 1
        if self._column not in first:
            raise CorpusError(f"{self._where}: has no column {self._column!r}; there are: {', '.join(first)}")
        if not isinstance(first[self._column], str | None):
            raise CorpusError(
                f"{self._where}: column {self._column!r} holds {type(first[self._column]).__name__}, not text"
            )

    def _tokenise(self, batch: Sequence[dict[str, Any]], state: State) -> Chunk:
        texts = [example[self._column] or "" for example in batch]
        ids = self._tokenizer(texts, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]
        lengths = np.array([len(each) for each in ids])
        tokens = np.concatenate([np.asarray(each, np.int64) for each in ids])
        starts = np.repeat(np.cumsum(lengths) - lengths, lengths)
        documents = np.repeat(state["document"] + np.arange(len(batch)), lengths)
        return Chunk(tokens, documents, np.arange(len(tokens)) - starts, state)


def kind_of(path: Path) -> str:
    """.jsonl of data.jsonl.gz."""
    return Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def local_files(where: str) -> list[Path]:
    """The files that `where` means; none for a name on the hub."""
    path = Path(where).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if kind_of(f) in READERS)
        missing = f"{where}: holds no file of text ({', '.join(READERS)})"
    elif "*" in where:
        files = [Path(name) for name in sorted(glob(str(path), recursive=True))]
        missing = f"{where}: matches no file"
    else:
        local = where.startswith((".", "/", "~")) or kind_of(path) in READERS
        if local and not path.is_file():
            raise CorpusError(f"{where}: no such file")
        if not path.is_file():
            return []
        files, missing = [path], ""
    if not files:
        raise CorpusError(missing)
    kinds = sorted({kind_of(f) for f in files})
    if len(kinds) > 1 or kinds[0] not in READERS:
        raise CorpusError(f"{where}: {' and '.join(kinds)} files; choose files of one of {', '.join(READERS)}")
    return files
