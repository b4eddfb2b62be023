"""edit.py: what it prints, what it refuses, where it goes on."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest

pytest.importorskip("werkzeug", reason="the editor needs the extra [editor]")

from click.testing import CliRunner
from editor_fixtures import small_network
from network_file_helpers import snapshot
from PIL import Image

import edit
from ssn_plugin.editor import finding
from ssn_plugin.editor.server import EditorServer
from training.formats import network_export

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def network(tmp_path_factory) -> str:
    path = str(tmp_path_factory.mktemp("networks") / "ssn.pkl")
    network_export.save_networks(snapshot(small_network().G), path)
    return path


def run(*args: str):
    return CliRunner().invoke(edit.main, list(args))


@pytest.mark.parametrize("args, words", [
    (["--network=no.pkl"], "no.pkl"),
    (["--network=NET", "--load=no.json"], "no.json"),
    (["--network=NET", "--picture=no.jpg"], "no.jpg"),
    (["--network=NET", "--host=0.0.0.0"], "--host must be the address that the browser will be sent to"),
    (["--network=NET", "--host=203.0.113.7"], "203.0.113.7:0 is no address of this machine"),
    (["--network=NET", "--save=."], "--save must be a file"),
    (["--network=NET", "--port=99999"], "--port"),
    (["--network=NET", "--tune"], "--tune needs --picture"),
    (["--network=NET", "--class=1"], "--class needs --picture"),
])
def test_a_mistake_is_one_line(network, args, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*[arg.replace("NET", network) for arg in args], "--no-browser")
    assert result.exit_code == 2 and words in result.output and result.output.strip().count("\n") <= 3
    assert not list(tmp_path.iterdir())


def test_a_missing_library_is_one_line_that_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "werkzeug", None)
    monkeypatch.delattr("ssn_plugin.editor.launch")
    for name in [name for name in sys.modules if name.startswith(("ssn_plugin.editor.", "werkzeug."))]:
        monkeypatch.delitem(sys.modules, name)
    result = run("--network=no.pkl")
    assert result.exit_code == 2 and "pip install 'ssn-plugin[editor]'" in result.output


def test_it_opens_the_browser_at_the_address_with_the_token(network, tmp_path, monkeypatch):
    opened = []
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(edit.webbrowser, "open", opened.append)
    monkeypatch.setattr(EditorServer, "serve", lambda self: None)
    result = run(f"--network={network}")
    assert result.exit_code == 0, result.output
    assert re.fullmatch(r"http://127\.0\.0\.1:\d+/#[\w-]{43}", opened[0]) and opened[0] in result.output
    assert "--load=edits/ssn-1.json" in result.output
    assert not (tmp_path / "edits").exists()   # nothing was changed yet


@pytest.mark.parametrize("options", [[], ["--tune"]])
def test_a_picture_is_found_before_the_page_opens(network, tmp_path, monkeypatch, options):
    Image.new("RGB", (30, 20), "green").save(tmp_path / "green.png")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(finding, "STEPS", 2)
    monkeypatch.setattr(finding, "TUNE_STEPS", 2)
    recipes = []
    monkeypatch.setattr(EditorServer, "serve", lambda self: recipes.append(self.editor.studio.session.current.recipe))
    result = run(f"--network={network}", "--picture=green.png", "--no-browser", *options)
    assert result.exit_code == 0, result.output
    assert recipes[0].picture.name == "green.png" and (recipes[0].tuned is not None) == bool(options)


def test_a_server_that_is_killed_loses_nothing_that_was_answered(network, tmp_path, monkeypatch):
    saved = tmp_path / "session.json"
    command = [sys.executable, str(ROOT / "edit.py"), f"--network={network}", "--no-browser", f"--save={saved}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=tmp_path) as server:
        try:
            url, token = re.search(r"(http://\S+)#(\S+)", server.stdout.readline()).groups()
            headers = {"X-SSN-Token": token, "Origin": url.rstrip("/"), "Content-Type": "application/json"}
            call = urllib.request.Request(f"{url}api/start", json.dumps({"seed": 5, "class": None}).encode(), headers)
            with urllib.request.urlopen(call, timeout=60) as answer:
                tree = json.load(answer)
        finally:
            server.send_signal(signal.SIGKILL)

    going_on = []
    monkeypatch.setattr(EditorServer, "serve", lambda self: going_on.append(self.editor.studio.tree()))
    assert run(f"--network={network}", f"--load={saved}", "--no-browser").exit_code == 0
    assert going_on == [tree] and tree["states"][0]["seed"] == 5
