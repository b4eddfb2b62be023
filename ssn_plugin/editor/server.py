"""A port of this machine where the editor answers, a thread for each request."""

from __future__ import annotations

import errno
import ipaddress
import socket

from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ssn_plugin.editor.app import Editor
from ssn_plugin.editor.guard import Guard, allowed_hosts, new_token
from ssn_plugin.editor.studio import Studio
from ssn_plugin.errors import UserError

LOOPBACK = "127.0.0.1"
IDLE_SECONDS = 60   # a connection that sends nothing for so long is closed


class Handler(WSGIRequestHandler):
    """Says nothing about versions, and nothing to the terminal for each request."""

    server_version = "editor"
    sys_version = ""
    protocol_version = "HTTP/1.1"   # variants are sent in chunks, one by one
    timeout = IDLE_SECONDS

    def version_string(self) -> str:
        return self.server_version

    def log_request(self, code: int | str = "-", size: int | str = "-") -> None:
        pass


def check_host(host: str) -> None:
    """Raise ValueError for an address that no browser can be sent to."""
    try:
        wildcard = ipaddress.ip_address(host).is_unspecified
    except ValueError:   # a name
        wildcard = not host
    if wildcard:
        raise UserError(f"--host must be the address that the browser will be sent to, got {host or 'nothing'!r}")


class EditorServer:
    """A listening editor. `url` has the token in its fragment, which browsers do not send along."""

    def __init__(self, studio: Studio, host: str = LOOPBACK, port: int = 0):
        """port: 0 for a free one. Raises OSError with one line when the address cannot be had."""
        check_host(host)
        listener = bind(host, port)
        self.host, self.port = host, listener.getsockname()[1]
        names = {host} | ({LOOPBACK, "localhost"} if host in (LOOPBACK, "localhost") else set())
        self.token = new_token()
        self.editor = Editor(studio, Guard(self.token, allowed_hosts(names, self.port)))
        with listener:   # the server takes a copy
            self._server: BaseWSGIServer = make_server(
                host, self.port, self.editor, threaded=True, request_handler=Handler, fd=listener.fileno())
        self._server.daemon_threads = True   # type: ignore[attr-defined]  # Ctrl-C does not wait for a slow request

    @property
    def url(self) -> str:
        name = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{name}:{self.port}/#{self.token}"

    def serve(self) -> None:
        """Answer until `stop` is called or the process is interrupted."""
        self._server.serve_forever(poll_interval=0.1)

    def stop(self) -> None:
        self._server.shutdown()

    def close(self) -> None:
        self._server.server_close()


def bind(host: str, port: int) -> socket.socket:
    """A listening socket. OSError that names the address and what is wrong with it."""
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        listener = socket.socket(family, kind, protocol)
        try:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(address)
            listener.listen(64)
        except OSError:
            listener.close()
            raise
    except OSError as err:
        reason = {
            errno.EADDRINUSE: "is taken by another program; choose another --port, or 0 for a free one",
            errno.EADDRNOTAVAIL: "is no address of this machine",
            errno.EACCES: "may not be used by this user",
        }.get(err.errno or 0, f"cannot be used ({err.strerror or err})")
        raise OSError(f"{host}:{port} {reason}") from err
    return listener
