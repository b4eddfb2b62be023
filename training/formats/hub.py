"""Network files in repositories of the Hugging Face hub."""

from __future__ import annotations

import os
from typing import Any

from dnnlib.util import UserError

WEIGHTS = "model.safetensors"
CONFIG = "config.json"
CARD = "README.md"


def weights_of(repository: str, **where: Any) -> str:
    """Path of the weights of a local folder, or of a repository such as user/name, which is fetched.

    Raises ValueError, one line, where there are none.
    """
    if os.path.isdir(repository):
        path = os.path.join(repository, WEIGHTS)
        if not os.path.isfile(path):
            raise UserError(f"{repository} has no {WEIGHTS}")
        return path
    try:
        from huggingface_hub import hf_hub_download
    except ImportError as err:
        advice = "needs the package huggingface_hub: pip install 'ssn-plugin[hub]'"
        raise UserError(f"hf:{repository} {advice}") from err
    try:
        hf_hub_download(repository, CONFIG, **where)   # goes beside the weights
        return str(hf_hub_download(repository, WEIGHTS, **where))
    except Exception as err:   # of many classes: no such repository, no network, a name that is none
        reason = (str(err).strip().splitlines() or [type(err).__name__])[0][:200]
        raise UserError(f"hf:{repository} cannot be fetched: {reason}") from err
