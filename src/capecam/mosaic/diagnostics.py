"""What is unusual about an image, and what a run does about it, in words."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from math import ceil

from capecam.imagery.bands import COLORS
from capecam.imagery.crs import is_in_degrees, metres_a_unit
from capecam.imagery.ground_resolution import ground_m, is_similar, ratio_to_model
from capecam.imagery.header import Header
from capecam.imagery.metadata import crs_name, listed
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
class Remark:
    """One thing, worded so that it is the same for all images that have it."""

    what: str
    """Is unusual."""
    does: str
    """The run about it, and what can be done."""
    warning: bool = False
    """Results may be worse for it, or wrong."""


def remarks(header: Header, settings: Settings, *, resampled: bool = False) -> tuple[Remark, ...]:
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


def remarks_on_place(source: Source, settings: Settings) -> tuple[Remark, ...]:
    """Those that only the other images of the mosaic give rise to."""
    if any(source.shift_px):
        return (
            Remark(
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
            Remark(
                "has another CRS or resolution than the mosaic",
                "is resampled onto its grid, bilinearly (--align warp)",
            ),
        )
    return ()


def _colors(header: Header, settings: Settings) -> Iterator[Remark]:
    kinds, pixels = header.facts.kinds, header.pixels
    named = ", ".join(map(str, pixels.bands))
    if pixels.palette:
        yield Remark("has a colour table", "its colours are looked up there (--bands palette)")
    elif settings.imagery.bands == "gray":
        yield Remark(
            "is read as grey",
            "band 1 is red, green and blue (--bands gray); the model should know grey images",
            warning=True,
        )
    elif settings.imagery.bands != "auto":
        yield Remark(
            f"has {len(kinds)} bands: {listed(kinds)}",
            f"bands {named} are read as red, green and blue (--bands)",
        )
    elif not set(COLORS) <= set(kinds):
        yield Remark(
            f"does not say which bands are red, green and blue ({listed(kinds)})",
            "bands 1, 2, 3 are taken for them; --bands R,G,B says otherwise",
        )
    elif pixels.bands != (1, 2, 3):
        yield Remark(
            f"has its bands in the order {listed(kinds)}",
            f"bands {named} are read as red, green and blue",
        )


def _left_out(header: Header, settings: Settings) -> Iterator[Remark]:
    unused = [
        f"{number} ({kind})"
        for number, kind in enumerate(header.facts.kinds, start=1)
        if number not in header.pixels.bands and kind != "alpha"
    ]
    if unused and settings.imagery.bands == "auto":
        yield Remark(
            f"has more bands than red, green and blue: {listed(unused)}", "leaves them out"
        )


def _values(header: Header, settings: Settings) -> Iterator[Remark]:
    pixels, scale = header.pixels, settings.imagery.scale
    kind = f"{pixels.bits} bits a value" if pixels.bits < 8 else pixels.dtype
    if pixels.scaled and scale is not None and scale.percent:
        yield Remark(
            f"pixels are {kind}, not uint8",
            f"the percentiles {str(scale).replace(',', ' and ')} of the whole mosaic become 0 and "
            "255; they are found by the first run, and kept in run.json",
        )
    elif pixels.scaled:
        yield Remark(
            f"pixels are {kind}, not uint8",
            f"{str(scale).replace(',', ' and ')} become 0 and 255 (--scale)",
        )
    elif scale is not None:
        yield Remark("pixels are uint8", "are taken as they are: --scale is for other types")
    if pixels.scaled and header.facts.stored[pixels.bands[0] - 1] != (1.0, 0.0):
        factor, offset = header.facts.stored[pixels.bands[0] - 1]
        yield Remark(
            f"gives its bands a scale of {factor:g} and an offset of {offset:g}",
            "is read without them: --scale speaks of the values as stored",
        )


def _validity(header: Header) -> Iterator[Remark]:
    facts, pixels = header.facts, header.pixels
    has_nodata = any(value is not None for value in pixels.nodata)
    others = [name for name, there in (("alpha", pixels.alpha), ("nodata", has_nodata)) if there]
    if pixels.validity in others:
        others.remove(pixels.validity)
    if pixels.validity == "all" and others:
        yield Remark(
            "has nodata in some of its bands only",
            "is imagery everywhere: nodata counts where red, green and blue have it",
            warning=True,
        )
    elif pixels.validity != "nodata" and others:
        yield Remark(
            f"has {' and '.join(others)} beside {MARKS[pixels.validity]}",
            f"{MARKS[pixels.validity]} alone says where there is imagery",
        )
    if pixels.validity == "nodata" and facts.lossy:
        yield Remark(
            "has nodata and a compression that changes values",
            "values near nodata count as imagery; --collar auto finds a border of them",
            warning=True,
        )


def _storage(header: Header) -> Iterator[Remark]:
    facts = header.facts
    if facts.missing:
        yield Remark(
            "is shorter than its own directory says: it was not copied whole",
            "fails where that is read; copy it again",
            warning=True,
        )
    if facts.pages > 1:
        yield Remark(f"has {facts.pages} pages", "the first is read, the others are not", True)
    height, width = facts.block
    size_mb = height * width * len(facts.kinds) * header.pixels.bits / 8e6
    if size_mb > BLOCK_MB:
        yield Remark(
            "is stored in huge blocks",
            f"each takes more than {BLOCK_MB} MB of memory in every reader, and is slow; "
            "gdal_translate -co TILED=YES mends it",
        )
    elif facts.striped and facts.width > WIDE_PX:
        yield Remark(
            "is stored in strips as wide as the image",
            "is decoded several times; gdal_translate -co TILED=YES makes it faster",
        )


def _place(header: Header, settings: Settings) -> Iterator[Remark]:
    if header.place.assigned:
        yield Remark("says no CRS", f"{crs_name(header.crs)} is assigned (--crs)", warning=True)
    if header.orientation != "north-up":
        how = {"gcps": "is placed by ground control points"}.get(
            header.orientation, f"is {header.orientation}"
        )
        cure = "is straightened, bilinearly (--align warp)"
        refused = "fails; --align warp straightens it"
        yield Remark(how, cure if settings.mosaic.align == "warp" else refused)
    if is_in_degrees(header.crs):
        yield Remark(
            "has coordinates in degrees", "areas and distances are measured on the ellipsoid"
        )
    elif metres_a_unit(header.crs) != 1.0:
        yield Remark(
            f"has a CRS with a unit of {metres_a_unit(header.crs):.6g} m",
            "areas and distances are converted to metres",
        )
    most = settings.tiling.cell_size
    if max(header.width, header.height) > most:
        parts = ceil(header.width / most) * ceil(header.height / most)
        yield Remark(
            f"is larger than {most:,} px", f"is worked on in about {parts} parts (--cell-size)"
        )


def _resolution(header: Header, settings: Settings) -> Iterator[Remark]:
    width, height = ground_m(header)
    if settings.mosaic.gsd == "native" and abs(width / height - 1) > SQUARE:
        yield Remark(
            f"has pixels that are not square: {width:.2g} x {height:.2g} m",
            "objects look stretched to the network; --gsd model makes pixels square",
            warning=abs(width / height - 1) > 10 * SQUARE,
        )
    model_m = settings.model.gsd_m
    if model_m is None or is_similar(ratio := ratio_to_model(header, model_m)):
        return
    times, how = max(ratio, 1 / ratio), "smaller" if ratio > 1 else "larger"
    yield Remark(
        f"has pixels of {ratio * model_m:.3g} m on the ground; the model was trained on "
        f"{model_m:g} m",
        f"objects look {times:.2g} times {how} to the network than in training: many will be "
        "missed, others invented, and confidences mean less; --gsd model resamples the imagery",
        warning=True,
    )
