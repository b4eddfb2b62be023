"""The LMDB reader against the library that writes the files, and on damaged files."""

from __future__ import annotations

import pickle
import random
import struct
from pathlib import Path

import pytest

from training.lmdb_file import LmdbFile

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
    (600, [0, 1, 100, 2000]),               # values inside of the tree, several levels
    (200, [2030, 4080, 4081, 9000, 30000]), # values on pages of their own
])
def test_entries_are_those_that_were_written_in_the_order_of_their_keys(tmp_path, num_entries, sizes):
    entries = table(tmp_path, num_entries, sizes)
    file = LmdbFile(str(tmp_path / "data.mdb"))
    assert [(file.key(i), file.value(i)) for i in range(len(file))] == sorted(entries.items())


def test_an_empty_table_has_no_entries(tmp_path):
    lmdb.open(str(tmp_path)).close()
    assert len(LmdbFile(str(tmp_path / "data.mdb"))) == 0


def test_a_limit_takes_the_first_entries(tmp_path):
    entries = table(tmp_path, 300, [100])
    file = LmdbFile(str(tmp_path / "data.mdb"), limit=7)
    assert [file.key(i) for i in range(len(file))] == sorted(entries)[:7]


def test_the_reader_survives_pickling(tmp_path):
    entries = table(tmp_path, 30, [100])
    file = pickle.loads(pickle.dumps(LmdbFile(str(tmp_path / "data.mdb"))))
    assert file.value(0) == min(entries.items())[1]


def test_the_newest_commit_counts(tmp_path):
    for value in (b"old", b"new", b"newer"):   # each commit writes the other one of two meta pages
        with lmdb.open(str(tmp_path)) as env, env.begin(write=True) as transaction:
            transaction.put(b"key", value)
        assert LmdbFile(str(tmp_path / "data.mdb")).value(0) == value


@pytest.mark.parametrize("data, reason", [
    (b"", "has only 0 bytes"),
    (b"no database" * 1000, "no LMDB mark"),
    (struct.pack("<16x II 16x I 200x", 0xBEEFC0DE, 1, 1000), "pages of 1000 bytes"),
    (struct.pack("<16x II 16x I 200x", 0xBEEFC0DE, 1, 4096), "page 0|meta page 0|cut short"),
])
def test_other_files_are_refused(tmp_path, data, reason):
    path = tmp_path / "data.mdb"
    path.write_bytes(data)
    with pytest.raises(OSError, match=f"data.mdb is not a readable LMDB file: .*({reason})"):
        LmdbFile(str(path))


def test_tables_with_several_values_of_a_key_are_refused(tmp_path):
    with lmdb.open(str(tmp_path), max_dbs=1) as env, env.begin(write=True) as transaction:
        transaction.put(b"key", b"value", db=env.open_db(b"inner", transaction))
    with pytest.raises(OSError, match="holds a table"):
        LmdbFile(str(tmp_path / "data.mdb")).value(0)


def test_a_file_that_is_cut_short_is_refused(tmp_path):
    table(tmp_path, 100, [3000])
    path = tmp_path / "data.mdb"
    data = path.read_bytes()
    last_page, = struct.unpack_from("<Q", data, max(16, 4096 + 16) + 120)
    for size in range(1, (last_page + 1) * 4096, 9973):
        path.write_bytes(data[:size])
        with pytest.raises(OSError, match="not a readable LMDB file"):
            file = LmdbFile(str(path))
            for i in range(len(file)):
                file.value(i)


def test_damaged_files_give_wrong_bytes_or_one_line_and_never_anything_else(tmp_path):
    entries = table(tmp_path, 300, [10, 500, 5000])
    path = tmp_path / "data.mdb"
    data, rng, refused = path.read_bytes(), random.Random(1), 0
    for _ in range(150):
        damaged = bytearray(data)
        for _ in range(rng.choice([1, 20, 200])):
            damaged[rng.randrange(len(data) // 4096) * 4096 + rng.randrange(160)] = rng.randrange(256)
        path.write_bytes(damaged)
        try:
            file = LmdbFile(str(path))
            for i in range(len(file)):
                assert len(file.key(i)) + len(file.value(i)) <= len(data)
        except OSError as err:
            refused += 1
            assert str(err).startswith(f"{path} is not a readable LMDB file: ") and "\n" not in str(err)
        else:
            assert len(file) == len(entries)
    assert refused > 50
