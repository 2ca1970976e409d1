"""Where the tokens of a corpus come from: what a source is, and files or arrays of integers; text is saes/text.py.

A source yields chunks in the order of the corpus. Each chunk carries a state, plain JSON, from which any later process
reads the same chunk again; that is all that an exact resume needs, streaming included.
"""

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol, runtime_checkable

import numpy as np
from jaxtyping import Int
from safetensors import SafetensorError, safe_open

State = dict[str, Any]
TOKEN_SUFFIXES = (".npy", ".npz", ".safetensors", ".bin")
_CHUNK_TOKENS = 1 << 20  # of integer sources


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
        self._identity = identity or {"sha256": hashlib.sha256(tokens.tobytes()).hexdigest()}

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
