"""Networks of the Hugging Face hub, with a folder and a stub in its place."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest
from editor_fixtures import small_network
from network_file_helpers import assert_same_tensors, snapshot

import ssn_plugin
from dnnlib.util import UserError
from training.formats import network_export
from training.network_files import load_networks

huggingface_hub = pytest.importorskip("huggingface_hub", reason="needs the extra [hub]")
pytest.importorskip("safetensors", reason="needs the extra [hub]")


class Api:
    """The calls of huggingface_hub's HfApi that its mixin makes, on a folder."""

    folder: Path

    def __init__(self, **_: Any):
        pass

    def create_repo(self, repo_id: str, **_: Any) -> Any:
        class Repository:
            pass

        Repository.repo_id = repo_id  # type: ignore[attr-defined]
        return Repository

    def upload_folder(self, repo_id: str, folder_path: Any, **_: Any) -> str:
        shutil.copytree(folder_path, self.folder / repo_id)
        return f"hub/{repo_id}"


def test_what_is_pushed_is_opened_by_name_and_by_every_command(tmp_path, monkeypatch):
    import huggingface_hub.hub_mixin

    G = small_network().G
    network_export.save_networks(snapshot(G), tmp_path / "net.pkl")
    monkeypatch.setattr(huggingface_hub.hub_mixin, "HfApi", Api)
    Api.folder = tmp_path / "hub"
    monkeypatch.setattr(
        huggingface_hub, "hf_hub_download", lambda repository, name, **_: str(Api.folder / repository / name))
    assert ssn_plugin.push_to_hub(str(tmp_path / "net.pkl"), "someone/net", licence="CC0-1.0") == "hub/someone/net"
    card = (tmp_path / "hub" / "someone" / "net" / "README.md").read_text()
    assert "CC0-1.0" in card and "## Intended use" in card and "1x1 + 2x4" in card

    assert_same_tensors(load_networks("hf:someone/net")["G_ema"], G)
    image = ssn_plugin.from_pretrained("someone/net", device="cpu").image(seed=1)
    assert (ssn_plugin.open(str(tmp_path / "net.pkl"), "cpu").image(seed=1).pixels == image.pixels).all()
    local = ssn_plugin.from_pretrained(str(tmp_path / "hub" / "someone" / "net"), device="cpu")
    assert (local.image(seed=1).pixels == image.pixels).all()


def test_what_cannot_be_had_is_one_line(tmp_path, monkeypatch):
    def gone(*_: Any, **__: Any) -> str:
        raise OSError("404\nmore")

    monkeypatch.setattr(huggingface_hub, "hf_hub_download", gone)
    with pytest.raises(UserError, match=r"^hf:no/one cannot be fetched: 404$"):
        load_networks("hf:no/one")
    with pytest.raises(UserError, match="has no model.safetensors"):
        load_networks(f"hf:{tmp_path}")
