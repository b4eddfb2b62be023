"""The page without a server in a real browser: variants, a recipe that generate.py replays, no request elsewhere."""

from __future__ import annotations

import functools
import http.server
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("onnxruntime", reason="needs the extra [export]")
pytest.importorskip("onnxscript", reason="needs the extra [export]")
pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from editor_fixtures import small_network
from network_file_helpers import snapshot
from test_editor_browser import User, browser, missing  # noqa: F401  a fixture

from ssn_plugin.errors import UserError
from ssn_plugin.exporting import site
from training.formats import network_export


class Quiet(http.server.SimpleHTTPRequestHandler):
    def log_message(self, format: str, *args: Any) -> None:
        pass


class Opened:
    """What `User` takes for an editor."""

    def __init__(self, url: str):
        self.server = self
        self.url = url


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("networks") / "ssn.pkl")
    network_export.save_networks(snapshot(small_network().G), path)
    return path


@pytest.fixture(scope="module")
def page(network, tmp_path_factory):
    """The folder on a port of this machine."""
    folder = tmp_path_factory.mktemp("sites") / "site"
    if os.environ.get("SSN_ONNXRUNTIME_WEB") is None and shutil.which("npm") is None:
        missing("npm, or a folder with onnxruntime-web in SSN_ONNXRUNTIME_WEB")
    try:
        site.export_page(small_network().G, folder, network, runtime=os.environ.get("SSN_ONNXRUNTIME_WEB"))
    except UserError as err:
        pytest.skip(f"onnxruntime-web is not to be had here: {err}")
    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield Opened(f"http://127.0.0.1:{server.server_address[1]}/")
        server.shutdown()
        thread.join()


def test_the_journey(browser, page, network, tmp_path):  # noqa: F811
    import generate

    user = User(browser, page)
    user.start(3)
    user.click(6, 2)   # block (0, 1) of the 2x4 grid
    user.wait_for_variants()
    first = user.keep(2)
    user.page.click("label:has(#noise)")
    user.page.click("label:has(#keep-exact)")
    user.click(14, 14)
    user.wait_for_variants()
    second = user.keep(5)
    user.press("Control+z", f"editor.tree.current === '{first}'")
    user.press("Control+Shift+z", f"editor.tree.current === '{second}'")
    assert not user.page.is_visible("[data-tool=brush]")
    user.page.reload()
    user.until("Boolean(window.editor?.stage.image)")
    assert user.current()["id"] == second

    image, recipe = user.save("png"), user.save("recipe")
    for name, content in (("image.png", image), ("recipe.json", recipe)):
        (tmp_path / name).write_bytes(content)
    shown = np.asarray(Image.open(tmp_path / "image.png").convert("RGB")).astype(int)
    for source in ("recipe.json", "image.png"):
        out = tmp_path / source.replace(".", "-")
        arguments = [f"--network={network}", f"--recipe={tmp_path / source}", f"--outdir={out}"]
        generate.main(arguments, standalone_mode=False)
        made = np.asarray(Image.open(next(out.glob("*.png")))).astype(int)
        assert np.abs(made - shown).max() <= 1
    user.page.close()
    assert user.faults == []


def test_a_runtime_that_is_not_there_is_said_in_one_line(tmp_path, monkeypatch):
    with pytest.raises(UserError, match="--runtime must be a folder with the files of onnxruntime-web"):
        site.find_runtime(tmp_path)
    monkeypatch.setattr(shutil, "which", lambda _: None)
    with pytest.raises(UserError, match="npm fetches"):
        site.fetch(Path(tmp_path))
    assert list(tmp_path.iterdir()) == []
