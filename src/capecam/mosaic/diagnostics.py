"""What is unusual about an image, and what a run does about it, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil
from typing import Any

from capecam.imagery.bands import COLORS
from capecam.imagery.crs import is_in_degrees, metres_a_unit
from capecam.imagery.ground_resolution import ground_m, is_similar, ratio_to_model
from capecam.imagery.header import Header
from capecam.imagery.metadata import crs_name, join_names
from capecam.mosaic.mosaic import Source
from capecam.settings import Settings

WIDE_PX = 5_000
"""Strips of a wider image are decoded twice or more, since super-blocks are 2,570 px wide."""

BLOCK_MB = 64
"""Of a decoded block; 512 x 512 RGB is 0.8."""

MARKS = {"mask": "its mask", "alpha": "its alpha band"}

SQUARE = 0.01
"""How far the sides of a pixel may differ, of their length."""


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One thing, worded so that it is the same for all images that have it."""

    finding: str
    """What is unusual."""
    action: str
    """What the run does about it, and what the user can do."""
    warning: bool = False
    """Whether results may be worse for it, or wrong."""

    def to_json(self) -> dict[str, Any]:
        """Return the entry of ``inspect --json``."""
        return {"what": self.finding, "does": self.action, "warning": self.warning}


def image_diagnostics(
    header: Header, settings: Settings, *, resampled: bool = False
) -> tuple[Diagnostic, ...]:
    """All about one image; none for 8 cm RGB as cities deliver it.

    Args:
        header: of the image.
        settings: of the run.
        resampled: it is, so that its own pixels do not matter.
    """
    return (
        *_colors(header, settings),
        *_left_out(header, settings),
        *_values(header, settings),
        *_validity(header),
        *_storage(header),
        *_place(header, settings),
        *(() if resampled else _resolution(header, settings)),
    )


def placement_diagnostics(source: Source, settings: Settings) -> tuple[Diagnostic, ...]:
    """Those that only the other images of the mosaic give rise to."""
    if any(source.shift_px):
        return (
            Diagnostic(
                "lies a part of a pixel off the mosaic's grid",
                "goes to the nearest whole pixel (--align snap)",
            ),
        )
    if (
        source.warped
        and source.header.orientation == "north-up"
        and settings.mosaic.gsd == "native"
    ):
        return (
            Diagnostic(
                "has another CRS or resolution than the mosaic",
                "is resampled onto its grid, bilinearly (--align warp)",
            ),
        )
    return ()


def _colors(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    kinds, pixels = header.metadata.kinds, header.pixels
    named = ", ".join(map(str, pixels.bands))
    if pixels.palette:
        yield Diagnostic("has a colour table", "its colours are looked up there (--bands palette)")
    elif settings.imagery.bands == "gray":
        yield Diagnostic(
            "is read as grey",
            "band 1 is red, green and blue (--bands gray); the model should know grey images",
            warning=True,
        )
    elif settings.imagery.bands != "auto":
        yield Diagnostic(
            f"has {len(kinds)} bands: {join_names(kinds)}",
            f"bands {named} are read as red, green and blue (--bands)",
        )
    elif not set(COLORS) <= set(kinds):
        yield Diagnostic(
            f"does not say which bands are red, green and blue ({join_names(kinds)})",
            "bands 1, 2, 3 are taken for them; --bands R,G,B says otherwise",
        )
    elif pixels.bands != (1, 2, 3):
        yield Diagnostic(
            f"has its bands in the order {join_names(kinds)}",
            f"bands {named} are read as red, green and blue",
        )


def _left_out(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    unused = [
        f"{number} ({kind})"
        for number, kind in enumerate(header.metadata.kinds, start=1)
        if number not in header.pixels.bands and kind != "alpha"
    ]
    if unused and settings.imagery.bands == "auto":
        yield Diagnostic(
            f"has more bands than red, green and blue: {join_names(unused)}", "leaves them out"
        )


def _values(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    pixels, scale = header.pixels, settings.imagery.scale
    kind = f"{pixels.bits} bits a value" if pixels.bits < 8 else pixels.dtype
    if pixels.scaled and scale is not None and scale.percent:
        yield Diagnostic(
            f"pixels are {kind}, not uint8",
            f"the percentiles {str(scale).replace(',', ' and ')} of the whole mosaic become 0 and "
            "255; they are found by the first run, and kept in run.json",
        )
    elif pixels.scaled:
        yield Diagnostic(
            f"pixels are {kind}, not uint8",
            f"{str(scale).replace(',', ' and ')} become 0 and 255 (--scale)",
        )
    elif scale is not None:
        yield Diagnostic("pixels are uint8", "are taken as they are: --scale is for other types")
    if pixels.scaled and header.metadata.stored[pixels.bands[0] - 1] != (1.0, 0.0):
        factor, offset = header.metadata.stored[pixels.bands[0] - 1]
        yield Diagnostic(
            f"gives its bands a scale of {factor:g} and an offset of {offset:g}",
            "is read without them: --scale speaks of the values as stored",
        )


def _validity(header: Header) -> Iterator[Diagnostic]:
    facts, pixels = header.metadata, header.pixels
    has_nodata = any(value is not None for value in pixels.nodata)
    others = [name for name, there in (("alpha", pixels.alpha), ("nodata", has_nodata)) if there]
    if pixels.validity in others:
        others.remove(pixels.validity)
    if pixels.validity == "all" and others:
        yield Diagnostic(
            "has nodata in some of its bands only",
            "is imagery everywhere: nodata counts where red, green and blue have it",
            warning=True,
        )
    elif pixels.validity != "nodata" and others:
        yield Diagnostic(
            f"has {' and '.join(others)} beside {MARKS[pixels.validity]}",
            f"{MARKS[pixels.validity]} alone says where there is imagery",
        )
    if pixels.validity == "nodata" and facts.lossy:
        yield Diagnostic(
            "has nodata and a compression that changes values",
            "values near nodata count as imagery; --collar auto finds a border of them",
            warning=True,
        )


def _storage(header: Header) -> Iterator[Diagnostic]:
    facts = header.metadata
    if facts.missing:
        yield Diagnostic(
            "is shorter than its own directory says: it was not copied whole",
            "fails where that is read; copy it again",
            warning=True,
        )
    if facts.pages > 1:
        yield Diagnostic(f"has {facts.pages} pages", "the first is read, the others are not", True)
    height, width = facts.block
    size_mb = height * width * len(facts.kinds) * header.pixels.bits / 8e6
    if size_mb > BLOCK_MB:
        yield Diagnostic(
            "is stored in huge blocks",
            f"each takes more than {BLOCK_MB} MB of memory in every reader, and is slow; "
            "gdal_translate -co TILED=YES mends it",
        )
    elif facts.striped and facts.width > WIDE_PX:
        yield Diagnostic(
            "is stored in strips as wide as the image",
            "is decoded several times; gdal_translate -co TILED=YES makes it faster",
        )


def _place(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    if header.placement.assigned:
        yield Diagnostic("says no CRS", f"{crs_name(header.crs)} is assigned (--crs)", warning=True)
    if header.orientation != "north-up":
        how = {"gcps": "is placed by ground control points"}.get(
            header.orientation, f"is {header.orientation}"
        )
        cure = "is straightened, bilinearly (--align warp)"
        refused = "fails; --align warp straightens it"
        yield Diagnostic(how, cure if settings.mosaic.align == "warp" else refused)
    if is_in_degrees(header.crs):
        yield Diagnostic(
            "has coordinates in degrees", "areas and distances are measured on the ellipsoid"
        )
    elif metres_a_unit(header.crs) != 1.0:
        yield Diagnostic(
            f"has a CRS with a unit of {metres_a_unit(header.crs):.6g} m",
            "areas and distances are converted to metres",
        )
    most = settings.tiling.cell_size
    if max(header.width, header.height) > most:
        parts = ceil(header.width / most) * ceil(header.height / most)
        yield Diagnostic(
            f"is larger than {most:,} px", f"is worked on in about {parts} parts (--cell-size)"
        )


def _resolution(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    width, height = ground_m(header)
    if settings.mosaic.gsd == "native" and abs(width / height - 1) > SQUARE:
        yield Diagnostic(
            f"has pixels that are not square: {width:.2g} x {height:.2g} m",
            "objects look stretched to the network; --gsd model makes pixels square",
            warning=abs(width / height - 1) > 10 * SQUARE,
        )
    model_m = settings.model.gsd_m
    if model_m is None or is_similar(ratio := ratio_to_model(header, model_m)):
        return
    times, how = max(ratio, 1 / ratio), "smaller" if ratio > 1 else "larger"
    yield Diagnostic(
        f"has pixels of {ratio * model_m:.3g} m on the ground; the model was trained on "
        f"{model_m:g} m",
        f"objects look {times:.2g} times {how} to the network than in training: many will be "
        "missed, others invented, and confidences mean less; --gsd model resamples the imagery",
        warning=True,
    )
