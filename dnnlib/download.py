"""Downloads over HTTP. Apart from `dnnlib.util`, whose `open_url` uses it: few commands need the network, and its
modules take a while to import.
"""

from __future__ import annotations

import errno
import html.parser
import http.client
import http.cookiejar
import os
import ssl
import time
import urllib.error
import urllib.parse
import urllib.request
from typing import IO

TIMEOUT = 60            # seconds without any data after which a connection counts as dead
RETRY_DELAY = 1.0       # seconds before the second attempt; grows linearly with the attempts
PIECE_BYTES = 1 << 20   # of a body that is read piece by piece


class NoFile(OSError):
    """The server has answered, and no further attempt would bring the file."""


def download(url: str, num_attempts: int, verbose: bool, file: IO[bytes]) -> str:
    """Write the content of an HTTP URL to a file; tries again after errors that may pass. Returns the remote name."""
    if verbose:
        print(f"Downloading {url} ... ", end="", flush=True)
    for attempt in range(1, num_attempts + 1):
        file.seek(0)
        file.truncate()
        try:
            name = download_once(url, file)
            break
        except (OSError, http.client.HTTPException) as err:
            if is_permanent(err) or attempt == num_attempts:
                if verbose:
                    print("failed")
                reason = str(err) or type(err).__name__
                raise OSError(f"cannot download {url} (attempt {attempt} of {num_attempts}): {reason}") from err
        if verbose:
            print(".", end="", flush=True)
        time.sleep(RETRY_DELAY * attempt)
    if verbose:
        print("done")
    return name


def is_permanent(err: Exception) -> bool:
    """Would another attempt fail in the same way?"""
    if isinstance(err, urllib.error.HTTPError):
        return 400 <= err.code < 500 and err.code not in (408, 429)
    certificate = isinstance(getattr(err, "reason", None), ssl.SSLCertVerificationError)
    full = isinstance(err, OSError) and err.errno == errno.ENOSPC  # the disk here, that is
    return isinstance(err, NoFile) or certificate or full


def download_once(url: str, file: IO[bytes]) -> str:
    """One attempt, following the page with which Google Drive asks for confirmation before large files."""
    opener = urllib.request.build_opener(urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar()))
    name, page = fetch(opener, url, file)
    host = urllib.parse.urlsplit(url).hostname or ""
    if page is not None and (host == "google.com" or host.endswith(".google.com")):
        confirmed_url = find_drive_confirmation(page, url)
        if confirmed_url is None:
            reason = "download quota exceeded" if "quota" in page.lower() else "got a web page instead of a file"
            raise NoFile(f"Google Drive: {reason}")
        name, page = fetch(opener, confirmed_url, file)
        if page is not None:
            raise NoFile("Google Drive: got a web page instead of a file after confirming the download")
    if page is not None:
        raise NoFile("the server sent a web page instead of a file")
    if file.tell() == 0:
        raise OSError("the server sent no data")
    return name


def fetch(opener: urllib.request.OpenerDirector, url: str, file: IO[bytes]) -> tuple[str, str | None]:
    """File name of one request and, if it is a web page, its text; any other body is written to the file."""
    with opener.open(url, timeout=TIMEOUT) as response:
        name = response.headers.get_filename() or os.path.basename(urllib.parse.urlsplit(url).path) or "download"
        piece = response.read(PIECE_BYTES)
        start = piece[:1000].lstrip().lower()
        if response.headers.get_content_type() == "text/html" or start.startswith((b"<!doctype html", b"<html")):
            return name, piece.decode("utf-8", errors="replace")
        size = response.headers.get("Content-Length", "")
        while piece:
            file.write(piece)
            piece = response.read(PIECE_BYTES)
    if size.isdigit() and file.tell() != int(size):
        raise OSError(f"the connection ended after {file.tell()} of {size} bytes")
    return name, None


class DriveConfirmation(html.parser.HTMLParser):
    """Collects the confirmation form (action and hidden fields) or link of a Google Drive page."""

    def __init__(self) -> None:
        super().__init__()
        self.action: str | None = None
        self.fields: dict[str, str] = {}
        self.link: str | None = None

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = {key: value or "" for key, value in attrs}
        if tag == "form" and "download" in values.get("action", ""):
            self.action = values["action"]
        elif tag == "input" and self.action is not None and "name" in values:
            self.fields[values["name"]] = values.get("value", "")
        elif tag == "a" and "export=download" in values.get("href", "") and "confirm=" in values["href"]:
            self.link = values["href"]


def find_drive_confirmation(page: str, page_url: str) -> str | None:
    """URL behind the "download anyway" button of a Google Drive page, None when there is no such button."""
    found = DriveConfirmation()
    found.feed(page)
    if found.action is not None:
        query = urllib.parse.urlencode(found.fields)
        separator = "&" if "?" in found.action else "?"
        return urllib.parse.urljoin(page_url, found.action + (separator + query if query else ""))
    return urllib.parse.urljoin(page_url, found.link) if found.link else None
