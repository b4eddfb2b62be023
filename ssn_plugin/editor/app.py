"""The editor as a WSGI application: a handful of static files, and calls in JSON under /api/."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable, Generator, Iterable, Iterator
from pathlib import Path
from typing import Any

from werkzeug.exceptions import RequestEntityTooLarge
from werkzeug.wrappers import Request, Response

from ssn_plugin.editor.export import export
from ssn_plugin.editor.guard import API, Guard, add_security_headers, body_limit
from ssn_plugin.editor.studio import Studio, from_base64
from ssn_plugin.edits.recipe_files import check_keys, parse_json, typed
from ssn_plugin.errors import UserError

STATIC = Path(__file__).parent / "static"
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css; charset=utf-8", ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}

Call = Callable[[Studio, dict[str, Any]], Response]


class Editor:
    """Answers what the guard lets through."""

    def __init__(self, studio: Studio, guard: Guard):
        self.studio = studio
        self.guard = guard
        # Read once: a request can name nothing but these.
        self.files = {path.name: (path.read_bytes(), TYPES[path.suffix]) for path in STATIC.iterdir()
                      if path.suffix in TYPES}

    def __call__(self, environ: dict[str, Any], start_response: Callable) -> Iterable[bytes]:
        refusal = self.guard.refuse(environ)
        response = failure(refusal.status, refusal.reason) if refusal else self.answer(Request(environ))
        add_security_headers(response.headers)
        return response(environ, start_response)

    def answer(self, request: Request) -> Response:
        """The answer to a request that was let through."""
        try:
            if not request.path.startswith(API):
                return self._file(request.path.removeprefix("/") or "index.html")
            name, _, rest = request.path.removeprefix(API).partition("/")
            if request.method == "GET":
                return self._get(name, rest)
            call = CALLS.get(name) if not rest else None
            if call is None:
                return failure(404, "there is no such call")
            return call(self.studio, read_body(request, name))
        except RequestEntityTooLarge:
            return failure(413, "the call is larger than announced")
        except OSError as err:   # the session could not be saved
            return failure(500, f"{err.filename or 'the session'}: {err.strerror or err}")
        except Exception as err:
            if is_users(err):
                return failure(400, str(err))
            traceback.print_exc()
            return failure(500, "the editor has a bug; the terminal shows where")

    def _file(self, name: str) -> Response:
        if name not in self.files:
            return failure(404, "there is no such page")
        content, kind = self.files[name]
        return Response(content, content_type=kind)

    def _get(self, name: str, rest: str) -> Response:
        if name == "session" and not rest:
            return answer({"about": self.studio.about(), "tree": self.studio.tree()})
        if name == "image":
            return Response(self.studio.image(rest), content_type="image/png")
        if name == "seed":
            numbers = rest.split("/")   # the seed, and the class where there are classes
            if len(numbers) <= 2 and all(part.isascii() and part.isdigit() and len(part) <= 10 for part in numbers):
                return Response(self.studio.seed_image(*map(int, numbers)), content_type="image/png")
        return failure(404, "there is no such call")


def is_users(err: Exception) -> bool:
    """Can the user put it right? The plugin and its host have a class each for such errors, of one name."""
    return any(kind.__name__ == "UserError" for kind in type(err).__mro__)


def read_body(request: Request, name: str) -> dict[str, Any]:
    """The JSON object that a call carries. ValueError for anything else."""
    request.max_content_length = body_limit(name)
    return typed("a call", parse_json(request.get_data(cache=False)), dict)


def answer(data: Any) -> Response:
    return Response(json.dumps(data, allow_nan=False), content_type="application/json")


def failure(status: int, reason: str) -> Response:
    response = answer({"error": " ".join(reason.split())})
    response.status_code = status
    return response


def stream(items: Generator[dict[str, Any], None, None]) -> Response:
    """One line of JSON for each item as soon as it is there; an error of the first is an answer of its own."""
    first = next(items, None)

    def lines() -> Iterator[str]:
        try:
            item = first
            while item is not None:
                yield json.dumps(item, allow_nan=False) + "\n"
                item = next(items, None)
        except Exception as err:
            if not is_users(err):
                traceback.print_exc()
                err = RuntimeError("the editor has a bug; the terminal shows where")
            yield json.dumps({"error": " ".join(str(err).split())}) + "\n"
        finally:
            items.close()   # the page may have gone on before the end

    return Response(lines(), content_type="application/x-ndjson")


def _start(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("seed", "class"))
    return answer(studio.start(typed("seed", body["seed"], int), class_of(body)))


def _variants(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "request", "first", "count"))
    first, count = (typed(key, body[key], int) for key in ("first", "count"))
    return stream(studio.variants(typed("state", body["state"], str), body["request"], first, count))


def _best(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "request", "first", "count", "max_outside"))
    first, count = (typed(key, body[key], int) for key in ("first", "count"))
    limit = body["max_outside"]
    limit = float(limit) if type(limit) is int else typed("max_outside", limit, float)
    return stream(studio.best(typed("state", body["state"], str), body["request"], first, count, limit))


def _keep(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "request", "number"))
    state, number = typed("state", body["state"], str), typed("number", body["number"], int)
    return answer(studio.keep(state, body["request"], number))


def _restore(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "mask"))
    return answer(studio.restore(*(typed(key, body[key], str) for key in ("state", "mask"))))


def _go(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state",))
    return answer(studio.go(typed("state", body["state"], str)))


def _drop(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "number"))
    return answer(studio.drop(typed("state", body["state"], str), typed("number", body["number"], int)))


def _move(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "number", "to"))
    number, to = (typed(key, body[key], int) for key in ("number", "to"))
    return answer(studio.move(typed("state", body["state"], str), number, to))


def _undo(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ())
    return answer(studio.undo())


def _redo(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ())
    return answer(studio.redo())


def _favourites(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("seeds",))
    return answer(studio.set_favourites(typed("seeds", body["seeds"], list)))


def _export(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "kind", "options"))
    state, kind = (typed(key, body[key], str) for key in ("state", "kind"))
    result = export(studio, state, kind, typed("options", body["options"], dict))
    if result.name is None:
        return answer({"text": result.content.decode()})
    headers = {"Content-Disposition": f'attachment; filename="{result.name}"'}
    return Response(result.content, content_type=result.content_type, headers=headers)


def _picture(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("data", "name", "box", "likeness", "class"))
    name, box = file_name(body["name"]), typed("box", body["box"], list)
    if len(box) != 4:
        raise UserError(f"box must be left, top, right, bottom, got {len(box)} numbers")
    left, top, right, bottom = (typed("a side of the box", side, int) for side in box)
    likeness = typed("likeness", body["likeness"], str)
    data = from_base64(name, body["data"])
    return stream(studio.find(data, name, (left, top, right, bottom), likeness, class_of(body)))


def _photo(studio: Studio, body: dict[str, Any]) -> Response:
    check_keys("the call", body, ("state", "data", "name"))
    name = file_name(body["name"])
    png = studio.photograph(typed("state", body["state"], str), from_base64(name, body["data"]), name)
    return Response(png, content_type="image/png")


def class_of(body: dict[str, Any]) -> int | None:
    return None if body["class"] is None else typed("class", body["class"], int)


def file_name(name: Any) -> str:
    """What the page calls a file: a label, never a path."""
    label = "".join(letter for letter in typed("name", name, str) if letter.isprintable())
    return label.replace("\\", "/").rpartition("/")[2][:80] or "picture"


CALLS: dict[str, Call] = {
    "start": _start, "variants": _variants, "best": _best, "keep": _keep, "restore": _restore, "drop": _drop,
    "move": _move, "go": _go, "undo": _undo, "redo": _redo, "favourites": _favourites, "export": _export,
    "picture": _picture, "photo": _photo,
}
