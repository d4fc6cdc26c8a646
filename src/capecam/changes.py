"""What a cell was made from, and in what that differs from what it would be made from now."""

from __future__ import annotations

import hashlib
import json
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from capecam.errors import ImageError
from capecam.grid import Cell, Grid
from capecam.interest import Interest
from capecam.ledger import Ledger
from capecam.raster import Mosaic, Source, VsiPath, crs_key, files_of, fingerprint
from capecam.settings import Scale, Settings

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
    interest: Interest
    settings: Settings
    checkpoint: str
    """sha256."""
    precision: str
    tops: dict[str, tuple[float | None, ...]]
    """The calibration."""
    scale: Scale | None
    """Which values become 0 and 255, in images that need it."""


def basis(cell: Cell, inputs: Inputs, images: Sequence[Source]) -> dict[str, Any]:
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
        "calibration": inputs.tops,
    }
    if settings.imagery.collar != "none":
        tree["collar"] = settings.imagery.collar
    if reading := {s.name: how for s in images if (how := _reading(s, inputs.scale))}:
        tree["reading"] = reading
    plain: dict[str, Any] = json.loads(json.dumps(tree))
    return plain


def _reading(source: Source, scale: Scale | None) -> dict[str, Any]:
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
class Contents:
    """sha256 of images. Size and time are the shortcut: what has the same is not read again."""

    _known: dict[tuple[str, int, int], str] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __reduce__(self) -> tuple[Any, ...]:
        """Without the lock, which cannot go to another process."""
        return Contents, (dict(self._known),)

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
            sha256 = self._once((source.name, *before), lambda: _digest(path))
            if _state(path) != before:
                raise ImageError(f"{path}: changes while it is read; run again when it is whole")
        except OSError as error:
            raise ImageError(
                f"{path}: cannot be read ({error.strerror}); try again, or check its disk"
            ) from error
        return {"bytes": before[0], "mtime_ns": before[1], "sha256": sha256}

    def _once(self, key: tuple[str, int, int], digest: Callable[[], str]) -> str:
        with self._lock:
            known = self._known.get(key)
        if known is None:
            known = digest()
            with self._lock:
                self._known[key] = known
        return known


def _state(path: Path) -> tuple[int, int]:
    """Bytes, and time in ns, of an image; sums, where it has masks or sources beside it."""
    states = [file.stat() for file in files_of(path)]
    return sum(s.st_size for s in states), sum(s.st_mtime_ns for s in states)


def _digest(path: Path) -> str:
    """sha256 of a file; of all their sha256, where an image has masks or sources beside it."""
    digests = []
    for file in files_of(path):
        with file.open("rb") as stream:
            digests.append(hashlib.file_digest(stream, "sha256"))
    if len(digests) == 1:
        return digests[0].hexdigest()
    return hashlib.sha256(b"".join(digest.digest() for digest in digests)).hexdigest()


class Verdict(NamedTuple):
    """What is to be done about a cell."""

    state: str
    """``done``, ``failed`` (and nothing has changed) or ``todo``."""
    reason: str
    """Why it failed or is to be made."""


def judge(
    cells: Sequence[Cell], mosaic: Mosaic, inputs: Inputs, ledger: Ledger, contents: Contents
) -> dict[Cell, Verdict]:
    """Compare the records of cells with what they would be made from now.

    Args:
        cells: of the mosaic.
        mosaic: the imagery.
        inputs: what cells depend on beside it.
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
    verdicts = {}
    for cell, record in records.items():
        if record is None:
            verdicts[cell] = Verdict("todo", "new")
        elif reason := why_again(record, basis(cell, inputs, images[cell]), images[cell], contents):
            verdicts[cell] = Verdict("todo", reason)
        else:
            verdicts[cell] = Verdict(record["status"], record.get("error", ""))
    return verdicts


def why_again(
    record: Mapping[str, Any],
    wanted: Mapping[str, Any],
    images: Sequence[Source],
    contents: Contents,
) -> str | None:
    """In what a cell differs from its record, in words; None if it does not.

    Args:
        record: ``cell.json`` or ``failed.json``.
        wanted: the cell's :func:`basis` now.
        images: those that it would see now.
        contents: of images, this run's.
    """
    reasons = []
    if keys := _differences(record.get("basis", {}), wanted):
        reasons.append(f"changed: {', '.join(keys)}")
    before: Mapping[str, Any] = record.get("images", {})
    now = {source.name: source for source in images}
    reasons += [f"{name} is new" for name in now.keys() - before.keys()]
    reasons += [f"{name} is gone" for name in before.keys() - now.keys()]
    for name in now.keys() & before.keys():
        try:
            changed = contents.facts(now[name])["sha256"] != before[name]["sha256"]
        except ImageError:
            changed = before[name]["sha256"] is not None
        if changed:
            reasons.append(f"{name} changed")
    return "; ".join(sorted(reasons)) or None


def _differences(old: Any, new: Any, path: str = "") -> list[str]:
    """Dotted keys at which two trees differ."""
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        keys = [*new, *(key for key in old if key not in new)]
        return [
            difference
            for key in keys
            for difference in _differences(old.get(key), new.get(key), f"{path}.{key}".lstrip("."))
        ]
    return [] if old == new else [path]
