"""Pictures that no network drew: how closely are they found, and do redraws of them behave as those of samples do?

    python benchmarks/own_pictures.py --network=demo:castles64 --pictures=castles --outdir=results/own
    python benchmarks/own_pictures.py --network=demo:castles64 --pictures=photographs.zip --outdir=results/own

Each picture is found three times, as projector.py does it: with one style for all layers, with one per layer
(--w-plus), and by tuning the network to the picture around the first (--tune). Then every block is redrawn. `castles`
are drawn by a seed that no training data had. Prints a table of means over pictures:

    error            mean squared, between picture and found image, both in -1..1
    time             processor time of the search, of one thread
    inside, outside  mean squared change inside and outside a redrawn block
    locality         mean inside over mean outside

The last row redraws the network's own samples in the same way. What is finished is not done again: OUTDIR has a line
of JSON for each picture and way.
"""

from __future__ import annotations

import dataclasses
import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import numpy as np
import torch
from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from ssn_plugin.edits.edit_options import EditRequest
from ssn_plugin.edits.open_network import OpenNetwork
from ssn_plugin.edits.recipe import Picture, Recipe
from ssn_plugin.edits.recipe_files import recipe_of_search
from ssn_plugin.edits.session import Session
from training.cli import Command
from training.data.castles import draw_castle
from training.data.dataset_sources import ConversionOptions, open_source
from training.images import distances, projection, projection_files, tuning

CASTLE_SEED = 1          # data sets are drawn by seed 0
SEED = 303               # of searches and redraws
OWN = "its own samples"


@dataclasses.dataclass(frozen=True)
class Plan:
    """What is asked of every picture."""

    steps: int            # of a search
    tune_steps: int
    redraws: int          # of every block


Found = tuple[torch.Tensor, dict[str, torch.Tensor], dict[str, torch.Tensor] | None]   # ws [1, L, w_dim], noise, deltas


class Search:
    """The ways to find one picture; what one way begins with is searched once."""

    def __init__(self, network: OpenNetwork, target: torch.Tensor, plan: Plan):
        self.G, self.target, self.plan = network.G, target, plan
        self.distance = distances.EdgeDistance(target)
        self.label = torch.zeros([1, 0])
        self._first: tuple[torch.Tensor, float] | None = None

    def styles(self, w_plus: bool) -> torch.Tensor:
        """[1, L, w_dim]"""
        options = projection.ProjectionOptions(self.plan.steps, w_plus=w_plus, seed=SEED)
        return projection.fit(self.G, self.target, self.distance, options, self.label).ws[-1:]

    def first(self) -> tuple[torch.Tensor, float]:
        """One style for all layers, and what finding it took."""
        if self._first is None:
            start = time.process_time()
            ws = self.styles(w_plus=False)
            self._first = ws, time.process_time() - start
        return self._first


def search_alone(search: Search) -> tuple[Found, float]:
    ws, seconds = search.first()
    return (ws, {}, None), seconds


def search_w_plus(search: Search) -> tuple[Found, float]:
    start = time.process_time()
    return (search.styles(w_plus=True), {}, None), time.process_time() - start


def search_and_tune(search: Search) -> tuple[Found, float]:
    ws, seconds = search.first()
    start = time.process_time()
    options = tuning.TuningOptions(search.plan.tune_steps, seed=SEED)
    deltas, noise = tuning.tune(search.G, search.target, search.distance, ws, {}, search.label, options)
    return (ws, noise, deltas), seconds + time.process_time() - start


WAYS: dict[str, Callable[[Search], tuple[Found, float]]] = {
    "search": search_alone, "--w-plus": search_w_plus, "--tune": search_and_tune,
}


def load_pictures(source: str, count: int, resolution: int) -> list[Image.Image]:
    if source == "castles":
        return [draw_castle(CASTLE_SEED, resolution, index) for index in range(count)]
    files = open_source(source, ConversionOptions(max_images=count))
    return [files.load(index) for index in range(len(files))]


def redraw_blocks(session: Session, recipe: Recipe, redraws: int) -> dict[str, float]:
    """Mean changes inside and outside, over redraws of every block of the finest grid."""
    state = session.start(recipe=recipe)
    rows, cols = session.describe()["grids"][-1]
    changes = [(variant.inside, variant.outside) for block in range(rows * cols)
               for variant in session.variants(state.id, EditRequest(str(block)), redraws)]
    inside, outside = np.mean(changes, axis=0)
    return dict(inside=float(inside), outside=float(outside))


def measure(network: OpenNetwork, picture: Image.Image, name: str, way: str, search: Search, plan: Plan
            ) -> dict[str, Any]:
    """Find the picture, make of it the recipe that a user would get, and redraw that."""
    (ws, noise, deltas), seconds = WAYS[way](search)
    box = projection_files.choose_box(picture.size, (search.target.shape[3], search.target.shape[2]), None, None)
    described = Picture(name, picture.width, picture.height, box)
    recipe = recipe_of_search(network.G, network.name, SEED, None, ws, noise, deltas, described)
    session = Session(network.tuned_for(recipe))
    made = projection_files.to_tensor(session.render_recipe(recipe), search.target.device)
    error = float((made - search.target).square().mean())
    return dict(error=error, seconds=seconds, **redraw_blocks(session, recipe, plan.redraws))


class Results:
    """Lines of JSON in a file, one for each picture and way."""

    def __init__(self, path: Path, heading: dict[str, Any]):
        self.path, self.heading = path, heading
        lines = path.read_text().splitlines() if path.exists() else []
        rows = [json.loads(line) for line in lines]
        self.rows = [row for row in rows if row.items() >= heading.items()]   # of other settings: left alone

    def __contains__(self, key: tuple[str, int]) -> bool:
        return any((row["way"], row["number"]) == key for row in self.rows)

    def add(self, way: str, number: int, values: dict[str, Any]) -> None:
        self.rows.append(self.heading | dict(way=way, number=number) | values)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        with self.path.open("a") as file:
            file.write(json.dumps(self.rows[-1]) + "\n")

    def of(self, way: str, key: str) -> list[float]:
        return [row[key] for row in self.rows if row["way"] == way]


def table(results: Results) -> str:
    """Means over pictures as Markdown."""
    lines = ["| | error | time | inside | outside | locality |", "|---|---|---|---|---|---|"]
    for way in (*WAYS, OWN):
        if not results.of(way, "inside"):
            continue
        inside, outside = (statistics.mean(results.of(way, key)) for key in ("inside", "outside"))
        error, seconds = "", ""
        if way in WAYS:
            error = f"{statistics.mean(results.of(way, 'error')):.2g}"
            seconds = f"{statistics.mean(results.of(way, 'seconds')):.0f} s"
        cells = [way, error, seconds, f"{inside:.3f}", f"{outside:.4f}", f"{inside / outside:.1f}"]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


@click.command(cls=Command, help=__doc__)
@click.option("--network", "network_name", required=True, metavar="PATH|URL|NAME", help="An SSN without classes")
@click.option("--pictures", required=True, metavar="castles|PATH", help="`castles`, or a folder or .zip of pictures")
@click.option("--images", type=click.IntRange(min=1), default=20, show_default=True, help="How many")
@click.option("--steps", type=click.IntRange(min=1), default=300, show_default=True, help="Steps of a search")
@click.option("--tune-steps", type=click.IntRange(min=1), default=300, show_default=True, help="Steps of the tuning")
@click.option("--redraws", type=click.IntRange(min=1), default=2, show_default=True, help="Of every block")
@click.option("--outdir", required=True, metavar="DIR", help="Where the results are kept")
def main(network_name: str, pictures: str, images: int, outdir: str, **settings: Any) -> None:
    torch.set_num_threads(1)
    plan = Plan(**settings)
    network = OpenNetwork.load(network_name, "cpu")
    if network.G.c_dim:
        raise click.UsageError("networks with classes are not measured here")
    heading = dict(network=network.sha256, pictures=Path(pictures).name, **dataclasses.asdict(plan))
    results = Results(Path(outdir) / "own_pictures.jsonl", heading)
    session = Session(network)
    for number, picture in enumerate(load_pictures(pictures, images, network.G.img_resolution)):
        if (OWN, number) not in results:
            results.add(OWN, number, redraw_blocks(session, session.start(seed=number).recipe, plan.redraws))
        target = projection_files.to_tensor(projection_files.fit_to_network(picture, network.G), torch.device("cpu"))
        search = Search(network, target, plan)
        for way in WAYS:
            if (way, number) not in results:
                values = measure(network, picture, f"picture {number}", way, search, plan)
                results.add(way, number, values)
                click.echo(f"picture {number}, {way}: error {values['error']:.4f}, {values['seconds']:.0f} s, "
                           f"locality {values['inside'] / values['outside']:.1f}", err=True)
    click.echo(table(results))


if __name__ == "__main__":
    main()
