"""Speed of the editor: from a click to the variants, as the page gets them, beside bare forward passes.

    python benchmarks/editing.py
    python benchmarks/editing.py --network=ssn.pkl --repeats=3
    python benchmarks/editing.py --network=ssn.pkl --requests=100000

Every time includes all that the server does: the check of the request, latents, synthesis, PNG, base64, JSON, and the
session file of each change. "Bare" are as many calls of the synthesis network with batch 1, made in turns with the
clicks, so that a machine whose speed drifts does the ratios little harm. Times are medians, of one thread unless
--threads says otherwise. On a machine that others use as well, --cpu-time counts what this process alone took.

With --requests the editor answers so many of all kinds instead, also such as it refuses, and the memory of the process
is printed at every tenth. The caches of images are small then, so that they are soon full.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import click
import psutil
import torch
from werkzeug.test import Client

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.editor.app import Editor
from ssn_plugin.editor.guard import Guard, allowed_hosts, new_token
from ssn_plugin.editor.studio import Studio
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.session import Session
from ssn_plugin.networks import SSNGenerator
from training.cli import Command
from training.config import auto_spec

NUM_VARIANTS, NUM_EDITS = 8, 20
SMALL_CACHE = 64 * 2**10  # bytes, where memory is looked at
NUM_KEPT = 20             # states of a session, where memory is looked at: more states are more recipes

Clock = Callable[[], float]


def auto_network(resolution: int) -> OpenNetwork:
    """An untrained SSN with the channels of --cfg=auto and a global code."""
    torch.manual_seed(0)
    spec = auto_spec(resolution, gpus=1)
    G = SSNGenerator(512, 0, 512, resolution, 3, block_grid=[[1, 1], [4, 4]], synthesis_kwargs=dict(
        channel_base=int(spec.fmaps * 32768), channel_max=512))
    return OpenNetwork.of(G.eval().requires_grad_(False), f"untrained, {resolution}x{resolution}, channels of auto")


def request(studio: Studio, number: int) -> dict[str, Any]:
    """Redraw a block of the finest grid, another one each time."""
    about = studio.about()
    rows, cols = about["grids"][-1]
    return {
        "blocks": [list(divmod(number % (rows * cols), cols))], "grid": [rows, cols], "layers": about["layers"]["all"],
        "noise": False, "keep_exact": False, "feather": 0, "transplant_from": None,
    }


def click_once(studio: Studio, state: str, number: int, clock: Clock) -> tuple[float, float]:
    """Seconds from a click on a block to the first variant and to the last of eight."""
    start = clock()
    variants = studio.variants(state, request(studio, number), 1, NUM_VARIANTS)
    next(variants)
    first = clock() - start
    assert len(list(variants)) == NUM_VARIANTS - 1
    return first, clock() - start


def edit_and_undo(studio: Studio, clock: Clock) -> float:
    """Seconds of twenty edits, each kept and shown, and of all the way back."""
    state = studio.start(5)["current"]
    start = clock()
    for number in range(NUM_EDITS):
        state = studio.keep(state, request(studio, number), 1)["current"]
        studio.image(state)
    for _ in range(NUM_EDITS):
        studio.image(studio.undo()["current"])
    return clock() - start


def bare_passes(studio: Studio, clock: Clock) -> float:
    """Seconds of as many calls of the synthesis network as a click needs, in the thread that the studio uses."""
    G = studio.session.network.G

    def work() -> None:
        ws = torch.randn([1, G.num_ws, G.w_dim])
        for _ in range(NUM_VARIANTS):
            G.synthesis(ws, noise_mode="const")

    start = clock()
    studio._run(work)
    return clock() - start


class Page:
    """Makes calls as the page does, without a socket."""

    def __init__(self, studio: Studio):
        self.token, host = new_token(), "127.0.0.1:80"
        self.client = Client(Editor(studio, Guard(self.token, allowed_hosts(["127.0.0.1"], 80))))
        self.headers = {"Host": host, "Origin": f"http://{host}", "Content-Type": "application/json"}

    def call(self, path: str, body: dict[str, Any] | None = None, token: str | None = None) -> bytes:
        headers = [*self.headers.items(), ("X-SSN-Token", self.token if token is None else token)]
        data = None if body is None else json.dumps(body).encode()
        return self.client.open(path, method="GET" if body is None else "POST", data=data, headers=headers).data


def requests_of_all_kinds(studio: Studio) -> Iterator[tuple]:
    """Arguments of `Page.call`, without end: new and known images, changes, exports, refusals. Starts from state s1."""
    place, number = request(studio, 0), 0
    no_picture = {"data": "eA==", "name": "x", "box": [0, 0, 1, 1], "likeness": "style", "class": None}
    while True:
        number += 1
        kept = 1 + number % NUM_KEPT
        edit = {"state": "s1", "request": place}
        yield f"/api/seed/{number}",
        yield "/api/variants", edit | {"first": number, "count": 2}
        yield "/api/keep", edit | {"number": kept}
        yield "/api/image/s2",
        yield "/api/undo", {}
        yield "/api/redo", {}
        yield "/api/session",
        yield "/api/favourites", {"seeds": [number]}
        yield "/api/export", {"state": "s2", "kind": "png", "options": {"scale": 2}}
        yield "/api/variants", edit | {"first": 0, "count": 999}
        yield "/api/picture", no_picture
        yield "/api/session", None, "wrong"
        yield "/app.js",


def watch_memory(network: OpenNetwork, count: int) -> None:
    process = psutil.Process()
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Session(network, SMALL_CACHE), f"{folder}/session.json")
        studio._pngs.max_bytes = SMALL_CACHE
        studio.start(4)
        page, calls = Page(studio), requests_of_all_kinds(studio)
        click.echo(f"{network.name}: MiB after so many requests")
        for tenth in range(1, 11):
            for _ in range(tenth * count // 10 - (tenth - 1) * count // 10):
                page.call(*next(calls))
            click.echo(f"  {tenth * count // 10:8d} {process.memory_info().rss / 2**20:8.1f}")
        studio.close()


def report(network: OpenNetwork, repeats: int, clock: Clock) -> None:
    with tempfile.TemporaryDirectory() as folder:
        studio = Studio(Session(network), f"{folder}/session.json")
        state = studio.start(4)["current"]
        studio.image(state)   # it is on the screen
        turns = [(bare_passes(studio, clock), *click_once(studio, state, n, clock)) for n in range(repeats + 1)]
        del turns[0]   # it prepares the others
        bare, first, last = (statistics.median(times) for times in zip(*turns))
        ratio = statistics.median(last / bare for bare, _, last in turns)
        chain = edit_and_undo(studio, clock)
        studio.close()
    click.echo(f"{network.name}")
    click.echo(f"  {NUM_VARIANTS} bare forward passes    {1000 * bare:8.1f} ms")
    click.echo(f"  click to first variant   {1000 * first:8.1f} ms")
    click.echo(f"  click to {NUM_VARIANTS} variants      {1000 * last:8.1f} ms   {ratio:.2f} of the bare passes")
    click.echo(f"  {NUM_EDITS} edits and back        {chain:8.2f} s")


@click.command(cls=Command)
@click.option("--network", "networks", multiple=True, metavar="PATH|NAME", help="Network file or short name")
@click.option("--auto", "resolutions", multiple=True, type=int, metavar="INT",
              help="An untrained network of this size with the channels of --cfg=auto")
@click.option("--repeats", type=click.IntRange(min=1), default=9, show_default=True)
@click.option("--threads", type=click.IntRange(min=1), default=1, show_default=True)
@click.option("--requests", type=click.IntRange(min=10), help="Answer so many requests and watch the memory instead")
@click.option("--cpu-time", is_flag=True, help="Count the processor time of this process instead of the clock's")
def main(
    networks: tuple[str, ...], resolutions: tuple[int, ...], repeats: int, threads: int, requests: int | None,
    cpu_time: bool,
) -> None:
    """Time clicks and edits, or watch the memory."""
    torch.set_num_threads(threads)
    clock = time.process_time if cpu_time else time.perf_counter
    if not networks and not resolutions:
        networks, resolutions = ("demo:castles64",), (256,) if requests is None else ()
    opened = (*(OpenNetwork.load(name, "cpu") for name in networks), *map(auto_network, resolutions))
    for network in opened:
        if requests is None:
            report(network, repeats, clock)
        else:
            watch_memory(network, requests)


if __name__ == "__main__":
    main()
