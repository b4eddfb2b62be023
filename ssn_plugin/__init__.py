"""Spatially Stochastic Networks (Hong et al. 2020, arXiv:2006.05394) for StyleGAN2-ADA code bases."""

from __future__ import annotations

import os
import sys

__version__ = "0.2.0"


def _find_host() -> str | None:
    """The folder of this project's `training`, `torch_utils` and so on: in the wheel, or around us in a checkout.

    None where the plugin was copied into another StyleGAN2-ADA checkout.
    """
    package = os.path.dirname(os.path.abspath(__file__))
    folders = [os.path.join(package, "_host"), os.path.dirname(package)]
    return next((path for path in folders if os.path.isfile(os.path.join(path, "training", "network_files.py"))), None)


# The package needs the host's. Last on the path, they give way to those of a checkout that Python runs in.
HOST_DIR = _find_host()
if HOST_DIR is not None and HOST_DIR not in sys.path:
    sys.path.append(HOST_DIR)


from ssn_plugin.api import (  # noqa: E402  needs no host before it is called
    TrainingRun,
    export,
    from_pretrained,
    measure,
    open,
    project,
    push_to_hub,
    train,
    transfer,
)

__all__ = [
    "TrainingRun", "__version__", "export", "from_pretrained", "measure", "open", "project", "push_to_hub", "train",
    "transfer",
]
