"""The routes of the server (docs/viewer.md)."""

from __future__ import annotations

import json
import logging
import math
import threading
from collections.abc import Mapping
from contextlib import suppress
from functools import cached_property
from pathlib import Path
from typing import Any

from starlette.applications import Starlette
from starlette.concurrency import run_in_threadpool
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response
from starlette.routing import Route

from capecam.errors import CapecamError, StoppedError
from capecam.io.geopackage_rows import BusyFileError
from capecam.runtime.child_process import ChildDiedError
from capecam.viewer.explaining import TooManyWaitingError
from capecam.viewer.files import page_files
from capecam.viewer.outlines import COUNTS, OUTLINES, ZONES
from capecam.viewer.queue import DEFAULT_ROWS
from capecam.viewer.security import Access, Guard, read_json
from capecam.viewer.served_runs import ServedRun, ServedRuns

log = logging.getLogger(__name__)

AGAIN = {"retry-after": "1"}

MAKING_S = 20.0
"""Time that a request waits for a file of the detections, since browsers print answers of 503 as
errors; those of a city of 664,000 objects are there 10 s after the start."""

HOUR = {"cache-control": "private, max-age=3600"}
"""Of pictures of explanations, whose addresses are used once. Those of tiles and thumbnails are the
same for every run, so that a browser would show those of the run that was viewed before."""


def make_app(city: ServedRuns, access: Access) -> Starlette:
    """Return the application of a server."""
    views = _Views(city)
    run = "/run/{run:int}/"
    routes = [
        Route("/", views.page),
        Route("/city.json", views.city),
        Route(run + "cells/{cell}/{name}", views.cell_raster),
        Route(run + OUTLINES, views.outlines),
        Route(run + ZONES, views.zones),
        Route(run + COUNTS, views.counts),
        Route(run + "queue.json", views.queue),
        Route(run + "find", views.find),
        Route(run + "imagery/{z:int}/{col:int}/{row:int}.webp", views.tile),
        Route(run + "thumbnails/{id}.jpg", views.thumbnail),
        Route(run + "overlay/{token}.png", views.overlay),
        Route(run + "review", views.review),
        Route(run + "explain", views.explain, methods=["POST"]),
        Route(run + "verdicts", views.add_verdict, methods=["POST"]),
        Route(run + "missed", views.add_missed, methods=["POST"]),
        Route(run + "undo", views.undo, methods=["POST"]),
        Route(run + "{name}", views.overview),
        Route("/{name}", views.page),
    ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access)],
        exception_handlers={
            HTTPException: _http_error,
            CapecamError: _error,
            TimeoutError: _not_yet,
        },
    )


async def _http_error(_: Request, error: Exception) -> Response:
    if not isinstance(error, HTTPException):
        raise error
    return JSONResponse({"error": error.detail}, error.status_code, error.headers)


async def _not_yet(_: Request, __: Exception) -> Response:
    return JSONResponse({"error": "the detections are still being read"}, 503, AGAIN)


async def _error(_: Request, error: Exception) -> Response:
    """Answer with the message of an error: 409, or 503 where waiting helps."""
    if isinstance(error, TooManyWaitingError | BusyFileError):
        return JSONResponse({"error": str(error)}, 503, AGAIN)
    status = 500 if isinstance(error, StoppedError) else 409
    return JSONResponse({"error": str(error)}, status)


class _Views:
    """Functions of the routes; those that are not ``async`` run in threads."""

    def __init__(self, city: ServedRuns) -> None:
        self._city, self._page = city, page_files()
        self._warming = threading.Lock()
        self._warmed = False

    def page(self, request: Request) -> Response:
        """Send a file of the page."""
        path = self._page.get(request.path_params.get("name", "index.html"))
        return _file(path)

    def city(self, _: Request) -> Response:
        """Send ``city.json``, and load the network meanwhile: a page is open."""
        threading.Thread(target=self._warm_up, daemon=True, name="warm up").start()
        return Response(self._city_json, media_type="application/json")

    @cached_property
    def _city_json(self) -> str:
        return json.dumps(self._city.city(), separators=(",", ":"), allow_nan=False)

    def _warm_up(self) -> None:
        with self._warming:
            first = self._city.runs[0]
            if not self._warmed and not first.explain_problem:
                self._warmed = True
                # If it fails, the first click says so.
                with suppress(ChildDiedError, CapecamError, TimeoutError):
                    self._city.explainer.warm_up(0)
                    for row in first.queue.page(0, 1)["rows"]:
                        self._city.explainer.rehearse(first.target(id_=row[0]))

    def cell_raster(self, request: Request) -> Response:
        """Send a raster of a cell, or a part of it."""
        name = request.path_params["name"]
        return _file(self._run(request).files.of_cell(request.path_params["cell"], name))

    def overview(self, request: Request) -> Response:
        """Send the overview of a raster, or a part of it."""
        return _file(self._run(request).files.overview(request.path_params["name"]))

    def outlines(self, request: Request) -> Response:
        """Send the outlines, or a part of them."""
        return self._made(request, OUTLINES)

    def zones(self, request: Request) -> Response:
        """Send the zones."""
        return self._made(request, ZONES)

    def counts(self, request: Request) -> Response:
        """Send the numbers of detections by place."""
        return self._made(request, COUNTS)

    def _made(self, request: Request, name: str) -> Response:
        """Send a file of the detections; 503 if it takes long to make it."""
        try:
            path = self._run(request).prepared.path(name, MAKING_S)
        except TimeoutError:
            return JSONResponse({"error": f"{name} is being made"}, 503, AGAIN)
        return _file(path if path.exists() else None)

    def queue(self, request: Request) -> Response:
        """Send a page of the review queue."""
        offset, limit = _whole(request, "offset", 0), _whole(request, "limit", DEFAULT_ROWS)
        class_id = _whole(request, "class", 0) or None
        return JSONResponse(self._run(request).queue.page(offset or 0, limit or 0, class_id))

    def find(self, request: Request) -> Response:
        """Send the row of a detection."""
        id_ = request.query_params.get("id", "")
        row = self._run(request).queue.find(id_)
        if row is None:
            raise HTTPException(404, f"there is no detection {id_[:60]!r}")
        return JSONResponse(row)

    def tile(self, request: Request) -> Response:
        """Send a tile of the imagery."""
        place = (int(request.path_params[name]) for name in ("z", "row", "col"))
        return _picture(self._shown(request).imagery.tile(*place), "image/webp")

    def thumbnail(self, request: Request) -> Response:
        """Send the imagery around a detection."""
        served = self._shown(request)
        row = served.queue.find(request.path_params["id"])
        if row is None:
            return _picture(None, "")
        class_id, outline = served.class_and_outline(row["id"])
        return _picture(served.imagery.thumbnail(outline, class_id), "image/jpeg")

    def overlay(self, request: Request) -> Response:
        """Send a picture of an explanation."""
        picture = self._city.explainer.picture(request.path_params["token"])
        return _picture(picture, "image/png", HOUR)

    def review(self, request: Request) -> Response:
        """Send what people have said."""
        return JSONResponse(self._run(request).verdicts.read())

    async def explain(self, request: Request) -> Response:
        """Explain a detection or a place."""
        served, given = self._run(request), await read_json(request)
        id_, class_id = _text(given, "id") or None, _integer(given, "class_id")
        x, y = _number(given, "x"), _number(given, "y")
        point = None if x is None or y is None else (x, y)

        def work() -> dict[str, Any]:
            target = served.target(id_=id_, point=point, class_id=class_id)
            return self._city.explainer.explain(target)

        return JSONResponse(await run_in_threadpool(work))

    async def add_verdict(self, request: Request) -> Response:
        """Add a verdict to the review file."""
        served, given = self._run(request), await read_json(request)
        texts = [_text(given, name) for name in ("id", "verdict", "true_class", "note")]
        return JSONResponse(await run_in_threadpool(served.verdicts.add, *texts))

    async def add_missed(self, request: Request) -> Response:
        """Add an object that the map has missed to the review file."""
        served, given = self._run(request), await read_json(request)
        geometry = given.get("geometry")
        if not isinstance(geometry, dict):
            raise HTTPException(400, "geometry must be GeoJSON")
        rest = _text(given, "class"), _number(given, "m2"), _text(given, "note")
        return JSONResponse(await run_in_threadpool(served.verdicts.add_missed, geometry, *rest))

    async def undo(self, request: Request) -> Response:
        """Remove a row that was added."""
        served, given = self._run(request), await read_json(request)
        row = _text(given, "layer"), _integer(given, "row") or 0
        return JSONResponse(await run_in_threadpool(served.verdicts.undo, *row))

    def _run(self, request: Request) -> ServedRun:
        number = int(request.path_params["run"])
        if number >= len(self._city.runs):
            raise HTTPException(404, f"there is no run {number}")
        return self._city.runs[number]

    def _shown(self, request: Request) -> ServedRun:
        """Return the run, if its imagery can be shown."""
        served = self._run(request)
        if served.imagery_problem:
            raise HTTPException(404, served.imagery_problem)
        return served


def _file(path: Path | None) -> Response:
    if path is None:
        raise HTTPException(404, "there is no such file")
    kind = {".tif": "image/tiff", ".fgb": "application/octet-stream"}.get(path.suffix)
    return FileResponse(path, media_type=kind)


def _picture(
    content: bytes | None, kind: str, headers: Mapping[str, str] | None = None
) -> Response:
    if content is None:
        raise HTTPException(404, "there is no such picture")
    return Response(content, media_type=kind, headers=headers)


def _whole(request: Request, name: str, default: int) -> int:
    text = request.query_params.get(name)
    if text is None:
        return default
    if not text.isdecimal() or len(text) > 9:
        raise HTTPException(400, f"{name} must be a whole number")
    return int(text)


def _text(given: dict[str, Any], name: str) -> str:
    value = given.get(name) or ""
    if not isinstance(value, str):
        raise HTTPException(400, f"{name} must be a text")
    return value


def _number(given: dict[str, Any], name: str) -> float | None:
    value = given.get(name)
    if value is None:
        return None
    if not isinstance(value, bool) and isinstance(value, int | float):
        with suppress(OverflowError):  # a whole number of 400 digits
            if math.isfinite(number := float(value)):
                return number
    raise HTTPException(400, f"{name} must be a number")


def _integer(given: dict[str, Any], name: str) -> int | None:
    number = _number(given, name)
    if number is not None and not number.is_integer():
        raise HTTPException(400, f"{name} must be a whole number")
    return None if number is None else int(number)
