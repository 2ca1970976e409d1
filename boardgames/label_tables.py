"""Tables of labels that anyone can write: what is true of a token of a document, one yes or no for each concept.

`.npz`: integers `document` and `token` [n], and either one array [n] for each concept, by its name, or `labels` [n, P]
with `columns` [P], the names. `.parquet`: the columns `document` and `token`, and one for each concept. Labels are
booleans, or integers that are 0 or 1. Documents are numbered as the corpus has them (saes/corpus.py), from 0 and with
empty ones counted; tokens are numbered from 0 within their document, without any BOS token that is put in.

A concept "group: name" or "group/name" belongs to a group, which gets a score of its own; all others are one group.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Bool, Int

KEYS = ("document", "token")
NO_GROUP = "concepts"
_LARGEST = 1 << 32  # number of a document or token: products of two stay within int64
_GROUPED = re.compile(r"\s*([^:/]*[^:/\s])\s*[:/]\s*\S")


class LabelTableError(ValueError):
    """A table of labels that cannot be read, or does not fit the corpus."""


@dataclass(frozen=True)
class LabelTable:
    """Row n says what is true of token `token[n]` of document `document[n]`; no token has two rows.

    Columns of one group stand side by side, in the order of the file otherwise; rows are in the order of documents and
    tokens.
    """

    source: str
    document: Int[np.ndarray, " n"]
    token: Int[np.ndarray, " n"]
    columns: tuple[str, ...]
    matrix: Bool[np.ndarray, "n column"]

    def __len__(self) -> int:
        return len(self.document)

    @property
    def groups(self) -> dict[str, int]:
        """Names of groups and their numbers of columns, in the order of the columns."""
        found: dict[str, int] = {}
        for column in self.columns:
            found[group_of(column)] = found.get(group_of(column), 0) + 1
        return found

    def find(self, document: Int[np.ndarray, " m"], token: Int[np.ndarray, " m"]) -> Int[np.ndarray, " m"]:
        """The row of each token, -1 where there is none."""
        width = int(self.token.max()) + 1
        documents, of = np.unique(self.document, return_inverse=True)  # numbered afresh: no product overflows
        place = np.minimum(np.searchsorted(documents, document), len(documents) - 1)
        known = (documents[place] == document) & (token >= 0) & (token < width)
        keys, asked = of * width + self.token, np.where(known, place * width + token, 0)
        row = np.minimum(np.searchsorted(keys, asked), len(keys) - 1)
        return np.where(known & (keys[row] == asked), row, -1)


def group_of(column: str) -> str:
    """ "colour" of "colour: red" and of "colour/red"; NO_GROUP of a name without a group."""
    found = _GROUPED.match(column)
    return found[1] if found else NO_GROUP


def read_labels(path: Path, concepts: Sequence[str] = ()) -> LabelTable:
    """A table from a file; `concepts`: the columns to take, by default all. LabelTableError for what is wrong."""
    if not path.is_file():
        raise LabelTableError(f"{path}: no such file")
    if path.suffix not in (".npz", ".parquet"):
        raise LabelTableError(f"{path}: a table of labels is a .npz or a .parquet file")
    return table(str(path), _read_npz(path) if path.suffix == ".npz" else _read_parquet(path, concepts), concepts)


def table(source: str, arrays: Mapping[str, np.ndarray], concepts: Sequence[str] = ()) -> LabelTable:
    """A table from arrays by name, as those of an .npz file; `source` is what an error calls it."""
    arrays = dict(arrays)
    for key in KEYS:
        if key not in arrays:
            raise LabelTableError(f"{source}: has no column {key!r}; there are: {', '.join(arrays)}")
    document, token = (_key(source, name, arrays.pop(name)) for name in KEYS)
    if len(document) != len(token):
        raise LabelTableError(f"{source}: {len(document)} numbers of documents and {len(token)} of tokens")
    if not len(document):
        raise LabelTableError(f"{source}: has no row")
    known = _split_up(source, arrays)
    for name in concepts:
        if name not in known:
            raise LabelTableError(f"{source}: has no column {name!r}; there are: {', '.join(known)}")
    names = list(dict.fromkeys(concepts)) or list(known)
    if not names:
        raise LabelTableError(f"{source}: has no column of labels, only {' and '.join(KEYS)}")
    first = {group_of(name): i for i, name in reversed(list(enumerate(names)))}
    names.sort(key=lambda name: first[group_of(name)])
    order = np.lexsort((token, document))
    _check_unique(source, document, token, order)
    matrix = np.empty((len(document), len(names)), bool)
    for column, name in enumerate(names):
        matrix[:, column] = _answers(source, name, known[name], len(document))[order]
    return LabelTable(source, document[order], token[order], tuple(names), matrix)


def _key(source: str, name: str, values: np.ndarray) -> Int[np.ndarray, " n"]:
    if values.dtype.kind not in "iu" or values.ndim != 1:
        raise LabelTableError(f"{source}: {name} is {values.dtype}{list(values.shape)}; expected one integer a row")
    if len(values) and int(values.min()) < 0:
        raise LabelTableError(f"{source}: {name} is {values.min()} in row {int(values.argmin())}; numbers start at 0")
    if len(values) and int(values.max()) > _LARGEST:
        raise LabelTableError(
            f"{source}: {name} is {values.max()} in row {int(values.argmax())}: no such {name} can be"
        )
    return values.astype(np.int64)


def _split_up(source: str, arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Columns by name, also where a matrix holds them."""
    matrix = arrays.get("labels")
    if matrix is None or matrix.ndim != 2:
        return dict(arrays)
    if "columns" not in arrays:
        raise LabelTableError(f"{source}: labels has {matrix.shape[1]} columns; their names are missing (`columns`)")
    names = [str(name) for name in arrays["columns"].ravel()]
    if len(names) != matrix.shape[1] or len(set(names)) < len(names):
        raise LabelTableError(f"{source}: labels has {matrix.shape[1]} columns and {len(set(names))} different names")
    rest = {name: each for name, each in arrays.items() if name not in ("labels", "columns")}
    if twice := set(names) & set(rest):
        raise LabelTableError(f"{source}: the column {min(twice)!r} is there twice")
    return {**dict(zip(names, matrix.T, strict=True)), **rest}


def _answers(source: str, name: str, values: np.ndarray, rows: int) -> Bool[np.ndarray, " n"]:
    if values.shape != (rows,):
        raise LabelTableError(f"{source}: column {name!r} has shape {list(values.shape)}; expected [{rows}]")
    if values.dtype == bool:
        return values
    if values.dtype.kind not in "iu":
        raise LabelTableError(
            f"{source}: column {name!r} is {values.dtype}, not boolean; --concepts names the columns to score"
        )
    wrong = (values != 0) & (values != 1)
    if wrong.any():
        row = int(wrong.argmax())
        raise LabelTableError(f"{source}: column {name!r} is {values[row]} in row {row}; labels are 0 or 1")
    return values != 0


def _check_unique(
    source: str, document: Int[np.ndarray, " n"], token: Int[np.ndarray, " n"], order: Int[np.ndarray, " n"]
) -> None:
    same = (np.diff(document[order]) == 0) & (np.diff(token[order]) == 0)  # the order is stable: the later row follows
    if same.any():
        again = int(order[1:][same].min())
        raise LabelTableError(
            f"{source}: token {token[again]} of document {document[again]} has two rows; the second is row {again}"
        )


def _read_npz(path: Path) -> dict[str, np.ndarray]:
    try:
        with np.load(path, allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files}
    except Exception as error:  # numpy raises whatever its zip and header readers meet in a damaged file
        raise LabelTableError(f"{path}: not a readable .npz file ({' '.join(str(error).split())})") from None


def _read_parquet(path: Path, concepts: Sequence[str]) -> dict[str, np.ndarray]:
    """All columns, or the keys and those of `concepts` that are there."""
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise LabelTableError(
            f"{path}: reading parquet needs pyarrow: pip install 'kibitz[text]', or give the labels as .npz"
        ) from None
    try:
        file = parquet.ParquetFile(path)
        there = file.schema_arrow.names
        wanted = [name for name in there if not concepts or name in (*KEYS, *concepts)]
        columns: Any = file.read(columns=wanted)
    except (ArrowException, OSError) as error:
        raise LabelTableError(f"{path}: not a readable parquet file ({' '.join(str(error).split())})") from None
    for name in wanted:
        if columns[name].null_count:
            raise LabelTableError(f"{path}: column {name!r} has {columns[name].null_count} rows without a value")
    found = {name: columns[name].to_numpy() for name in wanted}
    absent = [name for name in concepts if name not in there]
    if absent:
        raise LabelTableError(f"{path}: has no column {absent[0]!r}; there are: {', '.join(there)}")
    return found
