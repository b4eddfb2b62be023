"""A small network, an editing session and a client of the editor, for its tests."""

from __future__ import annotations

import base64
import io
import json
from typing import Any

import numpy as np
import torch
from PIL import Image
from werkzeug.test import Client, TestResponse

from ssn_plugin.editor.app import Editor
from ssn_plugin.editor.guard import Guard, allowed_hosts
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.networks import SSNGenerator

TOKEN = "t" * 43
PORT = 8123
HOST = f"127.0.0.1:{PORT}"
ORIGIN = f"http://{HOST}"
REQUEST = {
    "blocks": [[0, 1]], "grid": [2, 4], "layers": [0, 5], "noise": False, "keep_exact": False, "feather": 0,
    "transplant_from": None,
}


def small_network(num_classes: int = 0) -> OpenNetwork:
    torch.manual_seed(1)
    G = SSNGenerator(
        4, num_classes, 4, 16, 3, block_grid=[[1, 1], [2, 4]], mapping_kwargs=dict(num_layers=2, lr_multiplier=1),
        synthesis_kwargs=dict(channel_base=64, channel_max=8),
    )
    return OpenNetwork.of(G.eval().requires_grad_(False), "net.pkl")


class Page:
    """What the page does: calls with all the headers that are asked for, unless a test changes them."""

    def __init__(self, studio: Any):
        self.client = Client(Editor(studio, Guard(TOKEN, allowed_hosts(["127.0.0.1", "localhost"], PORT))))

    def get(self, path: str, **headers: str | None) -> TestResponse:
        return self.client.get(path, headers=_headers({"Host": HOST, "X-SSN-Token": TOKEN}, headers))

    def post(self, path: str, body: Any, **headers: str | None) -> TestResponse:
        own = {"Host": HOST, "X-SSN-Token": TOKEN, "Origin": ORIGIN, "Content-Type": "application/json"}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return self.client.post(path, data=data, headers=_headers(own, headers))

    def variants(self, state: str, request: dict[str, Any], first: int = 1, count: int = 8) -> list[dict[str, Any]]:
        body = {"state": state, "request": request, "first": first, "count": count}
        answer = self.post("/api/variants", body)
        assert answer.status_code == 200, answer.text
        return [json.loads(line) for line in answer.text.splitlines()]


def _headers(own: dict[str, str], other: dict[str, str | None]) -> list[tuple[str, str]]:
    """`Sec_Fetch_Site` stands for Sec-Fetch-Site, None leaves a header out."""
    merged = own | {name.replace("_", "-"): value for name, value in other.items()}
    return [(name, value) for name, value in merged.items() if value is not None]


def pixels(png: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(png)))


def mask_png(weights: np.ndarray) -> str:
    """uint8 [H, W] -> as the page sends it."""
    file = io.BytesIO()
    Image.fromarray(weights).convert("RGBA").save(file, format="PNG")
    return base64.b64encode(file.getvalue()).decode()
