"""Which requests the editor answers.

A page on the internet can make a browser send requests to 127.0.0.1, and under a host name of its own (DNS rebinding)
it could read the answers. So the editor answers only where host and port are its own, where the origin is its own page,
and, for all but the static files, where the request carries the token that the terminal printed.
"""

from __future__ import annotations

import dataclasses
import hmac
import secrets
from collections.abc import Iterable
from typing import Any

from werkzeug.datastructures import Headers

TOKEN_HEADER = "X-SSN-Token"
MAX_BODY_BYTES = 2 * 2**20        # a request holds a mask at most
MAX_PICTURE_BYTES = 48 * 2**20    # a photograph in base64
API = "/api/"
LARGE_CALLS = ("picture", "photo")

SECURITY_HEADERS = {
    # blob: are pictures that the page fetched itself; an <img> cannot send the token.
    "Content-Security-Policy": "default-src 'self'; img-src 'self' blob:; object-src 'none'; base-uri 'none'; "
                               "form-action 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}


def new_token() -> str:
    """256 random bits, as text for a URL."""
    return secrets.token_urlsafe(32)


@dataclasses.dataclass(frozen=True)
class Refusal:
    """Why a request gets no answer."""

    status: int
    reason: str


@dataclasses.dataclass(frozen=True)
class Guard:
    """What a request must look like."""

    token: str
    hosts: frozenset[str]   # allowed values of the header Host, port included

    def refuse(self, environ: dict[str, Any]) -> Refusal | None:
        """None for a request that may be answered. environ: as in WSGI (PEP 3333)."""
        host = environ.get("HTTP_HOST", "").lower()
        if host not in self.hosts:
            return Refusal(421, f"this server answers to {' and '.join(sorted(self.hosts))} only")
        origin = environ.get("HTTP_ORIGIN")
        if origin is not None and origin.lower() != f"http://{host}":
            return Refusal(403, "requests of other pages are not answered")
        if environ.get("HTTP_SEC_FETCH_SITE", "none") not in ("same-origin", "none"):
            return Refusal(403, "requests of other pages are not answered")
        if not environ.get("PATH_INFO", "").startswith(API):
            return _refuse_static(environ)
        if not hmac.compare_digest(environ.get("HTTP_X_SSN_TOKEN", "").encode(), self.token.encode()):
            return Refusal(403, "the token is missing or wrong: open the address that the terminal shows")
        return _refuse_call(environ)


def _refuse_static(environ: dict[str, Any]) -> Refusal | None:
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return Refusal(405, "the page can only be read")
    return None


def _refuse_call(environ: dict[str, Any]) -> Refusal | None:
    """The rules for method, type and size of a call with the right token."""
    method = environ["REQUEST_METHOD"]
    if method == "GET":
        return None
    if method != "POST":
        return Refusal(405, f"calls are GET or POST, got {method}")
    if "HTTP_ORIGIN" not in environ:
        return Refusal(403, "a change needs the header Origin")
    kind = environ.get("CONTENT_TYPE", "").split(";")[0].strip().lower()
    if kind != "application/json":
        return Refusal(415, f"calls take application/json, got {kind or 'no type'}")
    length = environ.get("CONTENT_LENGTH", "")
    if not length.isascii() or not length.isdigit():   # a body without a length could go on for ever
        return Refusal(411, "a call needs the header Content-Length")
    limit = body_limit(environ["PATH_INFO"].removeprefix(API))
    if len(length) > 12 or int(length) > limit:
        return Refusal(413, f"the call is larger than {limit} bytes")
    return None


def body_limit(call: str) -> int:
    """How many bytes a call may carry."""
    return MAX_PICTURE_BYTES if call in LARGE_CALLS else MAX_BODY_BYTES


def allowed_hosts(names: Iterable[str], port: int) -> frozenset[str]:
    """Values of the header Host under which the page may be opened."""
    hosts = set()
    for name in names:
        name = f"[{name}]" if ":" in name else name.lower()
        hosts.add(f"{name}:{port}")
        if port == 80:   # browsers leave it out then
            hosts.add(name)
    return frozenset(hosts)


def add_security_headers(headers: Headers) -> None:
    """Every answer says: no scripts from elsewhere, no guessing of types, no referrer, no frames."""
    for name, value in SECURITY_HEADERS.items():
        headers.setdefault(name, value)
