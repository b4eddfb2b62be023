"""benchmarks/own_pictures.py: pictures are found in three ways, and what is finished is not done again."""

from __future__ import annotations

import json

import pytest
import torch
from click.testing import CliRunner

pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from editor_fixtures import small_network
from network_file_helpers import snapshot

from benchmarks import own_pictures
from training.formats import network_export


def test_a_run_that_was_stopped_goes_on_to_the_same_table(tmp_path, monkeypatch):
    monkeypatch.setattr(own_pictures.Search, "styles", lambda search, w_plus: torch.zeros([1, search.G.num_ws, 36]))
    network_export.save_networks(snapshot(small_network().G), str(tmp_path / "ssn.pkl"))
    arguments = [f"--network={tmp_path / 'ssn.pkl'}", "--pictures=castles", "--steps=2", "--tune-steps=1",
                 "--redraws=1", f"--outdir={tmp_path / 'own'}"]

    def run(images: int) -> str:
        result = CliRunner().invoke(own_pictures.main, [*arguments, f"--images={images}"])
        assert result.exit_code == 0, result.output
        return result.stdout

    run(1)
    lines = (tmp_path / "own" / "own_pictures.jsonl").read_text().splitlines()
    assert [json.loads(line)["way"] for line in lines] == [own_pictures.OWN, *own_pictures.WAYS]
    table = run(2)
    longer = (tmp_path / "own" / "own_pictures.jsonl").read_text().splitlines()
    assert longer[:4] == lines and len(longer) == 8
    assert run(2) == table and table.count("\n| ") == 4
