"""Export of a network with its explanation as an ONNX file, checked on tiles before it is there."""

from __future__ import annotations

import copy
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path
from typing import get_args

import torch
from torch import Tensor

from capecam.analysis.benchmark.workload import sample_tiles as drawn_tiles
from capecam.attribution.engine import Engine
from capecam.attribution.graph.onnx_export import Compute, Layout, export, in_float32, results_of
from capecam.attribution.graph.onnx_metadata import metadata
from capecam.attribution.graph.onnx_session import (
    MOST,
    TOLERANCE,
    OnnxSession,
    decisive_errors,
    largest_errors,
)
from capecam.errors import CapecamError, OutputError, SettingsError, UsageError
from capecam.model.model import check_tile, load_model
from capecam.mosaic.city import city_of
from capecam.pipeline.calibration import sample_tiles
from capecam.run.text_table import text_table
from capecam.runtime.files import atomic_write
from capecam.settings import Settings
from capecam.store.provenance import recorded_value_range

CHECKED_TILES = 8
"""Number of tiles on which a file is checked."""

BATCHES = (1, 3)
"""Numbers of tiles that are checked together. The graph was captured for 2 and for 3."""


class ExportError(CapecamError):
    """The maps of an ONNX file are not those of PyTorch; the file is not kept.

    Choose other --methods, or report the network.
    """


@dataclass(frozen=True, slots=True)
class Exported:
    """A file that was written and checked."""

    path: Path
    size: int
    """Size of the file in bytes."""
    errors: Mapping[str, float]
    """Largest difference to PyTorch's results by name, relative to the range of each class."""
    decisive: Mapping[str, float]
    """The same of guided maps without one value in a thousand; at most ``TOLERANCE``."""
    tiles: int
    """Number of tiles that were compared."""
    images: bool
    """True if they are of images, and not drawn."""

    def to_text(self) -> str:
        """Return the result as text."""
        rows = [
            (name, f"{error:.1e}", f"{self.decisive[name]:.1e}")
            for name, error in self.errors.items()
        ]
        kind = "tiles of images" if self.images else "drawn tiles"
        checked = (
            f"checked on {self.tiles} {kind}: within {TOLERANCE:g} of each map's range (guided: "
            f"{MOST:.1%} of their values)"
        )
        table = text_table(("output", "largest difference / range", "decisive"), rows)
        return f"{table}\n{checked}\n{self.path}: {self.size / 1e6:.0f} MB"


def export_model(
    checkpoint: Path,
    path: Path,
    settings: Settings,
    layout: str = "maps",
    license_: str | None = None,
) -> Exported:
    """Write a network with its explanation as an ONNX file.

    Args:
        checkpoint: of the network.
        path: of the file.
        settings: of the model, the maps and the tile; ``sources`` are images to check the file on.
        layout: of ``attribution.graph.onnx_export.LAYOUTS``.
        license_: of the weights.

    Raises:
        ExportError: onnxruntime's results differ from PyTorch's by more than ``TOLERANCE``.
        SettingsError: the network cannot be exported.
        OutputError: there is no folder for the file.
    """
    chosen = _layout(layout)
    if not path.parent.is_dir():
        raise OutputError(f"{path.parent}: there is no such folder; make it, or name another")
    model = load_model(checkpoint, settings.model)
    check_tile(model.network, settings.tiling.tiling)
    engine = Engine(in_float32(model), settings.explain.methods, score=settings.explain.score)
    compute = results_of(engine, chosen)
    pixels, valid = _tiles(settings)
    facts = metadata(engine, chosen, settings.model, settings.tiling, license_)
    with atomic_write(path) as temporary:
        temporary.write_bytes(export(compute, pixels[0], facts))
        session = OnnxSession(temporary)
        found = _join(session(*part) for part in _parts(pixels, valid))
        expected = _computed(compute, pixels, valid)
        errors = decisive_errors(found, expected)
        if not max(errors.values()) <= TOLERANCE:
            exact = _computed(results_of(_in_float64(engine), chosen), pixels, valid)
            raise ExportError(_why_not(path, errors, decisive_errors(expected, exact)))
        largest = largest_errors(found, expected)
    return Exported(path, path.stat().st_size, largest, errors, len(pixels), bool(settings.sources))


def _layout(name: str) -> Layout:
    for layout in get_args(Layout):
        if layout == name:
            return layout  # type: ignore[no-any-return]
    raise SettingsError(f"layout must be one of {', '.join(get_args(Layout))}, got {name!r}")


def _tiles(settings: Settings) -> tuple[Tensor, Tensor]:
    """Return tiles of the sources, or drawn ones without: pixels (N, 3, S, S), valid (N, S, S)."""
    size = settings.tiling.size
    if not settings.sources:
        pixels = drawn_tiles(CHECKED_TILES, size, seed=1)
        return pixels, _all_valid(pixels)
    city = city_of(settings, settings.tiling.anchor)
    city = city.with_value_range(recorded_value_range(city.mosaic, settings, None))
    tiles = list(sample_tiles(city, settings.tiling.tiling, CHECKED_TILES, settings.explain.seed))
    if not tiles:
        raise UsageError("no tile of the images can be read; name others with --check")
    return torch.stack([t.pixels for t in tiles]), torch.stack([t.valid for t in tiles])


def _all_valid(pixels: Tensor) -> Tensor:
    return torch.ones_like(pixels[:, 0], dtype=torch.bool)


def _parts(pixels: Tensor, valid: Tensor) -> Iterator[tuple[Tensor, Tensor | None]]:
    """Yield batches of several sizes, with their validity, with a part of it, and without."""
    sizes = chain(BATCHES, iter(lambda: BATCHES[-1], None))
    start = 0
    while start < len(pixels):
        part = slice(start, start + next(sizes))
        seen = valid[part].clone()
        seen[:, : seen.shape[1] // 4] = False  # nodata at the top, as at the edge of a city
        yield pixels[part] * seen[:, None], seen
        yield pixels[part], None
        start = part.stop


def _join(batches: Iterable[dict[str, Tensor]]) -> dict[str, Tensor]:
    parts = list(batches)
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def _computed(compute: Compute, pixels: Tensor, valid: Tensor) -> dict[str, Tensor]:
    """Return PyTorch's results for the batches that a file is checked on."""
    return _join(
        compute(part, _all_valid(part) if seen is None else seen)
        for part, seen in _parts(pixels, valid)
    )


def _in_float64(engine: Engine) -> Engine:
    """Return an engine whose network computes in float64."""
    network = copy.deepcopy(engine.model.network).double()
    return Engine(replace(engine.model, network=network), engine.methods, score=engine.score)


def _why_not(path: Path, errors: Mapping[str, float], rounding: Mapping[str, float]) -> str:
    """Say which results differ too much, and how far PyTorch itself is from float64 there."""
    wrong = {name: error for name, error in errors.items() if not error <= TOLERANCE}
    shown = ", ".join(
        f"{name} by {error:.1e} ({rounding[name]:.1e})" for name, error in wrong.items()
    )
    return (
        f"{path}: is not written: relative to their range, results differ from PyTorch's by more "
        f"than {TOLERANCE:g} (in brackets: PyTorch's in float32 from float64): {shown}; leave "
        "these --methods out, or use a network that is trained"
    )
