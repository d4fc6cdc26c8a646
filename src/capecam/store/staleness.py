"""Staleness of cells: their recorded inputs, compared with the present ones."""

from __future__ import annotations

import hashlib
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from pydantic import JsonValue

from capecam.errors import ImageError
from capecam.grid import Cell
from capecam.imagery.crs import crs_key
from capecam.imagery.datum import datum_of
from capecam.imagery.fingerprint import files_of, fingerprint
from capecam.io.paths import VsiPath
from capecam.mosaic.city import City
from capecam.mosaic.mosaic import Source
from capecam.runtime.files import file_digest
from capecam.settings import PIXEL_METHODS, Settings, ValueRange
from capecam.store.ledger import Ledger
from capecam.store.records import (
    CalibrationRecord,
    CellInputs,
    CellRecord,
    FailureRecord,
    ImageFacts,
    JsonTree,
)

FORMAT = 1
"""To be increased when the same inputs give other pixels; then all cells are processed again."""

HASH_THREADS = 8
"""sha256 releases Python's lock, and waits for disks."""

GONE = ImageFacts(bytes=None, mtime_ns=None, sha256=None)
"""Facts of an image that does not exist any more."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """Inputs that the pixels of all cells depend on."""

    city: City
    """The imagery, at the run's value range."""
    settings: Settings
    checkpoint: str
    """sha256."""
    precision: str
    calibration: CalibrationRecord


def cell_inputs(cell: Cell, inputs: Inputs, images: Sequence[Source]) -> CellInputs:
    """Return everything but the contents of images that a cell's pixels depend on.

    Args:
        cell: to be processed.
        inputs: of all cells.
        images: that the cell reads.
    """
    settings, mosaic = inputs.settings, inputs.city.mosaic
    model = settings.model.model_dump(mode="json")
    model["classes"] = [entry.name for entry in settings.model.classes]  # colours are styling
    # Keys that do not concern a cell are left out, so that cells of versions without them are kept.
    optional: dict[str, object] = {}
    if settings.imagery.collar != "none":
        optional["collar"] = settings.imagery.collar
    if settings.compute.engine == "onnx":
        optional["engine"] = "onnx"
    if settings.compute.channels_last:
        optional["layout"] = "channels-last"
    floor, explain = inputs.calibration.floor, settings.explain
    if by_root := [method for method in explain.methods if method in PIXEL_METHODS]:
        optional["floor"] = {method: floor.get(method, ()) for method in by_root}
    if reading := {s.name: how for s in images if (how := _reading(s, mosaic.value_range))}:
        optional["reading"] = reading
    return CellInputs(
        format=FORMAT,
        core=cell.core,
        taken=cell.taken,
        windows=inputs.city.interest.key(settings.tiling.tiling, cell.core),
        grid={"anchor": mosaic.grid.anchor, "pixel": mosaic.grid.pixel},
        checkpoint=inputs.checkpoint,
        precision=inputs.precision,
        model=model,
        align=settings.mosaic.align,
        tiling=settings.tiling.model_dump(mode="json", include={"size", "overlap", "stride"}),
        explain=explain.model_dump(
            mode="json", include={"methods", "score", "where", "heatmap_dtype"}
        ),
        calibration=inputs.calibration.scale_max,
        **optional,
    )


def _reading(source: Source, value_range: ValueRange | None) -> JsonTree:
    """Return how an image is read, as far as that differs from the ordinary way."""
    header = source.header
    found: JsonTree = dict(header.pixels.nondefault)
    if header.pixels.scaled:
        found["scale"] = str(value_range)
    pixels = header.pixels
    wide_alpha = pixels.validity == "alpha" and pixels.dtype != "uint8"
    if source.warped and (wide_alpha or pixels.dtype.startswith("float")):
        found["validity"] = "exact"  # version 0.1 lost pixels of these
    if header.placement.assigned:
        datum = datum_of(header.crs)
        found |= {"crs": crs_key(header.crs), "datum": datum.code or datum.name}
    return found


@dataclass(slots=True)
class ImageHashes:
    """sha256 of images. One with the same size and time as before is not read again."""

    _known: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[type[ImageHashes], tuple[object, ...]]:
        """Leave out the lock, which cannot be sent to another process."""
        return ImageHashes, (dict(self._known),)

    def learn(self, images: Mapping[str, ImageFacts]) -> None:
        """Remember the hashes in a cell's record."""
        for name, facts in images.items():
            if facts.bytes is not None and facts.mtime_ns is not None and facts.sha256 is not None:
                self._known[name, facts.bytes, facts.mtime_ns] = facts.sha256

    def of_neighbour(self, source: Source) -> ImageFacts:
        """Return the facts of an image, which may be gone."""
        try:
            return self.facts(source)
        except ImageError:
            return GONE

    def of(self, source: Source, cell: Cell) -> ImageFacts:
        """Return the facts of an image that a cell reads; only a neighbour may be gone."""
        return self.facts(source) if source.name == cell.image else self.of_neighbour(source)

    def facts(self, source: Source) -> ImageFacts:
        """Return the facts of an image, with all files that it is read from.

        A virtual file has a fingerprint instead, which is computed once in every run.

        Raises:
            ImageError: it does not exist any more, or changes while it is read.
        """
        path = source.header.path
        if isinstance(path, VsiPath):
            sha256 = self._once((source.name, 0, 0), lambda: fingerprint(path))
            return ImageFacts(bytes=None, mtime_ns=None, sha256=sha256)
        try:
            size, mtime_ns = _state(path)
            sha256 = self._once((source.name, size, mtime_ns), lambda: _content(path))
            if _state(path) != (size, mtime_ns):
                raise ImageError(f"{path}: changes while it is read; run again when it is whole")
        except OSError as error:
            raise ImageError(
                f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
            ) from error
        return ImageFacts(bytes=size, mtime_ns=mtime_ns, sha256=sha256)

    def _once(self, key: tuple[str, int, int], compute: Callable[[], str]) -> str:
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = compute()
            with self._lock:
                self._known[key] = known
        return known


def _state(path: Path) -> tuple[int, int]:
    """Return the bytes and the time in ns of an image; sums where it consists of several files."""
    states = [file.stat() for file in files_of(path)]
    return sum(s.st_size for s in states), sum(s.st_mtime_ns for s in states)


def _content(path: Path) -> str:
    """Return the sha256 of a file; that of all their sha256 where an image is several files."""
    first, *others = (file_digest(file) for file in files_of(path))
    if not others:
        return first
    return hashlib.sha256(bytes.fromhex("".join((first, *others)))).hexdigest()


NEW, IMAGE, NEIGHBOURS, SETTINGS, AGAIN, LOST = CAUSES = (
    "new", "with another image", "with other neighbours", "with other settings", "that failed",
    "whose products are gone or cut off",
)  # fmt: skip
"""Why a cell is to be processed: of several reasons, the most specific."""


class CellState(NamedTuple):
    """Decision whether to process a cell, with the reason."""

    state: str
    """``done``, ``failed`` (and to be left alone) or ``todo``."""
    reason: str
    """Why it failed or is to be processed."""
    cause: str = ""
    """One of ``CAUSES``, if it is to be processed."""
    interrupted: bool = False
    """Whether it was in progress when a run ended, and starts again."""


def describe_states(states: Collection[CellState]) -> str:
    """Return a line about what earlier runs have done, and what is left to do."""
    counts = Counter(state.state for state in states)
    parts = [f"{counts[s]} {s} before" for s in ("done", "failed") if counts[s]]
    if counts["todo"]:
        parts.append(f"{counts['todo']} to be made ({by_cause(s.cause for s in states)})")
    interrupted = sum(state.interrupted for state in states)
    return f"cells: {', '.join(parts)}" + (f"; {interrupted} interrupted" if interrupted else "")


def by_cause(causes: Iterable[str]) -> str:
    """Return the number of cells to be processed for each cause, as a phrase."""
    counts = Counter(causes)
    return ", ".join(f"{counts[cause]} {cause}" for cause in CAUSES if counts[cause])


def check_cells(
    cells: Sequence[Cell], inputs: Inputs, ledger: Ledger, hashes: ImageHashes
) -> dict[Cell, CellState]:
    """Compare the records of cells with their inputs now.

    Args:
        cells: of the city.
        inputs: of all cells; their settings say whether cells that failed are tried again.
        ledger: of the output.
        hashes: images that may have changed are hashed, several at a time.
    """
    tiling = inputs.settings.tiling.tiling
    records = {cell: record for cell in cells if (record := ledger.read_any(cell.name))}
    images = {cell: inputs.city.mosaic.images_read(cell, tiling) for cell in records}
    for record in records.values():
        hashes.learn(record.images)
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        distinct = {source.name: source for sources in images.values() for source in sources}
        list(threads.map(hashes.of_neighbour, distinct.values()))
    interrupted, states = ledger.interrupted(), {}
    for cell in cells:
        state, record = CellState("todo", "new", NEW), records.get(cell)
        if record is not None:
            state = _compare(cell, record, inputs, images[cell], hashes)
        lost = ledger.lost_products(cell.name, record) if isinstance(record, CellRecord) else []
        if state.state == "done" and lost:
            state = CellState("todo", f"gone or cut off: {', '.join(lost)}", LOST)
        is_interrupted = state.state == "todo" and cell.name in interrupted
        states[cell] = state._replace(interrupted=is_interrupted)
    return states


def _compare(
    cell: Cell,
    record: CellRecord | FailureRecord,
    inputs: Inputs,
    images: Sequence[Source],
    hashes: ImageHashes,
) -> CellState:
    """Compare the record of a cell with its inputs and images now."""
    expected = cell_inputs(cell, inputs, images)
    keys = _differing(_with_datums(record.inputs, expected).to_json(), expected.to_json())
    changes = _image_changes(record.images, images, hashes)
    if keys or changes:
        reasons = [f"changed: {', '.join(keys)}"] if keys else []
        reasons += [f"{name} {change}" for name, change in changes.items()]
        cause = IMAGE if cell.image in changes else SETTINGS if keys else NEIGHBOURS
        return CellState("todo", "; ".join(sorted(reasons)), cause)
    if isinstance(record, CellRecord):
        return CellState("done", "")
    if inputs.settings.run.retry_failed:
        return CellState("todo", record.error, AGAIN)
    return CellState("failed", record.error)


def _with_datums(recorded: CellInputs, expected: CellInputs) -> CellInputs:
    """Return recorded inputs with the datums of assigned CRSs, which version 0.1 did not record."""
    reading = {name: dict(way) for name, way in recorded.reading.items()}
    for name, now in expected.reading.items():
        if "datum" in now and "crs" in reading.get(name, {}):
            reading[name].setdefault("datum", now["datum"])
    return recorded.model_copy(update={"reading": reading} if reading else {})


def _image_changes(
    old: Mapping[str, ImageFacts], images: Sequence[Source], hashes: ImageHashes
) -> dict[str, str]:
    """Return, by image, how what a cell reads differs from what it has read."""
    now = {source.name: source for source in images}
    changes = dict.fromkeys(now.keys() - old.keys(), "is new")
    changes |= dict.fromkeys(old.keys() - now.keys(), "is gone")
    for name in now.keys() & old.keys():
        if hashes.of_neighbour(now[name]).sha256 != old[name].sha256:
            changes[name] = "changed"
    return changes


def _differing(old: JsonValue, new: JsonValue, path: str = "") -> list[str]:
    """Return the dotted keys at which two trees differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            found
            for key in keys
            for found in _differing(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [path]
