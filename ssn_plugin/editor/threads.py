"""How many threads torch may use for one image."""

from __future__ import annotations

import torch

from ssn_plugin.edits.session import Session

SMALL = 128 * 128        # pixels of an image


def use_few_threads(session: Session) -> None:
    """Of the calling thread: small images gain nothing from a second core, and lose much where it is busy.

    The pixels are the same.
    """
    about = session.describe()
    if about["height"] * about["width"] <= SMALL:
        torch.set_num_threads(1)
