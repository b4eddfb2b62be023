"""Networks on the Hugging Face hub, through the mixin of its own library: safetensors, config and a model card."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from huggingface_hub import ModelHubMixin

from training.formats.card import LIMITS, describe_networks
from training.formats.hub import CARD, WEIGHTS, weights_of
from training.network_files import load_networks, save_networks

INTENDED_USE = ("Making images, and redrawing parts of them with new random latents. "
                "Not for pictures that are to pass for real ones.")


class HubNetwork(ModelHubMixin, library_name="ssn-plugin", tags=["image-generation", "gan", "stylegan2"]):
    """The networks of a file, as the hub's library saves, loads and uploads models.

    networks: as `legacy.load_network_pkl` returns them.  licence: of the weights, for the card.
    """

    def __init__(self, networks: Mapping[str, Any], licence: str = "", name: str = "network"):
        self.networks = networks
        self.licence = licence
        self.name = name

    def _save_pretrained(self, save_directory: Path) -> None:
        save_networks(self.networks, save_directory / WEIGHTS)
        (save_directory / CARD).write_text(self.card(), encoding="utf-8")

    @classmethod
    def _from_pretrained(
        cls, *, model_id: str, revision: str | None = None, cache_dir: Any = None, force_download: bool = False,
        local_files_only: bool = False, token: Any = None, **_others: Any,
    ) -> HubNetwork:
        where = dict(revision=revision, cache_dir=cache_dir, force_download=force_download,
                     local_files_only=local_files_only, token=token)
        return cls(load_networks(weights_of(model_id, **where)), name=os.path.basename(model_id))

    def card(self) -> str:
        """The model card: licence, content, intended use and limits."""
        rows = [f"| {key} | {value} |" for key, value in describe_networks(self.networks)]
        head = ["---", "library_name: ssn-plugin", "tags: [image-generation, gan, stylegan2]", "license: other",
                "license_name: see-below", "---", ""]
        use = ["```python", "import ssn_plugin", "", 'session = ssn_plugin.from_pretrained("user/name")',
               "session.image(seed=1).redraw(\"0\").pick(1).save(\"image.png\")", "```"]
        rows.append(f"| Licence | {self.licence or 'not stated'} |")
        return "\n".join([
            *head, f"# {self.name}", "", "| | |", "|---|---|", *rows, "",
            "## Use", "", *use, "", "## Intended use", "", INTENDED_USE, "", "## Limits", "", LIMITS, ""])
