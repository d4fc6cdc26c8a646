"""What a cell was made from, and in what that differs from what it would be made from now."""

from __future__ import annotations

import hashlib
import json
import threading
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Self

from capecam.errors import ImageError
from capecam.grid import Cell, Grid
from capecam.imagery.crs import crs_key
from capecam.imagery.fingerprint import files_of, fingerprint
from capecam.io.paths import VsiPath
from capecam.mosaic.aoi import AreaOfInterest
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.runtime.files import file_digest
from capecam.settings import Settings, ValueRange
from capecam.store.ledger import Ledger

FORMAT = 1
"""Goes up where the same inputs come to give other pixels; then all cells are made again."""

HASH_THREADS = 8
"""sha256 works outside of Python's lock, and waits for disks."""

GONE = {"bytes": None, "mtime_ns": None, "sha256": None}
"""Facts of an image that is not there any more."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """What the pixels of all cells depend on, beside the imagery."""

    grid: Grid
    interest: AreaOfInterest
    settings: Settings
    checkpoint: str
    """sha256."""
    precision: str
    scale_max: dict[str, tuple[float | None, ...]]
    """The calibration."""
    scale: ValueRange | None
    """Which values become 0 and 255, in images that need it."""


def cell_inputs(cell: Cell, inputs: Inputs, images: Sequence[Source]) -> dict[str, Any]:
    """Everything but the contents of images that a cell's pixels depend on, as JSON has it.

    Args:
        cell: that is to be made.
        inputs: what all cells depend on.
        images: those that it sees.
    """
    settings = inputs.settings
    model = settings.model.model_dump(mode="json")
    model["classes"] = [entry.name for entry in settings.model.classes]  # colours are styling
    tree = {
        "format": FORMAT,
        "core": asdict(cell.core),
        "taken": [asdict(window) for window in cell.taken],
        "windows": inputs.interest.key(settings.tiling.tiling, cell.core),
        "grid": {"anchor": inputs.grid.anchor, "pixel": inputs.grid.pixel},
        "checkpoint": inputs.checkpoint,
        "precision": inputs.precision,
        "model": model,
        "align": settings.mosaic.align,
        "tiling": settings.tiling.model_dump(mode="json", include={"size", "overlap", "stride"}),
        "explain": settings.explain.model_dump(
            mode="json", include={"methods", "score", "where", "heatmap_dtype"}
        ),
        "calibration": inputs.scale_max,
    }
    if settings.imagery.collar != "none":
        tree["collar"] = settings.imagery.collar
    if reading := {s.name: how for s in images if (how := _reading(s, inputs.scale))}:
        tree["reading"] = reading
    plain: dict[str, Any] = json.loads(json.dumps(tree))
    return plain


def _reading(source: Source, scale: ValueRange | None) -> dict[str, Any]:
    """How an image is read, beyond what holds for ordinary ones: so settings that it does not
    depend on make no cell again, and cells made before there were such settings stay.
    """
    header = source.header
    found = dict(header.pixels.peculiarities)
    if header.pixels.scaled:
        found["scale"] = str(scale)
    if header.place.assigned:
        found["crs"] = crs_key(header.crs)
    return found


@dataclass(slots=True)
class ImageHashes:
    """sha256 of images. Size and time are the shortcut: what has the same is not read again."""

    _known: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the lock, which cannot go to another process."""
        return ImageHashes, (dict(self._known),)

    def learn(self, images: Mapping[str, Mapping[str, Any]]) -> None:
        """Take over what a cell's record says of images."""
        for name, facts in images.items():
            if facts["bytes"] is not None:  # neither gone nor virtual, where nothing says that
                self._known[name, facts["bytes"], facts["mtime_ns"]] = facts["sha256"]

    def of_neighbour(self, source: Source) -> dict[str, Any]:
        """The same of an image that may be gone."""
        try:
            return self.facts(source)
        except ImageError:
            return dict(GONE)

    def of(self, source: Source, cell: Cell) -> dict[str, Any]:
        """The facts of an image that a cell sees; a neighbour may be gone, its own image not."""
        return self.facts(source) if source.name == cell.image else self.of_neighbour(source)

    def facts(self, source: Source) -> dict[str, Any]:
        """``bytes``, ``mtime_ns`` and ``sha256`` of an image, with all that it is read from.

        A virtual file has a fingerprint instead, which is made anew in every run.

        Raises:
            ImageError: it is not there any more, or changes while it is read.
        """
        path = source.header.path
        if isinstance(path, VsiPath):
            return {**GONE, "sha256": self._once((source.name, 0, 0), lambda: fingerprint(path))}
        try:
            before = _state(path)
            sha256 = self._once((source.name, *before), lambda: _content(path))
            if _state(path) != before:
                raise ImageError(f"{path}: changes while it is read; run again when it is whole")
        except OSError as error:
            raise ImageError(
                f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
            ) from error
        return {"bytes": before[0], "mtime_ns": before[1], "sha256": sha256}

    def _once(self, key: tuple[str, int, int], find: Callable[[], str]) -> str:
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = find()
            with self._lock:
                self._known[key] = known
        return known


def _state(path: Path) -> tuple[int, int]:
    """Bytes, and time in ns, of an image; sums, where it has masks or sources beside it."""
    states = [file.stat() for file in files_of(path)]
    return sum(s.st_size for s in states), sum(s.st_mtime_ns for s in states)


def _content(path: Path) -> str:
    """sha256 of a file; of all their sha256, where an image has masks or sources beside it."""
    first, *others = (file_digest(file) for file in files_of(path))
    if not others:
        return first
    return hashlib.sha256(bytes.fromhex("".join((first, *others)))).hexdigest()


NEW, IMAGE, NEIGHBOURS, SETTINGS, AGAIN, LOST = CAUSES = (
    "new", "with another image", "with other neighbours", "with other settings", "that failed",
    "whose products are gone or cut off",
)  # fmt: skip
"""Why a cell is to be made, of several reasons the one that concerns it most."""


class CellState(NamedTuple):
    """What is to be done about a cell."""

    state: str
    """``done``, ``failed`` (and to be left alone) or ``todo``."""
    reason: str
    """Why it failed or is to be made."""
    cause: str = ""
    """The same as one of ``CAUSES``, of a cell that is to be made."""
    half_made: bool = False
    """A run was at it when it ended, so that it begins anew."""


def first_words(verdicts: Collection[CellState]) -> str:
    """How far earlier runs have come, and what is left to do."""
    states = Counter(verdict.state for verdict in verdicts)
    parts = [f"{states[s]} {s} before" for s in ("done", "failed") if states[s]]
    if states["todo"]:
        parts.append(f"{states['todo']} to be made ({by_cause(v.cause for v in verdicts)})")
    cut_off = sum(verdict.half_made for verdict in verdicts)
    return f"cells: {', '.join(parts)}" + (f"; {cut_off} cut off in the making" if cut_off else "")


def by_cause(causes: Iterable[str]) -> str:
    """How many cells are to be made for which cause, in words."""
    counts = Counter(causes)
    return ", ".join(f"{counts[cause]} {cause}" for cause in CAUSES if counts[cause])


def check_cells(
    cells: Sequence[Cell], mosaic: Mosaic, inputs: Inputs, ledger: Ledger, contents: ImageHashes
) -> dict[Cell, CellState]:
    """Compare the records of cells with what they would be made from now.

    Args:
        cells: of the mosaic.
        mosaic: the imagery.
        inputs: what cells depend on beside it, and whether what failed is tried again.
        ledger: of the output.
        contents: of images; those that may have changed are read, several at a time.
    """
    tiling = inputs.settings.tiling.tiling
    records = {cell: ledger.read(cell.name) or ledger.read_failure(cell.name) for cell in cells}
    images = {cell: mosaic.touching(tiling.reach(cell.core)) for cell in cells if records[cell]}
    for known in filter(None, records.values()):
        contents.learn(known.get("images", {}))
    with ThreadPoolExecutor(HASH_THREADS) as threads:
        distinct = {source.name: source for sources in images.values() for source in sources}
        list(threads.map(contents.of_neighbour, distinct.values()))
    half_made, verdicts = ledger.half_made(), {}
    for cell, record in records.items():
        verdict = CellState("todo", "new", NEW)
        if record is not None:
            wanted = cell_inputs(cell, inputs, images[cell])
            differences = Differences.between(record, wanted, images[cell], contents)
            verdict = _verdict(cell, record, differences, inputs.settings, ledger)
        is_cut_off = verdict.state == "todo" and cell.name in half_made
        verdicts[cell] = verdict._replace(half_made=is_cut_off)
    return verdicts


def _verdict(
    cell: Cell,
    record: Mapping[str, Any],
    differences: Differences,
    settings: Settings,
    ledger: Ledger,
) -> CellState:
    """On a cell that has a record."""
    if differences:
        return CellState("todo", str(differences), differences.cause(cell.image))
    if record["status"] == "failed" and settings.run.retry_failed:
        return CellState("todo", record["error"], AGAIN)
    if lost := ledger.lost(cell.name, record):
        return CellState("todo", f"gone or cut off: {', '.join(lost)}", LOST)
    return CellState(record["status"], record.get("error", ""))


@dataclass(frozen=True, slots=True)
class Differences:
    """In what a cell differs from its record; false if it does not."""

    keys: tuple[str, ...]
    """Of its :func:`cell_inputs`, dotted."""
    images: Mapping[str, str]
    """By name: ``changed``, ``is new`` or ``is gone``."""

    @classmethod
    def between(
        cls,
        record: Mapping[str, Any],
        wanted: Mapping[str, Any],
        images: Sequence[Source],
        contents: ImageHashes,
    ) -> Self:
        """Those of a record and what would be made now.

        Args:
            record: ``cell.json`` or ``failed.json``.
            wanted: the cell's :func:`cell_inputs` now.
            images: those that it would see now.
            contents: of images, this run's.
        """
        before: Mapping[str, Any] = record.get("images", {})
        now = {source.name: source for source in images}
        found = dict.fromkeys(now.keys() - before.keys(), "is new")
        found |= dict.fromkeys(before.keys() - now.keys(), "is gone")
        for name in now.keys() & before.keys():
            if contents.of_neighbour(now[name])["sha256"] != before[name]["sha256"]:
                found[name] = "changed"
        return cls(tuple(_differing(record.get("basis", {}), wanted)), found)

    def __bool__(self) -> bool:
        return bool(self.keys or self.images)

    def __str__(self) -> str:
        reasons = [f"changed: {', '.join(self.keys)}"] if self.keys else []
        return "; ".join(sorted([*reasons, *(f"{n} {how}" for n, how in self.images.items())]))

    def cause(self, image: str) -> str:
        """One of ``CAUSES``, of a cell of this image."""
        if image in self.images:
            return IMAGE
        return SETTINGS if self.keys else NEIGHBOURS


def _differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys at which two trees differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            found
            for key in keys
            for found in _differing(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [path]
