"""Parquet files of recordings: written row group by row group, and read."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import numpy as np

from ..atomic import replacing
from ..checks import suggestion
from ..extras import install_hint

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["FORMAT", "ParquetFile", "array", "describe", "read", "vectors_or_null"]

#: Version of the format, and the key of the metadata in a file.
FORMAT, KEY = 1, b"optenv"

#: Largest number of characters of a message that lists names of columns.
MESSAGE = 3000


def arrow() -> tuple[ModuleType, ModuleType]:
    """Import pyarrow and its module for Parquet.

    Raises:
        ImportError: it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ImportError(f"recordings need pyarrow; {install_hint('record')}") from error
    return pyarrow, pyarrow.parquet


def array(values: np.ndarray, valid: np.ndarray | None = None) -> pa.Array:
    """Make an Arrow array, with nulls where values are not valid.

    Args:
        values: ``[n]``, numbers, or text and None; or ``[n, k]``, whose rows become lists.
            Objects of other types become text.
        valid: mask ``[n]``; by default, all are valid.
    """
    pa, _ = arrow()
    if values.ndim == 1 and values.dtype != object:
        return pa.array(values, mask=None if valid is None else ~valid)
    rows = list(values) if values.ndim > 1 else values.tolist()
    if valid is not None:
        rows = [row if ok else None for row, ok in zip(rows, valid, strict=True)]
    try:
        return pa.array(rows)
    except (pa.ArrowInvalid, pa.ArrowTypeError, pa.ArrowNotImplementedError):
        return pa.array([None if row is None else str(row) for row in rows])


def vectors_or_null(vectors: Sequence[np.ndarray | None], dtype: Any) -> pa.Array:
    """Make an Arrow array of lists of numbers.

    Args:
        vectors: a vector or None for each row.
        dtype: NumPy type of the numbers.
    """
    pa, _ = arrow()
    return pa.array(list(vectors), pa.list_(pa.from_numpy_dtype(dtype)))


class ParquetFile:
    """Parquet file that is written under another name, and renamed once it is complete.

    A table may have new columns, in which earlier rows have nulls.

    Args:
        path: path of the file.
        metadata: JSON values that :func:`describe` returns.
        overwrite: whether to replace a file that exists.

    Raises:
        FileExistsError: there is a file, and ``overwrite`` is False.
        FileNotFoundError: there is no such folder.
    """

    def __init__(
        self, path: str | os.PathLike[str], metadata: Mapping[str, Any], overwrite: bool
    ) -> None:
        self.path = Path(path)
        if self.path.exists() and not overwrite:
            raise FileExistsError(
                f"{str(path)!r} exists; give another path, or overwrite=True to replace it"
            )
        if not self.path.parent.is_dir():
            raise FileNotFoundError(
                f"{str(self.path.parent)!r} is no folder; make it first"
            )
        arrow()
        self._metadata = {KEY: json.dumps({"format": FORMAT, **metadata}).encode()}
        self._stack = contextlib.ExitStack()
        self._part = self._stack.enter_context(replacing(self.path))
        self._schema: pa.Schema | None = None
        self._writer: Any = None
        self.closed = False

    def write(self, columns: Mapping[str, pa.Array]) -> None:
        """Write a row group.

        Args:
            columns: arrays of the same length, by name.
        """
        pa, _ = arrow()
        table = pa.table(dict(columns))
        if self._schema is None:
            self._open(table.schema)
        else:
            schema = pa.unify_schemas(
                [self._schema.remove_metadata(), table.schema],
                promote_options="permissive",
            )
            if schema != self._schema.remove_metadata():
                self._widen(schema)
        self._writer.write_table(_conform(table, self._schema))

    def _open(self, schema: pa.Schema) -> None:
        _, pq = arrow()
        self._schema = schema.with_metadata(self._metadata)
        self._writer = pq.ParquetWriter(self._part, self._schema, compression="zstd")

    def _widen(self, schema: pa.Schema) -> None:
        """Rewrite the row groups so far with further columns."""
        _, pq = arrow()
        self._writer.close()
        before = self._part.with_suffix(".before")
        os.replace(self._part, before)
        try:
            with pq.ParquetFile(before) as old:
                self._open(schema)
                for i in range(old.num_row_groups):
                    self._writer.write_table(_conform(old.read_row_group(i), self._schema))
        finally:
            before.unlink()

    def close(self) -> None:
        """Finish the file, and move it to its path."""
        if self.closed:
            return
        self.closed = True
        pa, _ = arrow()
        with self._stack:
            if self._schema is None:
                self._open(pa.schema([]))
            self._writer.close()


def _conform(table: pa.Table, schema: Any) -> pa.Table:
    """Convert a table to a schema, with nulls in the columns that it lacks."""
    pa, _ = arrow()
    names = set(table.column_names)
    return pa.table(
        [
            table[field.name].cast(field.type)
            if field.name in names
            else pa.nulls(len(table), field.type)
            for field in schema
        ],
        schema=schema,
    )


def describe(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Return the metadata of a recording.

    Args:
        path: path of a recorder's file.

    Returns:
        A dictionary of ``format``, ``optenv`` (its version), ``label``, ``id`` of the
        environment, its ``arguments`` (None if they are no JSON values), its
        ``description`` (``describe()``), and ``dtype`` of its observations.

    Raises:
        ValueError: the file is no recording, or has a later format.
        OSError: the file cannot be read.
    """
    pa, pq = arrow()
    try:
        found = (pq.read_schema(os.fspath(path)).metadata or {}).get(KEY)
    except pa.ArrowInvalid as error:
        raise ValueError(f"{str(path)!r} is no Parquet file: {error}") from error
    if found is None:
        raise ValueError(
            f"{str(path)!r} is no recording; valid: files of optenv.recording's recorders"
        )
    described: dict[str, Any] = json.loads(found)
    if described["format"] > FORMAT:
        raise ValueError(
            f"{str(path)!r} has format {described['format']}, and this version reads "
            f"formats up to {FORMAT}"
        )
    return described


def read(path: str | os.PathLike[str], columns: Sequence[str] | None = None) -> pa.Table:
    """Read a recording.

    Args:
        path: path of a recorder's file.
        columns: names of columns; by default, all.

    Returns:
        A ``pyarrow.Table`` with a row for each control step, in the order of time;
        ``table["reward"].to_numpy()`` is one of its columns, ``table.to_pandas()`` a data
        frame.

    Raises:
        ValueError: the file is no recording, or has no such column.
        OSError: the file cannot be read.
    """
    _, pq = arrow()
    describe(path)
    valid = pq.read_schema(os.fspath(path)).names
    for name in columns or ():
        if name not in valid:
            hint = suggestion(name, valid)[:MESSAGE]  # single tensors have many columns
            raise ValueError(f"{str(path)!r} has no column {name!r}; {hint}")
    # read_table takes a name with dots for a path of nested columns, too: select by name.
    table = pq.read_table(os.fspath(path), columns=columns)
    return table if columns is None else table.select(list(columns))
