"""What a network may be called: a path, a URL, the short name of a published network, or `demo:NAME`."""

from __future__ import annotations

import contextlib
import dataclasses
import os
import re
from pathlib import Path

import dnnlib
from dnnlib.util import UserError
from training.formats import hub

NVIDIA_LICENCE = "NVIDIA Source Code License: non-commercial use only (research or evaluation)"
UNKNOWN_LICENCE = "not stated in the file; the terms of its source apply"

DEMO_PREFIX = "demo:"
HUB_PREFIX = "hf:"      # a repository of the Hugging Face hub: hf:user/name
CARD_BYTES = 65536   # a card is shorter
MODELS_DIR = Path(__file__).resolve().parents[2] / "models"  # NAME.pkl is demo:NAME, and NAME.md its card

TRANSFER_URL = "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/transfer-learning-source-nets"


@dataclasses.dataclass(frozen=True)
class Pretrained:
    """A published network that has a short name."""

    name: str
    resolution: int
    file_name: str  # below TRANSFER_URL
    source: str     # data set, and where the network comes from

    @property
    def url(self) -> str:
        return f"{TRANSFER_URL}/{self.file_name}"


PRETRAINED = {
    network.name: network
    for network in (
        Pretrained("ffhq256", 256, "ffhq-res256-mirror-paper256-noaug.pkl",
                   "FFHQ, NVIDIA StyleGAN2-ADA (paper256, no augmentation)"),
        Pretrained("ffhq512", 512, "ffhq-res512-mirror-stylegan2-noaug.pkl",
                   "FFHQ, NVIDIA StyleGAN2-ADA (stylegan2, no augmentation)"),
        Pretrained("ffhq1024", 1024, "ffhq-res1024-mirror-stylegan2-noaug.pkl",
                   "FFHQ, NVIDIA StyleGAN2-ADA (stylegan2, no augmentation)"),
        Pretrained("celebahq256", 256, "celebahq-res256-mirror-paper256-kimg100000-ada-target0.5.pkl",
                   "CelebA-HQ, NVIDIA StyleGAN2-ADA (paper256, ADA)"),
        Pretrained("lsundog256", 256, "lsundog-res256-paper256-kimg100000-noaug.pkl",
                   "LSUN Dog, NVIDIA StyleGAN2-ADA (paper256, no augmentation)"),
    )
}


def demo_models() -> dict[str, Path]:
    """The networks that come with this checkout, by their names (`demo:castles64`); empty where there are none."""
    return {f"{DEMO_PREFIX}{path.stem}": path for path in sorted(MODELS_DIR.glob("*.pkl"))}


def short_names() -> list[str]:
    """All that a network can be called instead of a path or URL."""
    return [*PRETRAINED, *demo_models()]


def resolve_short_name(name: str) -> str | None:
    """URL or path that the short name stands for, or None if it is none. Raises `UserError` for an unknown demo."""
    if name in PRETRAINED:
        return PRETRAINED[name].url
    if name.startswith(HUB_PREFIX):
        return hub.weights_of(name.removeprefix(HUB_PREFIX))
    if not name.startswith(DEMO_PREFIX):
        return None
    demos = demo_models()
    if name not in demos:
        known = f"must be one of {', '.join(demos)}" if demos else f"needs a file in {MODELS_DIR}, which has none"
        raise UserError(f"demo model {known}, got {name}")
    return str(demos[name])


def resolve_network(name: str) -> str:
    """Path or URL for `name`, which may be a short name. Raises `UserError` if there is no such file."""
    short = resolve_short_name(name)
    if short is not None:
        return short
    if not dnnlib.util.is_url(name, allow_file_urls=True) and not os.path.isfile(name):
        raise UserError(f"network {name} is not an existing file, a URL or one of {', '.join(short_names())}")
    return name


def licence_of(name: str) -> str:
    """The licence of a network as far as its name tells."""
    if name.startswith(DEMO_PREFIX):
        return f"see its card, models/{name.removeprefix(DEMO_PREFIX)}.md"
    return NVIDIA_LICENCE if name in PRETRAINED or "nvlabs-fi-cdn.nvidia.com" in name else UNKNOWN_LICENCE


def stated_licence(name: str) -> str:
    """The licence that the card of a network states, where one lies beside its file; else as far as its name tells."""
    short = resolve_short_name(name)
    path = Path(name if short is None else short)
    for card in (path.with_suffix(".md"), path.with_name(f"{path.stem}-card.md")):
        with contextlib.suppress(OSError), open(card, encoding="utf-8", errors="replace") as file:
            row = re.search(r"^\| Licence \| (.+?) \|$", file.read(CARD_BYTES), re.MULTILINE)
            if row:
                return dnnlib.util.printable(row[1], 200)
    return licence_of(name)


def network_help() -> str:
    """What `--network=help` prints: every short name with its resolution, source and licence."""
    lines = []
    demos = demo_models()
    if demos:
        width = max(map(len, demos))
        lines += ["Demo models, which come with this checkout (models/ holds a card of each):", ""]
        lines += [f"  {name:{width}s}  {_card_title(path)}".rstrip() for name, path in demos.items()]
        lines += [""]
    lines += ["Networks with a short name (downloaded on first use):", ""]
    lines += [f"  {net.name:12s} {net.resolution:5d} px  {net.source}" for net in PRETRAINED.values()]
    lines += ["", f"Licence of all of them: {NVIDIA_LICENCE}.", ""]
    lines += [
        "Any other value is a path or a URL of a network file: snapshots of StyleGAN2-ADA's PyTorch hosts (.pkl), "
        "TensorFlow",
        "StyleGAN2 pickles (.pkl), rosinality checkpoints (.pt), and .safetensors. Source code inside a file is not "
        "executed",
        "unless --trust-pickle is given.",
    ]
    return "\n".join(lines)


def _card_title(model: Path) -> str:
    """`TITLE` of the first line `# NAME: TITLE` of a model's card, without what a terminal might act on."""
    try:
        with open(model.with_suffix(".md"), encoding="utf-8", errors="replace") as card:
            title = card.readline(200).partition(": ")[2].strip()
    except OSError:
        return ""
    return dnnlib.util.printable(title, None)
