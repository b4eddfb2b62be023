"""What `import ssn_plugin` offers to programs and notebooks; docs/python.md shows it at work.

Needs this project's own host. Everything heavy is imported when a function is called.
"""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from ssn_plugin.edits.session import EditedImage, Session


def open(network: str, device: str | None = None, trust: bool = False) -> Session:
    """Open a network for editing its images: a file, a URL or a short name such as demo:castles64.

    device: cpu, cuda or cuda:N; None: a GPU if there is one.  trust: execute source code that the file carries.
    """
    from ssn_plugin.edits.session import Session

    return Session.open(network, device, trust)


def project(
    network: str,                      # a file, a URL or a short name
    picture: str | os.PathLike,        # the part that is looked at is resized to the network's images
    loss: str = "edges",               # compare pixels and their edges; "mse": pixels; "lpips": as VGG16 sees them
    num_steps: int = 1000,             # of the search
    crop: str | None = None,           # "left,top,right,bottom" of the part in pixels; None: the middle
    w_plus: bool = False,              # a style for each layer, which comes closer and can be edited less well
    stay: float = 0.0,                 # keeps the styles near those that the network makes itself
    tune: bool = False,                # then change the network itself a little towards the picture
    seed: int = 303,                   # of everything random
    class_: int | None = None,         # class of a conditional network
    device: str | None = None,         # cpu, cuda or cuda:N; None: a GPU if there is one
    trust: bool = False,               # execute source code that the file carries
) -> EditedImage:
    """Search for the image of a network that comes closest to a picture, to be edited like any other.

    Raises ValueError for a network without a block grid and for a file that is no picture.
    """
    from ssn_plugin.edits.recipe import Picture
    from ssn_plugin.edits.recipe_files import recipe_of_search
    from ssn_plugin.edits.session import EditedImage, Session
    from torch_utils.devices import choose_device
    from training.images import distances, generation, projection, projection_files, tuning

    if loss not in ("edges", "mse", "lpips"):
        raise ValueError(f"loss must be edges, mse or lpips, got {loss!r}")
    session, where = open(network, device, trust), choose_device(device)
    G = session.network.G
    source = projection_files.open_target(picture)
    _channels, height, width = generation.image_shape(G)
    box = projection_files.choose_box(source.size, (width, height), crop, None)
    img = projection_files.to_tensor(projection_files.fit_to_network(source, G, box), where)
    distance: distances.Distance = distances.PixelDistance(img) if loss == "mse" else distances.EdgeDistance(img)
    if loss == "lpips":
        distance = distances.PerceptualDistance(img, distances.load_vgg16(where))
    label = generation.class_to_label(class_, G.c_dim).to(where)
    options = projection.ProjectionOptions(num_steps, w_plus=w_plus, seed=seed, stay=stay)
    found = projection.fit(G, img, distance, options, label)
    ws = found.ws[-1:].to(where)
    deltas, noise = None, found.noise
    if tune:
        deltas, noise = tuning.tune(G, img, distance, ws, found.noise, label, tuning.TuningOptions(seed=seed))
    recipe = recipe_of_search(G, network, seed, class_, ws, noise, deltas,
                              Picture(os.path.basename(picture), *source.size, box))
    session = Session(session.network.tuned_for(recipe))
    return EditedImage(session, session.start(recipe=recipe))


def measure(
    network: str | torch.nn.Module,   # a file, a URL, a short name, or a generator
    metric: str,                      # as for `ssn metrics`: ssn_distortion1k, fid50k_full, rfid5k_full, ...
    data: str | None = None,          # folder or zip of real images; None: those that the network was trained on
    mirror: bool | None = None,       # add mirrored real images; None: as in training
    seed: int = 0,                    # of latents, labels, noise and subsets
    batch_size: int | None = None,    # changes speed and memory, not the result; None: the metric's own
    device: str | None = None,        # cpu, cuda or cuda:N; None: a GPU if there is one
    trust: bool = False,              # execute source code that the file carries
) -> dict[str, float]:
    """Measure a network. Returns the metric's numbers by name.

    Raises ValueError for an unknown metric, or for a network that it does not suit; OSError for files that cannot be
    read or downloaded.
    """
    from metrics import metric_main
    from metrics.real_images import choose_dataset
    from torch_utils.devices import choose_device
    from training.network_files import load_networks
    from training.plugins import import_plugins

    import_plugins()
    metric_main.check_metric(metric)
    metric_main.fetch_detector(metric)
    networks = load_networks(network, trust=trust) if isinstance(network, str) else dict(G_ema=network)
    G = networks["G_ema"]
    result = metric_main.calc_metric(
        metric, G=G, dataset_kwargs=choose_dataset(G, networks.get("training_set_kwargs"), data, mirror, trust),
        device=choose_device(device), seed=seed, batch_size=batch_size)
    return dict(result.results)


def transfer(
    network: str,                            # a StyleGAN2: file, URL or short name such as ffhq256
    dest: str | os.PathLike,                 # file to write: .pkl, .safetensors or .pt
    blocks: str = "4x4",                     # rows x columns of the block grid
    encoder: str = "gated",                  # spatial encoder of the block latents, or "none"
    encoder_init: str = "zero",              # zero: the images stay; random: as in the paper
    style_resolution: int | None = None,     # finest resolution of the style maps; 0: exact everywhere
    seed: int = 0,                           # of the encoder's weights
    trust: bool = False,                     # execute source code that the file carries
) -> list[str]:
    """Turn a StyleGAN2 into a Spatially Stochastic Network with the same weights, and write it.

    Returns what does not come from the source, and what the format of `dest` drops, a line each. Raises ValueError or
    OSError, one line.
    """
    from ssn_plugin import config
    from ssn_plugin.hosts import host

    path, adapter = os.fspath(dest), host.require()
    grids = config.parse_block_grids(blocks)
    config.SSNConfig(block_grids=grids, encoder=encoder, style_resolution=style_resolution)  # checks them
    adapter.check_output(path)
    networks = adapter.load_networks(network, trust=trust)
    from ssn_plugin.from_stylegan2 import transfer_networks

    result, differences = transfer_networks(networks, grids, encoder, encoder_init, style_resolution, seed)
    return [*adapter.save_networks(result, path), *differences]


def export(
    network: str,                     # a file, a URL or a short name
    outdir: str | os.PathLike,        # new or empty folder
    format: str = "onnx",             # or "torch": programs of torch.export; "page": the editor without a server
    dtype: str = "float32",           # or "float16", for the activations beyond the first level
    inputs: Sequence[str] = (),       # of synthesis beside styles: "noise", "mask"
    licence: str | None = None,       # of the weights; None: as far as known
    trust: bool = False,              # execute source code that the file carries
    runtime: str | os.PathLike | None = None,   # of a page: folder of onnxruntime-web; None: npm fetches it
) -> list[str]:
    """Write a network for other programs, compared with torch; docs/export.md describes the files.

    Returns what was written, a line each. Raises ValueError for unknown words, a missing library and a network that
    cannot be exported, which it gives the reason for; OSError where files cannot be read or written. Nothing is left
    behind then.
    """
    from ssn_plugin.errors import UserError
    from ssn_plugin.exporting import files
    from training.formats.network_names import stated_licence
    from training.network_files import load_networks

    files.check(outdir, "onnx" if format == "page" else format, dtype)
    if format == "page" and (dtype != "float32" or inputs):
        raise UserError("a page has networks in float32 and chooses their inputs itself")
    if format != "page" and runtime is not None:
        raise UserError(f"--runtime is for --format=page, got {format}")
    G = load_networks(network, trust=trust)["G_ema"]
    if format == "page":
        from ssn_plugin.exporting import site

        return site.export_page(G, outdir, network, licence or stated_licence(network), runtime)
    return files.export_network(
        G, outdir, format, dtype, inputs, os.path.basename(network), licence or stated_licence(network))


def from_pretrained(repository: str, device: str | None = None) -> Session:
    """Open a network of the Hugging Face hub, user/name, or of a folder that `push_to_hub` or its mixin wrote.

    Needs the extra [hub].  Raises ValueError, one line, where it cannot be had.
    """
    return open(f"hf:{repository}", device)


def push_to_hub(network: str, repository: str, licence: str | None = None, private: bool = False,
                trust: bool = False) -> str:
    """Upload a network with a model card, as safetensors and config. Returns the address.

    licence: of the weights; None: as far as known.  Needs the extra [hub], and to be logged in there.
    """
    from ssn_plugin.errors import UserError
    from training.formats.network_names import stated_licence
    from training.network_files import load_networks

    try:
        from ssn_plugin.hub import HubNetwork
    except ModuleNotFoundError as err:
        if err.name != "huggingface_hub":
            raise
        raise UserError("push_to_hub needs the package huggingface_hub: pip install 'ssn-plugin[hub]'") from err
    networks = load_networks(network, trust=trust)
    hub_network = HubNetwork(networks, licence or stated_licence(network), os.path.basename(repository))
    return str(hub_network.push_to_hub(repository, private=private))


@dataclasses.dataclass(frozen=True)
class TrainingRun:
    """A run that came to its end."""

    folder: str

    @property
    def network(self) -> str:
        """Path of its newest network."""
        names = [name for name in os.listdir(self.folder) if name.startswith("network-snapshot-")]
        return os.path.join(self.folder, max(names))


def train(data: str | os.PathLike, outdir: str | os.PathLike = "training-runs", cfg: str = "ssn", **options: Any
          ) -> TrainingRun:
    """Train a network in a new folder below `outdir`, and return when it has come to its end.

    data: folder or zip of images, all of one size.
    options: those of `ssn train`, with the keywords of `training.config.setup_training_loop_kwargs`: kimg=200,
        gpus=1, blocks="4x4", distortion_weight=100 for --lambda, metrics=["rfid5k_full"] (here none unless named).
    Raises ValueError for options that cannot be honoured, before anything is written.
    """
    from training import launch
    from training.config import setup_training_loop_kwargs
    from training.plugins import import_cfgs

    import_cfgs()
    options.setdefault("metrics", [])
    desc, args = setup_training_loop_kwargs(data=os.fspath(data), cfg=cfg, **options)
    prepared = launch.new_run(desc, args, os.fspath(outdir))
    launch.launch(lambda is_restart: prepared, None, args.num_gpus, on_cpu=args.get("device") == "cpu")
    return TrainingRun(prepared.run_dir)
