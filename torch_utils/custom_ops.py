"""Stand-in for a loader of compiled extensions: all ops of this code base are plain PyTorch."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NoReturn

verbosity = "brief"  # 'none', 'brief' or 'full'; scripts written for a compiling host assign it


def get_plugin(module_name: str, sources: Sequence[str], **build_kwargs: Any) -> NoReturn:
    """Refuse to build an extension."""
    raise NotImplementedError(f"this code base compiles no extensions, {module_name} was asked for")
