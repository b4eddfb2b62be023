"""Spatially Stochastic Networks (Hong et al. 2020, arXiv:2006.05394) for StyleGAN2-ADA code bases."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ssn_plugin.edits.session import Session

__version__ = "0.1.0"


def open(network: str, device: str | None = None, trust: bool = False) -> Session:
    """Open a network for editing its images: a file, a URL or a short name such as demo:castles64.

    device: cpu, cuda or cuda:N; None: a GPU if there is one.  trust: execute source code that the file carries.
    """
    from ssn_plugin.edits.session import Session  # imports torch, which the package itself does without

    return Session.open(network, device, trust)
