"""The entries of LMDB files that the library wrote, in good and in bad condition."""

from __future__ import annotations

import os
import pickle
import random
import struct
import sys
from pathlib import Path

import pytest

from training.data.dataset_sources import LmdbImages
from training.data.ordered_pool import ordered_map

lmdb = pytest.importorskip("lmdb")


def table(path: Path, num_entries: int, sizes: list[int], seed: int = 0) -> dict[bytes, bytes]:
    """Write `path/data.mdb` in several commits with deletions between; returns its entries."""
    rng, entries = random.Random(seed), {}
    with lmdb.open(str(path), map_size=2**26) as env:
        for _ in range(3):
            with env.begin(write=True) as transaction:
                for _ in range(num_entries // 3):
                    key, value = rng.randbytes(20).hex().encode(), rng.randbytes(rng.choice(sizes))
                    entries[key] = value
                    transaction.put(key, value)
            with env.begin(write=True) as transaction:
                for key in list(entries)[::5]:
                    del entries[key]
                    transaction.delete(key)
    return entries


@pytest.mark.parametrize("num_entries, sizes", [
    (3, [10]),
    (600, [0, 1, 100, 2000]),          # values inside of the tree, several levels
    (200, [2030, 4080, 9000, 30000]),   # values on pages of their own
])
def test_entries_are_those_that_were_written_in_the_order_of_their_keys(tmp_path, num_entries, sizes):
    entries = table(tmp_path, num_entries, sizes)
    file = LmdbImages(str(tmp_path / "data.mdb"))
    assert [(file.name(i).encode(), file.read(i)) for i in range(len(file))] == sorted(entries.items())


def test_entries_can_be_read_in_any_order_and_leaving_some_out(tmp_path):
    entries = sorted(table(tmp_path, 300, [100, 5000]).items())
    file = LmdbImages(str(tmp_path / "data.mdb"))
    for i in (7, 100, 3, 3, 0, len(entries) - 1, 1):
        assert (file.name(i).encode(), file.read(i)) == entries[i]


def test_an_empty_table_has_no_entries(tmp_path):
    lmdb.open(str(tmp_path)).close()
    assert len(LmdbImages(str(tmp_path / "data.mdb"))) == 0


@pytest.mark.parametrize("limit, expected", [(7, 7), (300, 195)])
def test_a_limit_takes_the_first_entries(tmp_path, limit, expected):
    entries = table(tmp_path, 300, [100])
    file = LmdbImages(str(tmp_path / "data.mdb"), limit)
    assert len(entries) == 195 and [file.name(i).encode() for i in range(len(file))] == sorted(entries)[:expected]


def test_a_table_that_is_being_read_can_be_handed_to_other_processes(tmp_path):
    entries = table(tmp_path, 30, [100])
    file = LmdbImages(str(tmp_path / "data.mdb"))
    file.read(5)
    copy = pickle.loads(pickle.dumps(file))
    assert list(ordered_map(copy.read, len(copy), workers=2)) == [entries[key] for key in sorted(entries)]


def test_reading_makes_no_file(tmp_path):
    entries = table(tmp_path, 30, [100])
    (tmp_path / "lock.mdb").unlink()
    assert LmdbImages(str(tmp_path / "data.mdb")).read(0) == min(entries.items())[1]
    assert os.listdir(tmp_path) == ["data.mdb"]


def test_a_missing_library_is_named_with_its_extra(tmp_path, monkeypatch):
    table(tmp_path, 3, [10])
    monkeypatch.setitem(sys.modules, "lmdb", None)
    with pytest.raises(ValueError, match=r"LSUN needs the package lmdb.*pip install lmdb \(extra lsun\)"):
        LmdbImages(str(tmp_path / "data.mdb"))


@pytest.mark.parametrize("data", [b"", b"no database" * 1000, struct.pack("<16x II 16x I 200x", 0xBEEFC0DE, 1, 4096)])
def test_other_files_are_refused(tmp_path, data):
    path = tmp_path / "data.mdb"
    path.write_bytes(data)
    with pytest.raises(OSError, match="data.mdb is not a readable LMDB file: "):
        LmdbImages(str(path))


def test_a_file_that_is_cut_short_is_refused_before_any_entry_is_read(tmp_path):
    table(tmp_path, 100, [3000])
    path = tmp_path / "data.mdb"
    data = path.read_bytes()
    for size in [*range(0, len(data), 9973), len(data) - 1]:
        path.write_bytes(data[:size])
        with pytest.raises(OSError, match=f"data.mdb is (not a readable LMDB file|cut short: it has {size} bytes)"):
            LmdbImages(str(path))


@pytest.mark.parametrize("meta", [0, 4096])
@pytest.mark.parametrize("page_size", [0, 100, 2**20, 2**32 - 1])
def test_an_impossible_page_size_is_refused_before_the_library_divides_by_it(tmp_path, meta, page_size):
    table(tmp_path, 30, [10])
    path = tmp_path / "data.mdb"
    data = bytearray(path.read_bytes())
    struct.pack_into("<I", data, meta + 16 + 24, page_size)
    path.write_bytes(data)
    with pytest.raises(OSError, match="data.mdb is not a readable LMDB file: its header"):
        LmdbImages(str(path))


def test_more_entries_than_the_file_can_hold_are_refused(tmp_path):
    table(tmp_path, 30, [10])
    path = tmp_path / "data.mdb"
    data = bytearray(path.read_bytes())
    for meta in (0, 4096):
        struct.pack_into("<Q", data, meta + 16 + 24 + 48 + 32, 2**63)
    path.write_bytes(data)
    with pytest.raises(OSError, match=f"is damaged: it claims {2**63} entries"):
        LmdbImages(str(path))
