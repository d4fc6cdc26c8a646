"""Runs behind the viewer's page, without capecam's own server: the contract of files and answers.

``served`` starts a server on the standard library for folders of runs. ``python page_server.py OUT
[OUT2]`` does it by hand, to work on the page.
"""

from __future__ import annotations

import io
import json
import re
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit

import geopandas as gpd
import matplotlib as mpl
import numpy as np
import rasterio
from PIL import Image, ImageDraw

import capecam
from capecam.views.palette import EVIDENCE_COLORS
from capecam.views.report.captions import EVIDENCE

PAGE = Path(capecam.__file__).parent / "viewer" / "page"
TYPES = {
    ".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".txt": "text/plain",
    ".json": "application/json", ".tif": "image/tiff", ".jpg": "image/jpeg", ".png": "image/png",
    ".fgb": "application/octet-stream",
}  # fmt: skip
TITLES = {
    "probability": "Probability", "gradcam": "Grad-CAM", "gradcampp": "Grad-CAM++",
    "guided_gradcam": "Guided Grad-CAM", "objects": "Each object's own map",
}  # fmt: skip
LO19 = "+proj=tmerc +lat_0=0 +lon_0=19 +k=1 +x_0=0 +y_0=0 +ellps=WGS84 +units=m +no_defs"
COUNTED_PX = 256
"""Edge of the squares in which detections are counted; the real one is larger."""

TILE = 256


@dataclass
class Run:
    """The folder of a run as the page sees it."""

    out: Path
    index: int = 0
    name: str = "2023"
    about: dict[str, str] = field(default_factory=lambda: {"run": "first", "model": "a"})
    failed: Mapping[str, str] = field(default_factory=dict)
    """Reason by cell that is said to have failed."""

    @cached_property
    def record(self) -> dict[str, Any]:
        return json.loads((self.out / "run.json").read_text())

    @cached_property
    def transform(self) -> tuple[float, float, float, float]:
        """x0, y0, sx, sy"""
        window, (sx, sy) = self.record["grid"]["window"], self.record["grid"]["pixel"]
        x, y = self.record["anchor"]
        return x + window["col"] * sx, y - window["row"] * sy, sx, sy

    @cached_property
    def cells(self) -> dict[str, dict[str, int]]:
        """Row, col, height and width by name, in pixels from the north-west corner."""
        first, cells = self.record["grid"]["window"], {}
        for path in sorted(self.out.glob("cells/*/cell.json")):
            core = json.loads(path.read_text())["basis"]["core"]
            core["row"], core["col"] = core["row"] - first["row"], core["col"] - first["col"]
            cells[path.parent.name] = core
        return cells

    @cached_property
    def imagery(self) -> np.ndarray:
        """(height, width, 3) uint8"""
        window = self.record["grid"]["window"]
        whole = np.zeros((window["height"], window["width"], 3), np.uint8)
        x0, y0, sx, sy = self.transform
        for path in self.images:
            with rasterio.open(path) as image:
                col = round((image.transform.c - x0) / sx)
                row = round((y0 - image.transform.f) / sy)
                pixels = image.read([1, 2, 3]).transpose(1, 2, 0)
            rows, cols = whole.shape[0] - row, whole.shape[1] - col
            pixels = pixels[max(0, -row) : rows, max(0, -col) : cols]
            row, col = max(0, row), max(0, col)
            whole[row : row + pixels.shape[0], col : col + pixels.shape[1]] = pixels
        return whole

    @property
    def images(self) -> list[Path]:
        folders = [Path(source) for source in self.record["settings"]["sources"]]
        return sorted(path for folder in folders for path in folder.rglob("*.tif"))

    @cached_property
    def table(self) -> gpd.GeoDataFrame:
        table = gpd.read_parquet(self.out / "detections.parquet")
        table = table.sort_values("confidence", ignore_index=True)
        table["rank"] = np.arange(1, len(table) + 1)
        for column, default in {"p_right": None, "own_share": None, "own_drop": None}.items():
            if column not in table:
                table[column] = default
        if "evidence" not in table:
            words = ["itself", "context", "both", "either", "unproven", ""]
            table["evidence"] = [words[n % len(words)] for n in range(len(table))]
        return table

    def outlines(self, path: Path) -> Path:
        """Write the FlatGeobuf of the detections."""
        columns = ["id", "class_id", "class", "confidence", "p_right", "area_m2", "evidence"]
        columns += ["rank", "own_share", "own_drop", "geometry"]
        table = self.table[columns].astype(
            dict.fromkeys(("p_right", "own_share", "own_drop"), float)
        )
        table.to_file(path, driver="FlatGeobuf", engine="pyogrio", SPATIAL_INDEX="YES")
        return path

    def counts(self) -> dict[str, Any]:
        x0, y0, sx, sy = self.transform
        points = self.table.geometry.representative_point()
        rows = ((y0 - points.y) / sy // COUNTED_PX).astype(int)
        cols = ((points.x - x0) / sx // COUNTED_PX).astype(int)
        grouped = self.table.groupby(["class_id", rows, cols]).size()
        counts: dict[str, list[list[int]]] = {}
        for (class_id, row, col), n in grouped.items():
            counts.setdefault(str(class_id), []).append([int(row), int(col), int(n)])
        return {"pixels": COUNTED_PX, "counts": counts}

    def queue(
        self, offset: int = 0, limit: int = 500, class_id: int | None = None
    ) -> dict[str, Any]:
        table = self.table if class_id is None else self.table[self.table["class_id"] == class_id]
        columns = ["id", "class_id", "confidence", "p_right", "area_m2", "evidence"]
        rows = []
        for _, row in table.iloc[offset : offset + limit].iterrows():
            point, box = row.geometry.representative_point(), row.geometry.bounds
            values = [_plain(row[name]) for name in columns]
            rows.append([*values, point.x, point.y, *box])
        columns += ["x", "y", "west", "south", "east", "north"]
        return {"total": len(table), "columns": columns, "rows": rows}

    def picture(self, z: int, row: int, col: int) -> bytes:
        """Return a JPEG of a tile of the imagery."""
        side = TILE << z
        part = self.imagery[row * side : (row + 1) * side, col * side : (col + 1) * side]
        full = np.zeros((side, side, 3), np.uint8)
        full[: part.shape[0], : part.shape[1]] = part
        small = full.reshape(TILE, 1 << z, TILE, 1 << z, 3).mean((1, 3)).astype(np.uint8)
        return _jpeg(Image.fromarray(small))

    def thumbnail(self, id_: str) -> bytes:
        """Return a JPEG of an object and its surroundings."""
        x0, y0, sx, sy = self.transform
        row = self.table[self.table["id"] == id_].iloc[0]
        west, south, east, north = row.geometry.bounds
        half = int(max(east - west, north - south) / sx) + 8
        c, r = int(((west + east) / 2 - x0) / sx), int((y0 - (south + north) / 2) / sy)
        image = Image.fromarray(self.imagery).crop((c - half, r - half, c + half, r + half))
        scale = 144 / image.width
        image = image.resize((144, 144))
        draw = ImageDraw.Draw(image)
        for part in getattr(row.geometry, "geoms", [row.geometry]):
            points = [
                (((x - x0) / sx - c + half) * scale, ((y0 - y) / sy - r + half) * scale)
                for x, y in part.exterior.coords
            ]
            draw.line(points, fill="#FFD60A", width=3)
        return _jpeg(image)

    def describe(self) -> dict[str, Any]:
        """Return the entry of city.json."""
        x0, y0, sx, sy = self.transform
        window = self.record["grid"]["window"]
        rows = [
            [name, *(core[key] for key in ("row", "col", "height", "width")), *self._status(name)]
            for name, core in self.cells.items()
        ]
        path = f"run/{self.index}/"
        return {
            "name": self.name, "path": path, "about": self.about,
            "verdicts_problem": "", "explain_problem": "",
            "grid": {
                "origin": [x0, y0], "pixel": [sx, sy], "height": window["height"],
                "width": window["width"], "anchor": self.record["anchor"],
            },
            "layers": self._layers(path),
            "cells": {
                "columns": ["name", "row", "col", "height", "width", "status", "reason"],
                "rows": rows,
            },
            "detections": {
                "count": len(self.table), "outlines": f"{path}detections.fgb",
                "counts": f"{path}counts.json", "queue": f"{path}queue.json", "zones": None,
            },
        }  # fmt: skip

    def _status(self, name: str) -> tuple[str, str]:
        return ("failed", self.failed[name]) if name in self.failed else ("done", "")

    def _layers(self, path: str) -> list[dict[str, Any]]:
        side = max(self.record["grid"]["window"].values())
        layers: list[dict[str, Any]] = [{
            "id": "imagery", "title": "Imagery", "group": "Imagery", "kind": "tiles",
            "visible": True, "opacity": 1, "url": f"{path}imagery/{{z}}/{{col}}/{{row}}.jpg",
            "max_z": max(0, int(np.ceil(np.log2(side / TILE)))),
        }]  # fmt: skip
        classes = classes_of(self.record)
        colors = ["#00000000", *(f"{entry['color']}c8" for entry in classes)]
        layers.append({
            **self._raster("classes", path), "id": "classes", "title": "Classes", "band": 0,
            "group": "Map", "visible": False, "opacity": 0.8,
            "palette": colors + ["#00000000"] * (256 - len(colors)),
            "legend": [{"label": c["name"], "color": c["color"]} for c in classes], "unit": "",
        })  # fmt: skip
        for method, title in TITLES.items():
            if not any(self.out.glob(f"cells/*/{method}.tif")):
                continue
            for band, entry in enumerate(classes):
                palette = heat_palette() if method != "probability" else shades(entry["color"])
                layers.append({
                    **self._raster(method, path), "id": f"{method}/{entry['name']}", "band": band,
                    "title": f"{title}: {entry['name']}", "group": title, "palette": palette,
                    "visible": method == "gradcam" and band == 0, "opacity": 0.8,
                    "legend": [
                        {"label": label, "color": palette[value][:7]}
                        for label, value in (("0", 20), ("0.5", 127), ("1", 254))
                    ],
                    "unit": "share of the class's maximum in the city",
                })  # fmt: skip
        return layers

    def _raster(self, method: str, path: str) -> dict[str, Any]:
        file = next(self.out.glob(f"cells/*/{method}.tif"))
        with rasterio.open(file) as raster:
            block = round(raster.transform.a / self.transform[2])
        overview = self.out / f"{method}.overview.tif"
        return {
            "kind": "raster", "block": block, "nodata": 255,
            "cell_file": f"{path}cells/{{cell}}/{method}.tif",
            "overview": f"{path}{method}_overview.tif" if overview.exists() else None,
            "overview_factor": 16,
        }  # fmt: skip


def classes_of(record: Mapping[str, Any]) -> list[dict[str, Any]]:
    entries = record["settings"]["model"]["classes"][1:]
    return [{"id": n, "name": e["name"], "color": e["color"]} for n, e in enumerate(entries, 1)]


def heat_palette() -> list[str]:
    colors = mpl.colormaps["inferno"](np.linspace(0.15, 1, 255), bytes=True)
    alphas = (255 * 0.8 * np.minimum(1, 2.5 * np.linspace(0, 1, 255))).astype(int)
    return [
        f"#{r:02x}{g:02x}{b:02x}{a:02x}" for (r, g, b, _), a in zip(colors, alphas, strict=True)
    ] + ["#00000000"]


def shades(color: str) -> list[str]:
    return [f"{color}{max(0, round((n - 25) * 230 / 229)):02x}" for n in range(255)] + ["#00000000"]


def _plain(value: Any) -> Any:
    """Return a value of a table as JSON has it."""
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return None
    return value.item() if isinstance(value, np.generic) else value


def _jpeg(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=85)
    return buffer.getvalue()


Answer = bytes | Path | dict[str, Any] | None


@dataclass
class Site:
    """Runs, the files made of them, and what was asked."""

    runs: list[Run]
    folder: Path
    is_served: bool = True
    overrides: dict[str, Any] = field(default_factory=dict)
    """Entries of city.json that are others than usual."""
    requests: list[str] = field(default_factory=list)
    verdicts: list[dict[str, Any]] = field(default_factory=list)
    missed: list[dict[str, Any]] = field(default_factory=list)
    order: list[str] = field(default_factory=list)
    explained: list[dict[str, Any]] = field(default_factory=list)
    preparing: dict[str, int] = field(default_factory=dict)
    """Number of times that files are still being made, by name."""

    def __post_init__(self) -> None:
        for run in self.runs:
            folder = self.folder / "run" / str(run.index)
            folder.mkdir(parents=True, exist_ok=True)
            if not (folder / "detections.fgb").exists():
                run.outlines(folder / "detections.fgb")

    def city(self) -> dict[str, Any]:
        first = self.runs[0]
        return {
            "title": "Sample city", "served": self.is_served,
            "crs": {
                "name": "Hartebeesthoek94 / Lo19", "code": "ESRI:102562", "proj4": LO19,
            },
            "attribution": "Imagery: drawn by capecam",
            "classes": classes_of(first.record),
            "evidence": [
                {"word": word, "color": EVIDENCE_COLORS[word], "meaning": meaning}
                for word, meaning in EVIDENCE.items()
            ],
            "runs": [
                run.describe() | ({} if self.is_served else {"explain_problem": "without a server"})
                for run in self.runs
            ],
            **self.overrides,
        }  # fmt: skip

    def get(self, path: str, query: Mapping[str, list[str]]) -> Answer:
        """Return the answer to a GET; None for a path that is not there."""
        if path in ("", "index.html", "viewer.js", "viewer.css", "licences.txt"):
            return PAGE / (path or "index.html")
        if path == "city.json":
            return self.city()
        for pattern, make in self._routes(query).items():
            if found := re.fullmatch(f"run/(\\d)/{pattern}", path):
                index, *rest = found.groups()
                return make(self.runs[int(index)], *rest)
        return self.folder / path

    def _routes(self, query: Mapping[str, list[str]]) -> dict[str, Callable[..., Answer]]:
        """Return what is made, by pattern."""
        one = {key: value[0] for key, value in query.items()}
        numbers = {key: int(one[key]) for key in ("offset", "limit", "class") if key in one}
        page = {"class_id" if key == "class" else key: n for key, n in numbers.items()}
        routes: dict[str, Callable[..., Answer]] = {
            "(cells/.*)": lambda run, rest: run.out / rest,
            "(\\w+)_overview.tif": lambda run, name: run.out / f"{name}.overview.tif",
            r"imagery/(\d+)/(\d+)/(\d+)\.jpg": lambda run, z, col, row: run.picture(
                int(z), int(row), int(col)
            ),
            "thumbnails/(.*).jpg": Run.thumbnail,
            "overlay/(\\w+).png": lambda _, name: _overlay(name),
            "counts.json": lambda run: run.counts(),
            "queue.json": lambda run: run.queue(**page),
        }
        if self.is_served:
            routes["review"] = lambda _: {"verdicts": self.verdicts, "missed": self.missed}
            routes["find"] = lambda run: self._find(run, one["id"])
        return routes

    def _find(self, run: Run, id_: str) -> dict[str, Any] | None:
        queue = run.queue(0, len(run.table))
        rows = [dict(zip(queue["columns"], row, strict=True)) for row in queue["rows"]]
        return next((row for row in rows if row["id"] == id_), None)

    def post(self, path: str, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Return status and answer."""
        run = self.runs[int(path.split("/")[1])]
        match path.rsplit("/", 1)[1]:
            case "verdicts":
                self.verdicts.append({"row": len(self.order), **body})
                self.order.append("verdicts")
                return 200, self.verdicts[-1]
            case "missed":
                self.missed.append({"row": len(self.order), **body})
                self.order.append("missed")
                return 200, self.missed[-1]
            case "undo":
                rows = getattr(self, body["layer"])
                rows[:] = [row for row in rows if row["row"] != body["row"]]
                return 200, body
            case "explain":
                return self._explain(run, body)
        return 404, {"error": f"{path} is not there"}

    def _explain(self, run: Run, body: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        self.explained.append(body)
        if "id" in body:
            row = run.table[run.table["id"] == body["id"]].iloc[0]
        else:
            point = gpd.points_from_xy([body["x"]], [body["y"]])[0]
            row = run.table.iloc[run.table.distance(point).argmin()]
            if row.geometry.distance(point) > 8:
                return 409, {"error": "Nothing of any class is at this place."}
        x, y = row.geometry.representative_point().coords[0]
        half, palette = 12.8, heat_palette()
        extent = [x - half, y - half, x + half, y + half]
        titles = {
            "own": "Its own explanation",
            "gradcam": "Grad-CAM of the tile",
            "guided": "Guided Grad-CAM",
        }
        return 200, {
            "id": row["id"], "class": row["class"], "class_id": int(row["class_id"]),
            "confidence": float(row["confidence"]), "evidence": "itself",
            "numbers": {
                "own_share": 0.62, "own_near": 0.81, "own_peak_m": 0.4, "leak": 0.03,
                "own_drop": 0.71, "random_drop": 0.08, "distance_drop": 0.66, "alone": 0.94,
                "without": 0.11,
            },
            "outline": row.geometry.__geo_interface__, "took_s": 0.28,
            "overlays": [
                {
                    "title": title, "url": f"{run.describe()['path']}overlay/{name}.png",
                    "extent": extent,
                    "legend": [{"label": label, "color": palette[v][:7]}
                               for label, v in (("low", 20), ("", 90), ("", 160), ("high", 254))],
                    "unit": "share of its sum",
                }
                for name, title in titles.items()
            ],
        }  # fmt: skip


def _overlay(name: str) -> bytes:
    """Return a PNG of 320 px with a bell in the middle."""
    at = np.linspace(-1, 1, 320)
    width = {"own": 0.12, "gradcam": 0.4}.get(name, 0.06)
    bell = np.exp(-(at[:, None] ** 2 + at[None] ** 2) / (2 * width**2))
    if name == "guided":
        bell = bell * np.random.default_rng(0).random(bell.shape)
    colors = np.array([[int(c[n : n + 2], 16) for n in (1, 3, 5, 7)] for c in heat_palette()])
    buffer = io.BytesIO()
    Image.fromarray(colors[(254 * bell).astype(int)].astype(np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


class Handler(BaseHTTPRequestHandler):
    """GET with ranges, and POST."""

    protocol_version = "HTTP/1.1"
    site: Site

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        self.site.requests.append(self.path)
        try:
            answer = self.site.get(unquote(parts.path).lstrip("/"), parse_qs(parts.query))
        except IndexError:
            answer = None
        name = parts.path.rpartition("/")[2]
        if self.site.preparing.get(name):
            self.site.preparing[name] -= 1
            self._send(503, b'{"error": "it is being made"}', ".json")
            return
        if isinstance(answer, Path):
            answer = answer.read_bytes() if answer.is_file() else None
        if answer is None:
            self._send(404, b'{"error": "it is not there"}', ".json")
        elif isinstance(answer, dict):
            self._send(200, json.dumps(answer).encode(), ".json")
        else:
            self._send(200, answer, Path(parts.path).suffix or ".html")

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if not self.site.is_served or self.headers.get("X-Capecam") != "1":
            self._send(403, b'{"error": "not here"}', ".json")
            return
        status, answer = self.site.post(urlsplit(self.path).path.lstrip("/"), json.loads(body))
        self._send(status, json.dumps(answer).encode(), ".json")

    def _send(self, status: int, data: bytes, suffix: str) -> None:
        total, span = len(data), self.headers.get("Range")
        self.send_response(206 if span and status == 200 else status)
        if span and status == 200:
            first, last = (int(n) for n in span.removeprefix("bytes=").split("-"))
            last = min(last, total - 1)
            data = data[first : last + 1]
            self.send_header("Content-Range", f"bytes {first}-{last}/{total}")
        self.send_header("Content-Type", TYPES.get(suffix, "application/octet-stream"))
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Cache-Control", "no-cache")
        if status == 503:
            self.send_header("Retry-After", "1")
        self.end_headers()
        with suppress(BrokenPipeError, ConnectionResetError):  # the page has moved on
            self.wfile.write(data)

    def log_message(self, *_: object) -> None:
        """Nothing."""


class Server(ThreadingHTTPServer):
    def handle_error(self, *_: object) -> None:
        """Print errors, but not those of a browser that has left."""
        if not isinstance(sys.exc_info()[1], ConnectionError):
            super().handle_error(*_)


@contextmanager
def served(site: Site, port: int = 0) -> Iterator[str]:
    """Address of the page while its server runs."""
    handler = type("SiteHandler", (Handler,), {"site": site})
    with Server(("127.0.0.1", port), handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{server.server_port}/"
        server.shutdown()
        thread.join()


if __name__ == "__main__":
    import tempfile

    with tempfile.TemporaryDirectory() as temporary:
        runs = [Run(Path(out), n, f"run {n + 1}") for n, out in enumerate(sys.argv[1:])]
        with served(Site(runs, Path(temporary)), 8765) as address:
            print(address, flush=True)
            threading.Event().wait()
