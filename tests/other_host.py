"""The plugin in another host than that of this project, for tests in one process."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

import ssn_plugin.metrics  # noqa: F401  registers with this host, before a test pretends that it is another
from ssn_plugin.hosts import host, reference


@contextlib.contextmanager
def in_host_of(command: str) -> Iterator[None]:
    """Inside, the plugin takes the host for another one if the command is one of those named `reference ...`."""
    with pytest.MonkeyPatch.context() as patch:
        if command.startswith("reference"):
            patch.setattr(host, "current", lambda: reference)
        yield
