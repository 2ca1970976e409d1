"""Where the tokens of a corpus come from: files of integers, arrays, or text read through `datasets`.

A source yields chunks in the order of the corpus. Each chunk carries a state, plain JSON, from which any later process
reads the same chunk again; that is all that an exact resume needs, streaming included.
"""

import hashlib
import json
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from glob import glob
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedTokenizerBase

State = dict[str, Any]
TOKEN_SUFFIXES = (".npy", ".npz", ".safetensors", ".bin")
_CHUNK_TOKENS = 1 << 20  # of integer sources
_CHUNK_TEXTS = 256  # a resume tokenises at most so many texts again
_READERS: dict[str, tuple[str, dict[str, Any]]] = {
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


class CorpusError(ValueError):
    """A corpus that cannot be read, or that does not fit the model."""


@dataclass(frozen=True)
class Chunk:
    """A stretch of the corpus; a long document may go on in the next one."""

    tokens: Int[np.ndarray, " n"]
    documents: Int[np.ndarray, " n"]  # number of the document in the corpus, empty ones counted
    offsets: Int[np.ndarray, " n"]  # place in the document
    state: State


@runtime_checkable
class Source(Protocol):
    """A corpus's tokens in order."""

    def identity(self) -> State:
        """What must be equal for two sources to hold the same tokens, as plain JSON."""
        ...

    def chunks(self, state: State | None = None) -> Iterator[Chunk]:
        """Chunks from the one of that state on; from the first by default."""
        ...


class TokenSource:
    """Integers in memory or mapped from a file: [rows, length], a document each, or one long row of documents."""

    def __init__(
        self, tokens: np.ndarray, *, separator: int | None = None, pad: int | None = None, identity: State | None = None
    ) -> None:
        """`separator`: the id that ends each document of a long row; `pad`: the id that fills up the rows of a table.

        By default a long row is one document and a table has no padding. `identity` saves hashing all of `tokens`.
        """
        if tokens.dtype.kind not in "iu":
            raise CorpusError(f"tokens are integers, and these are {tokens.dtype}")
        if tokens.ndim not in (1, 2):
            raise CorpusError(f"tokens are [rows, length] or one long row, and these have shape {list(tokens.shape)}")
        if tokens.size == 0:
            raise CorpusError("there is not one token")
        if (pad if tokens.ndim == 1 else separator) is not None:
            raise CorpusError("`separator` is for one long row of tokens, `pad` for [rows, length]")
        self._tokens, self._separator, self._pad = tokens, separator, pad
        self._identity = identity or {"sha256": hashlib.sha256(np.ascontiguousarray(tokens)).hexdigest()}

    @classmethod
    def open(
        cls,
        path: Path,
        *,
        key: str | None = None,
        dtype: Literal["uint16", "uint32"] = "uint16",
        separator: int | None = None,
        pad: int | None = None,
    ) -> "TokenSource":
        """Map a file; `key` chooses among the arrays of a .npz or .safetensors, `dtype` is of a .bin's integers."""
        tokens = _read_tokens(path, key, dtype)
        identity = {**fingerprint(path), "key": key, "dtype": str(tokens.dtype)}
        try:
            return cls(tokens, separator=separator, pad=pad, identity=identity)
        except CorpusError as error:
            raise CorpusError(f"{path}: {error}") from None

    def identity(self) -> State:
        return {"kind": "tokens", **self._identity, "separator": self._separator, "pad": self._pad}

    def chunks(self, state: State | None = None) -> Iterator[Chunk]:
        state = state or {"at": 0, "document": 0, "offset": 0}
        while state["at"] < len(self._tokens):
            chunk, state = (self._rows if self._tokens.ndim == 2 else self._stretch)(state)
            yield chunk

    def _rows(self, state: State) -> tuple[Chunk, State]:
        at, (_, length) = state["at"], self._tokens.shape
        block = np.array(self._tokens[at : at + max(1, _CHUNK_TOKENS // length)], np.int64)
        real = np.ones(block.shape, bool)
        if self._pad is not None:  # only what stands behind the last token: the id may be a token elsewhere
            real = np.logical_or.accumulate(block[:, ::-1] != self._pad, axis=1)[:, ::-1]
        rows, columns = np.nonzero(real)
        chunk = Chunk(block[real], at + rows, columns, state)
        return chunk, {**state, "at": at + len(block)}

    def _stretch(self, state: State) -> tuple[Chunk, State]:
        at, document, offset = state["at"], state["document"], state["offset"]
        block = np.array(self._tokens[at : at + _CHUNK_TOKENS], np.int64)
        place = np.arange(len(block))
        ends = np.zeros(len(block), bool) if self._separator is None else block == self._separator
        first = np.concatenate([[False], ends[:-1]])  # of a document that starts in this chunk
        start = np.maximum.accumulate(np.where(first, place, -offset))
        chunk = Chunk(block, document + np.cumsum(first), place - start, state)
        after = {
            "at": at + len(block),
            "document": int(chunk.documents[-1] + ends[-1]),
            "offset": 0 if ends[-1] else int(chunk.offsets[-1] + 1),
        }
        return chunk, after


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
        self._files = _local_files(where)
        self._load: dict[str, Any] = {"path": where, "name": subset, "revision": revision, "split": split}
        self._documents = None
        if self._files:
            reader, options = _READERS[_kind(self._files[0])]
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


def fingerprint(path: Path) -> State:
    """Name, size and a hash of the first and last MiB of a file: it need not be read whole to tell it from another."""
    size = path.stat().st_size
    with path.open("rb") as stream:
        digest = hashlib.sha256(stream.read(1 << 20))
        stream.seek(max(0, size - (1 << 20)))
        digest.update(stream.read())
    return {"file": path.name, "bytes": size, "sha256_of_ends": digest.hexdigest()}


def _read_tokens(path: Path, key: str | None, dtype: str) -> np.ndarray:
    if not path.is_file():
        raise CorpusError(f"{path}: no such file")
    try:
        if path.suffix == ".npy":
            return np.load(path, mmap_mode="r", allow_pickle=False)
        if path.suffix == ".npz":
            with np.load(path, allow_pickle=False) as arrays:
                return arrays[_choose(path, list(arrays), key)]
        if path.suffix == ".safetensors":
            with safe_open(path, "pt") as tensors:  # on the CPU its tensors are mapped, not read
                return tensors.get_tensor(_choose(path, list(tensors.keys()), key)).numpy()
        if path.stat().st_size % np.dtype(dtype).itemsize:
            raise CorpusError(f"{path}: its {path.stat().st_size} bytes are no whole number of {dtype}")
        return np.memmap(path, f"<u{np.dtype(dtype).itemsize}", "r") if path.stat().st_size else np.zeros(0, dtype)
    except CorpusError:
        raise
    except (SafetensorError, OSError, ValueError, EOFError) as error:
        raise CorpusError(f"{path}: not a readable {path.suffix} file of tokens ({error})") from None
    except Exception as error:  # numpy passes on whatever its zip reader meets in a damaged file
        raise CorpusError(f"{path}: damaged ({type(error).__name__}: {error})") from None


def _choose(path: Path, names: list[str], key: str | None) -> str:
    wanted = key or ("tokens" if "tokens" in names else names[0] if len(names) == 1 else None)
    if wanted not in names:
        raise CorpusError(f"{path}: has no array {wanted or 'tokens'!r}; there are: {', '.join(names)}")
    return wanted


def _kind(path: Path) -> str:
    """.jsonl of data.jsonl.gz."""
    return Path(path.stem).suffix if path.suffix in _COMPRESSED else path.suffix


def _local_files(where: str) -> list[Path]:
    """The files that `where` means; none for a name on the hub."""
    path = Path(where).expanduser()
    if path.is_dir():
        files = sorted(f for f in path.rglob("*") if _kind(f) in _READERS)
        missing = f"{where}: holds no file of text ({', '.join(_READERS)})"
    elif "*" in where:
        files = [Path(name) for name in sorted(glob(str(path), recursive=True))]
        missing = f"{where}: matches no file"
    else:
        local = where.startswith((".", "/", "~")) or _kind(path) in _READERS
        if local and not path.is_file():
            raise CorpusError(f"{where}: no such file")
        if not path.is_file():
            return []
        files, missing = [path], ""
    if not files:
        raise CorpusError(missing)
    kinds = sorted({_kind(f) for f in files})
    if len(kinds) > 1 or kinds[0] not in _READERS:
        raise CorpusError(f"{where}: {' and '.join(kinds)} files; choose files of one of {', '.join(_READERS)}")
    return files
