"""From the words of the command line to a listening editor."""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import os
import re
from collections.abc import Iterator

from ssn_plugin.editor.server import EditorServer, bind, check_host
from ssn_plugin.editor.studio import Studio
from ssn_plugin.edits.session import Session
from training.images.image_commands import class_names

FOLDER = "edits"


@dataclasses.dataclass(frozen=True)
class OpenEditor:
    """A server that listens and does not answer yet."""

    server: EditorServer
    save_path: str


@contextlib.contextmanager
def open_editor(
    network: str,
    host: str,
    port: int,
    load_path: str | None = None,
    save_path: str | None = None,
    device: str | None = None,
    trust: bool = False,
) -> Iterator[OpenEditor]:
    """Open network and session and listen. ValueError or OSError, before the network is read where that can be."""
    check_host(host)
    bind(host, port).close()
    save_path = save_path or load_path or free_path(network)
    check_writable(save_path)
    if load_path is None:
        session = Session.open(network, device, trust)
    else:
        session = Session.load(load_path, network, device=device, trust=trust)
    studio = Studio(session, save_path, network, names_of_classes(session, network, trust))
    try:
        server = EditorServer(studio, host, port)
        try:
            yield OpenEditor(server, save_path)
        finally:
            server.close()
    finally:
        studio.close()


def names_of_classes(session: Session, network: str, trust: bool) -> list[str]:
    """Those of the data set that the network was trained on; none where there are no classes, or it is not there."""
    if not session.network.G.c_dim:
        return []
    try:
        names = class_names(network, trust)
    except (ValueError, OSError):
        return []
    return names if len(names) == session.network.G.c_dim else []


def free_path(network: str) -> str:
    """A file of the folder `edits` that is not there yet, named by the network."""
    name = re.sub(r"[^\w.-]+", "-", os.path.splitext(os.path.basename(network).split(":")[-1])[0]) or "session"
    paths = (os.path.join(FOLDER, f"{name}-{number}.json") for number in itertools.count(1))
    return next(path for path in paths if not os.path.lexists(path))


def check_writable(path: str) -> None:
    """Raise OSError unless the session can be saved there; makes the folder at the first change, not here."""
    if os.path.isdir(path):
        raise OSError(f"--save must be a file, {path} is a folder")
    folder = os.path.dirname(os.path.abspath(path))
    while not os.path.isdir(folder):
        folder = os.path.dirname(folder)
    if not os.access(folder, os.W_OK):
        raise OSError(f"{folder}: the session cannot be saved there")
