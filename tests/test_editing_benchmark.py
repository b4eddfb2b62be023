"""benchmarks/editing.py: the requests that its watch over the memory sends."""

from __future__ import annotations

import itertools

import pytest

pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from editor_fixtures import small_network

from benchmarks import editing
from ssn_plugin.editor.studio import Studio
from ssn_plugin.edits.session import Session


def test_requests_are_of_all_kinds_and_no_more_states_come_of_them_than_are_said(tmp_path, capsys):
    studio = Studio(Session(small_network()), str(tmp_path / "session.json"))
    studio.start(4)
    page = editing.Page(studio)
    calls = list(itertools.islice(editing.requests_of_all_kinds(studio), 26 * editing.NUM_KEPT))
    refused = [call[0] for call in calls[:13] if page.call(*call).startswith(b'{"error"')]
    assert refused == ["/api/variants", "/api/picture", "/api/session"]   # too many, no picture, a wrong token
    for call in calls:
        if call[0] == "/api/keep":
            page.call(*call)
    assert len(studio.session.states) == 1 + editing.NUM_KEPT
    studio.close()
    editing.watch_memory(small_network(), 26)
    assert len(capsys.readouterr().out.splitlines()) == 1 + 10
