"""Named arrays that travel with a recipe: styles and noise maps that a search found, changes of a tuned network."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import io
import zipfile
from typing import Any

import numpy as np

from ssn_plugin.errors import UserError

MAX_BYTES = 512 * 2**20


@dataclasses.dataclass(frozen=True)
class Arrays:
    """The content of an npz file, as bytes, so that it can be compared, hashed and passed on as it came."""

    data: bytes = dataclasses.field(repr=False)

    @classmethod
    def of(cls, arrays: dict[str, np.ndarray]) -> Arrays:
        """The same arrays give the same bytes, and so the same hash."""
        buffer = io.BytesIO()
        named: dict[str, Any] = dict(arrays)
        np.savez(buffer, **named)
        return cls(buffer.getvalue())

    @functools.cached_property
    def sha256(self) -> str:
        return hashlib.sha256(self.data).hexdigest()

    def load(self) -> dict[str, np.ndarray]:
        """The arrays. ValueError unless it is an npz file, not compressed, of finite floats of 16 or 32 bits."""
        try:
            with zipfile.ZipFile(io.BytesIO(self.data)) as file:
                is_compressed = any(entry.compress_type != zipfile.ZIP_STORED for entry in file.infolist())
            with np.load(io.BytesIO(self.data), allow_pickle=False) as data:
                arrays = {} if is_compressed else {name: np.asarray(data[name]) for name in data.files}
        except Exception as err:  # damage shows as errors of zipfile, of the parser of headers and others
            raise UserError(f"not a readable npz file ({type(err).__name__})") from err
        if is_compressed:  # a small file could then hold more than any memory
            raise UserError("an npz file of a recipe must not be compressed")
        for name, value in arrays.items():
            if value.dtype not in (np.float16, np.float32) or not np.isfinite(value).all():
                raise UserError(f"array {name[:80]!r} must hold finite floats of 16 or 32 bits, got {value.dtype}")
        return arrays
