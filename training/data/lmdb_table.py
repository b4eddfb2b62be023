"""The entries of an LMDB database by their position in the order of the keys."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from types import ModuleType
from typing import Any

from training.data.image_files import one_line
from training.data.ordered_pool import ordered_map


class LmdbTable:
    """The first `limit` entries of an LMDB data file. Pickles as path and length; each process opens its own file.

    Raises `OSError` with one line that names the file if it is damaged, cut short or of another kind, `ValueError` if
    the library is missing. The library maps the file into memory and trusts it, so a damaged file may also end the
    process, most often when an entry is read but in older versions of the library already here: see `open_table`.
    """

    def __init__(self, path: str, limit: int | None = None):
        self.path = path
        self._cursor: Any = None   # lmdb.Cursor
        self._position = -1        # of the cursor; -1 is before the first entry
        size = os.path.getsize(path)
        with self._errors(), self._open() as env:
            needed, entries = (env.info()["last_pgno"] + 1) * env.stat()["psize"], env.stat()["entries"]
        if size < needed:
            raise OSError(f"{path} is cut short: it has {size} bytes, its pages take {needed}")
        if entries > size:
            raise OSError(f"{path} is damaged: it claims {entries} entries in {size} bytes")
        self._num_entries = entries if limit is None else min(entries, limit)

    def __len__(self) -> int:
        return self._num_entries

    def key(self, idx: int) -> bytes:
        return self._move_to(idx).key()

    def value(self, idx: int) -> bytes:
        return self._move_to(idx).value()

    def _open(self) -> Any:
        # Reading ahead pays: a value spans many pages. Nobody writes, and the folder may be read-only: no lock file.
        return import_lmdb().open(self.path, subdir=False, readonly=True, lock=False)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        lmdb = import_lmdb()
        try:
            yield
        except lmdb.Error as err:
            raise OSError(f"{self.path} is not a readable LMDB file: {one_line(err)}") from err

    def _move_to(self, idx: int) -> Any:
        """The cursor at entry `idx`. LMDB knows no positions: it goes there step by step, a microsecond each."""
        with self._errors():
            if self._cursor is None:
                self._cursor, self._position = self._open().begin().cursor(), -1
            elif idx < self._position:
                self._cursor.first()
                self._position = 0
            while self._position < idx:
                if not self._cursor.next():
                    raise OSError(f"{self.path} is damaged: it ends after {self._position + 1} entries")
                self._position += 1
        return self._cursor

    def __getstate__(self) -> dict[str, Any]:
        return dict(self.__dict__, _cursor=None)


def open_table(path: str, limit: int | None, hazard: str) -> LmdbTable:
    """A table that a worker process has opened. `OSError` if the worker dies; `hazard` is that of `ordered_map`."""
    import_lmdb()   # a missing library is known before a process is started
    table, = ordered_map(functools.partial(_open_table, path, limit), 1, workers=1, hazard=hazard)
    return table


def _open_table(path: str, limit: int | None, _idx: int) -> LmdbTable:
    return LmdbTable(path, limit)


def import_lmdb() -> ModuleType:
    try:
        import lmdb
    except ModuleNotFoundError as err:
        raise ValueError("LSUN needs the package lmdb, which is not installed: pip install lmdb (extra lsun)") from err
    return lmdb
