"""Optional plugins: packages beside the host that add a `--cfg`, losses or metrics."""

from __future__ import annotations

import importlib
from types import ModuleType

PLUGINS: tuple[str, ...] = ("ssn_plugin", "training.lineage")

# Network classes of plugins, and the modules that define them. A missing plugin is no error until a file needs it.
NETWORK_CLASSES = {
    "SSNGenerator": "ssn_plugin.networks",
    "SpadeGenerator": "ssn_plugin.spade",
    **dict.fromkeys(("ProGANGenerator", "StyleGANGenerator", "GrowingDiscriminator", "MSGDiscriminator"),
                    "training.lineage.networks"),
}


def import_plugins() -> None:
    """Import every plugin that is present and let it register what it offers.

    Each process that looks up a cfg or a metric by name calls this first, worker processes too; calling it again does
    no harm. A plugin that is absent is passed over; one that is present and fails to import raises its own error.
    """
    import_cfgs()
    import_metrics()


def import_cfgs() -> None:
    """The part of `import_plugins` that the command line needs, which is quick."""
    for plugin in PLUGINS:
        config = _import_if_present(f"{plugin}.config")
        if config is not None:
            config.register()


def import_metrics() -> None:
    """The part of `import_plugins` for metrics, which register themselves at import."""
    for plugin in PLUGINS:
        _import_if_present(f"{plugin}.metrics")


def _import_if_present(name: str) -> ModuleType | None:
    package = name.partition(".")[0]
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as err:
        if err.name not in (package, name):  # the module is there, something that it imports is not
            raise
        return None
