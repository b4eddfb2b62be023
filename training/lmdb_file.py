"""Read LMDB data files without the library.

The library maps the file into memory and trusts it: one that is cut short or damaged ends the process. Here every
number of the file is checked before it is used. The format is that of LMDB 0.9 on little-endian 64-bit machines, in
which LSUN is published: pages of one size that form a B+ tree.

    page    number u64, unused u16, kind u16, end of the table u16, start of the nodes u16, table of u16 node offsets
    meta    a page whose body is magic u32, version u32, address u64, size u64, two tables, last page u64, commit u64
    table   page size u32, flags u16, depth u16, pages u64 x 3, number of entries u64, number of the root page u64
    node    in a branch: child page (u16 x 3), length of the key u16, key
            in a leaf: length of the value (u16 x 2), flags u16, length of the key u16, key, value or its page u64
"""

from __future__ import annotations

import array
import os
import struct
from collections.abc import Iterator
from typing import BinaryIO, NamedTuple

MAGIC, VERSION = 0xBEEFC0DE, 1
BRANCH, LEAF, OVERFLOW, META, DIRTY = 0x01, 0x02, 0x04, 0x08, 0x10   # kinds of pages; dirty is a mark beside a kind
BIG_VALUE = 0x01                                                     # flag of a node whose value has its own pages
NO_PAGE = 2**64 - 1
MAX_DEPTH = 32

PAGE = struct.Struct("<QHHHH")
META_BODY = struct.Struct("<IIQQ 48x IHHQQQQQ QQ")   # the first table lists free pages
NODE = struct.Struct("<HHHH")
PAGE_SIZE = struct.Struct("<I")
PAGE_SIZE_AT = PAGE.size + 24   # the unused first field of the table of free pages holds the page size


class Tree(NamedTuple):
    """The table of entries in one committed state of the file."""

    commit: int
    root: int
    depth: int
    num_entries: int


class LmdbFile:
    """The entries of an LMDB data file by their position in the order of the keys; pickles as path and index.

    Raises `OSError` with one line that names the file if it is damaged, cut short or of another kind.
    """

    def __init__(self, path: str, limit: int | None = None):
        self.path = path
        with open(path, "rb") as file:
            self._size = os.fstat(file.fileno()).st_size
            self._page_size = self._read_page_size(file)
            tree = self._read_newest_tree(file)
            self._nodes = array.array("Q")   # positions of the leaf nodes in the file; LSUN has millions
            for node in self._walk(file, tree):
                if limit is not None and len(self._nodes) == limit:
                    return
                self._nodes.append(node)
        if len(self._nodes) != tree.num_entries:
            raise self._damaged(f"has {len(self._nodes)} entries where it claims {tree.num_entries}")

    def __len__(self) -> int:
        return len(self._nodes)

    def key(self, idx: int) -> bytes:
        with open(self.path, "rb") as file:
            position, (_, _, _, key_size) = self._nodes[idx], self._read_node(file, self._nodes[idx])
            return self._read(file, position + NODE.size, key_size)

    def value(self, idx: int) -> bytes:
        with open(self.path, "rb") as file:
            position = self._nodes[idx]
            low, high, flags, key_size = self._read_node(file, position)
            size, start = low | high << 16, position + NODE.size + key_size
            if flags & ~BIG_VALUE:
                raise self._damaged(f"entry {idx} holds a table or several values, which is not supported")
            if not flags:
                return self._read(file, start, size)
            page = int.from_bytes(self._read(file, start, 8), "little")
            _, _, kind, *count = PAGE.unpack(self._read_page(file, page, PAGE.size))
            if kind & ~DIRTY != OVERFLOW or PAGE.size + size > (count[0] | count[1] << 16) * self._page_size:
                raise self._damaged(f"entry {idx} is longer than its pages")
            return self._read(file, page * self._page_size + PAGE.size, size)

    def _damaged(self, reason: str) -> OSError:
        return OSError(f"{self.path} is not a readable LMDB file: {reason}")

    def _read(self, file: BinaryIO, position: int, size: int) -> bytes:
        """`size` bytes that must lie within the file; nothing is allocated on a false claim."""
        if position + size > self._size:
            raise self._damaged(f"cut short at {self._size} bytes")
        file.seek(position)
        return file.read(size)

    def _read_page(self, file: BinaryIO, number: int, size: int) -> bytes:
        """The first `size` bytes of a page."""
        data = self._read(file, number * self._page_size, size)
        if int.from_bytes(data[:8], "little") != number:
            raise self._damaged(f"page {number} says that it is another one")
        return data

    def _read_node(self, file: BinaryIO, position: int) -> tuple[int, int, int, int]:
        return NODE.unpack(self._read(file, position, NODE.size))

    def _read_page_size(self, file: BinaryIO) -> int:
        """From the first meta page, whose place does not depend on it."""
        if self._size < PAGE.size + META_BODY.size:
            raise self._damaged(f"has only {self._size} bytes")
        if struct.unpack("<I", self._read(file, PAGE.size, 4)) != (MAGIC,):
            raise self._damaged("no LMDB mark at its beginning")
        size, = PAGE_SIZE.unpack(self._read(file, PAGE_SIZE_AT, PAGE_SIZE.size))
        if not 256 <= size <= 2**16 or size & (size - 1):
            raise self._damaged(f"pages of {size} bytes")
        return size

    def _read_newest_tree(self, file: BinaryIO) -> Tree:
        """Every commit overwrites the older one of the two meta pages."""
        trees = []
        for number in range(2):
            page = self._read_page(file, number, PAGE.size + META_BODY.size)
            magic, version, *_, flags, depth, _, _, _, entries, root, _, commit = META_BODY.unpack_from(page, PAGE.size)
            if PAGE.unpack_from(page)[2] & ~DIRTY != META or magic != MAGIC or version != VERSION:
                raise self._damaged(f"meta page {number} is not of LMDB format {VERSION}")
            if flags or depth > MAX_DEPTH:
                raise self._damaged(f"a table with flags {flags} and depth {depth} is not supported")
            trees.append(Tree(commit, root, depth, entries))
        return max(trees)

    def _walk(self, file: BinaryIO, tree: Tree) -> Iterator[int]:
        """Positions of the leaf nodes in the order of their keys."""
        todo = [(tree.root, 1)] if tree.root != NO_PAGE else []
        seen = set()
        while todo:
            number, depth = todo.pop()
            if number in seen or depth > tree.depth:
                raise self._damaged(f"its tree reaches page {number} twice or is too deep")
            seen.add(number)
            page = self._read_page(file, number, self._page_size)
            kind = PAGE.unpack_from(page)[2] & ~DIRTY
            if kind == LEAF:
                yield from (number * self._page_size + offset for offset in self._node_offsets(page, number))
            elif kind == BRANCH:
                children = [NODE.unpack_from(page, offset)[:3] for offset in self._node_offsets(page, number)]
                todo += [(low | mid << 16 | high << 32, depth + 1) for low, mid, high in reversed(children)]
            else:
                raise self._damaged(f"page {number} is of an unknown kind")

    def _node_offsets(self, page: bytes, number: int) -> tuple[int, ...]:
        """Where the nodes begin in a page of the tree."""
        end = PAGE.unpack_from(page)[3]
        if not PAGE.size <= end <= self._page_size:
            raise self._damaged(f"page {number} has a table of {end} bytes")
        offsets = struct.unpack_from(f"<{(end - PAGE.size) // 2}H", page, PAGE.size)
        if any(not end <= offset <= self._page_size - NODE.size for offset in offsets):
            raise self._damaged(f"page {number} has an entry outside of it")
        return offsets
