"""The app's own addresses, and the guard before all of them.

``vitstudy/`` below the app's root serves the renderer, the data of the page, the examples, and answers about a visitor's image.
An image is the body of a request: it is never a file on the server, and no request may name a path or an address, which Gradio
would open or fetch for components with files. There are none here.
"""

from __future__ import annotations

import gzip
import hashlib
import json
from collections.abc import Callable
from functools import cached_property, lru_cache
from typing import Any

import brotli
from starlette.concurrency import run_in_threadpool
from starlette.middleware.gzip import GZipMiddleware
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ..errors import StudyError
from ..viewer.bundle import Pages
from .live import BusyError, Live


BELOW = "vitstudy"
MOST_IMAGE, MOST_OTHER = 10_000_000, 1_000_000  # bytes of a body
UNREADABLE = (
    "This file cannot be read as an image. PNG, JPEG, WebP, GIF and BMP files up to 10 MB and 20 million pixels can."
)
BUSY = "Many people are looking at images just now. Yours is asked again in a few seconds."
NOT_FITTING = "This request fits no image that was shown here."
AGAIN_AFTER = 3  # seconds
DENSE = 10  # of brotli's 11: within 5 % of the densest, in a third of its time
LONG = "public, max-age=31536000, immutable"
WANTS = ("all", "attention", "field", "sweep")


class Part:
    """Something served that never changes while the app runs: packed once, with an address by its content."""

    def __init__(self, content: bytes, kind: str) -> None:
        self.content, self.kind = content, kind
        self.digest = hashlib.sha256(content).hexdigest()[:16]

    @cached_property
    def brotli(self) -> bytes:
        """Packed by a fifth denser than `gzip`, for which browsers ask where the connection is safe."""
        return brotli.compress(self.content, quality=DENSE)

    @cached_property
    def gzip(self) -> bytes:
        return gzip.compress(self.content, 9, mtime=0)

    def packed(self, accepted: str) -> tuple[str, bytes] | None:
        """(its name, the content packed) in the densest way of an ``Accept-Encoding``; None where it names neither."""
        names = {each.partition(";")[0].strip() for each in accepted.split(",")}
        if "br" in names:
            return "br", self.brotli
        return ("gzip", self.gzip) if "gzip" in names else None

    def response(self, request: Request, cache: str) -> Response:
        headers = {"Cache-Control": cache, "ETag": f'"{self.digest}"', "Vary": "Accept-Encoding"}
        headers["X-Content-Type-Options"] = "nosniff"
        if request.headers.get("if-none-match") == f'"{self.digest}"':
            return Response(status_code=304, headers=headers)
        packed = self.packed(request.headers.get("accept-encoding", ""))
        if packed is None:
            return Response(self.content, media_type=self.kind, headers=headers)
        return Response(packed[1], media_type=self.kind, headers=headers | {"Content-Encoding": packed[0]})


class Site:
    """The addresses below ``vitstudy/``.

    Attributes:
        head: elements for the page's head that load the renderer, and what it needs first.
    """

    def __init__(self, pages: Pages, examples: Pages | None, live: Live, script: str, style: str) -> None:
        self.live = live
        self.code = {"viz.js": Part(script.encode(), "text/javascript"), "viz.css": Part(style.encode(), "text/css")}
        self.data = _parts(pages)
        self.examples = _parts(examples) if examples else None
        code = {name: f"{BELOW}/{part.digest}/{name}" for name, part in self.code.items()}
        self.head = (
            f'<link rel="stylesheet" href="{code["viz.css"]}"><script defer src="{code["viz.js"]}"></script>'
            f'<link rel="preload" as="fetch" crossorigin="anonymous" href="{BELOW}/data/study.json">'
        )

    def routes(self) -> list[Route]:
        return [
            Route(f"/{BELOW}/data/{{name}}", self._stored(lambda: self.data)),
            Route(f"/{BELOW}/examples/{{name}}", self._stored(lambda: self.examples)),
            Route(f"/{BELOW}/live", self.about_live),
            Route(f"/{BELOW}/look", self.look, methods=["POST"]),
            Route(f"/{BELOW}/{{digest}}/{{name}}", self.renderer),
        ]

    async def renderer(self, request: Request) -> Response:
        part = self.code.get(request.path_params["name"])
        if part is None or part.digest != request.path_params["digest"]:
            return _not_here()
        return await run_in_threadpool(part.response, request, LONG)  # packs it the first time

    def _stored(self, where: Callable[[], Callable[[str], Part] | None]) -> Callable[[Request], Any]:
        async def stored(request: Request) -> Response:
            find = where()
            try:
                if find is None:
                    return _not_here()
                return await run_in_threadpool(lambda: find(request.path_params["name"]).response(request, "no-cache"))
            except KeyError:
                return _not_here()

        return stored

    async def about_live(self, request: Request) -> Response:
        return JSONResponse(self.live.about(), headers={"Cache-Control": "no-store"})

    async def look(self, request: Request) -> Response:
        """What the live checkpoints say of the image that is the body."""
        if self.live.state != "ready":
            return _told(503, self.live.reason or "The networks are being loaded.", self.live.state == "loading")
        try:
            ask = read_ask(request.query_params)
        except (ValueError, KeyError):
            return _told(400, NOT_FITTING)
        content = await request.body()
        try:
            answer = await run_in_threadpool(self.live.answer, content, ask)
        except BusyError:
            return _told(503, BUSY, again=True)
        except StudyError:
            return _told(422, UNREADABLE if ask["want"] == "all" else NOT_FITTING)
        return JSONResponse(answer, headers={"Cache-Control": "no-store"})


def read_ask(parameters: Any) -> dict[str, Any]:
    """What a request wants, each part checked.

    Raises:
        ValueError: a part that is not of its kind or out of its range.
        KeyError: none of `WANTS`.
    """
    numbers = {name: int(parameters.get(name, 0)) for name in ("side", "layer", "block", "piece")}
    places = {name: float(parameters.get(name, 0)) for name in ("y", "x")}
    if numbers["side"] not in (0, 1) or min(numbers.values()) < 0 or not all(0 <= p < 1 for p in places.values()):
        raise ValueError("out of range")
    return {"want": WANTS[WANTS.index(parameters["want"])], **numbers, **places}


def _parts(pages: Pages) -> Callable[[str], Part]:
    return lru_cache(maxsize=4096)(lambda name: Part(pages.read(name), "application/json"))


def _not_here() -> Response:
    return _told(404, "There is nothing of this name.")


def _told(status: int, text: str, again: bool = False) -> Response:
    headers = {"Retry-After": str(AGAIN_AFTER)} if again else {}
    return JSONResponse({"error": text, "again": AGAIN_AFTER if again else None}, status, headers)


# -------------------------------------------------------------------------------------------------------------- guard


class Guard:
    """Middleware: bounds the body of every request, and refuses bodies and addresses that name files.

    Gradio's page itself is packed here, as nothing else does it.
    """

    def __init__(self, app: ASGIApp) -> None:
        self.app = app
        self.packing = GZipMiddleware(app, minimum_size=1000)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
        elif scope["method"] in ("POST", "PUT", "PATCH"):
            await self._checked(scope, receive, send)
        elif any(scope["path"].startswith(f"/gradio_api/{word}") for word in ("proxy=", "file=http", "file/http")):
            await _told(403, "This app fetches nothing.")(scope, receive, send)
        else:
            await (self.packing if scope["path"] in ("/", "/config") else self.app)(scope, receive, send)

    async def _checked(self, scope: Scope, receive: Receive, send: Send) -> None:
        own = scope["path"].endswith(f"/{BELOW}/look")
        body = await _read(Request(scope, receive), MOST_IMAGE if own else MOST_OTHER)
        if body is None:
            await _told(413, UNREADABLE if own else "The request is too large.")(scope, receive, send)
        elif not own and (scope["path"].rstrip("/").endswith("/upload") or names_a_file(body)):
            await _told(403, "This app takes no files.")(scope, receive, send)
        else:
            await self.app(scope, _once_more(body, receive), send)


async def _read(request: Request, most: int) -> bytes | None:
    """The body, None where it is longer than `most`, of which no more than that is read."""
    told = request.headers.get("content-length", "0")
    if not told.isdigit() or int(told) > most:
        return None
    found = bytearray()
    async for piece in request.stream():
        found += piece
        if len(found) > most:
            return None
    return bytes(found)


def _once_more(body: bytes, receive: Receive) -> Receive:
    sent = False

    async def again() -> Message:
        nonlocal sent
        if sent:
            return await receive()
        sent = True
        return {"type": "http.request", "body": body, "more_body": False}

    return again


def names_a_file(body: bytes) -> bool:
    """Whether JSON holds an object that Gradio reads as a file: with a path, and a word that says so."""
    try:
        waiting = [json.loads(body)]
    except (ValueError, RecursionError):
        return b"FileData" in body
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict):
            if "path" in value and ("meta" in value or "url" in value):
                return True
            waiting += value.values()
        elif isinstance(value, list):
            waiting += value
    return False
