"""Describe what is unusual about images, and what a run does about it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from math import ceil, sqrt

from capecam.imagery.bands import COLORS
from capecam.imagery.crs import is_in_degrees, metres_a_unit
from capecam.imagery.header import Header
from capecam.imagery.metadata import crs_name, join_names
from capecam.mosaic.city import City
from capecam.mosaic.datum_remarks import datum_remarks
from capecam.mosaic.mosaic import Source
from capecam.settings import Settings

WIDE_PX = 5_000
"""Width of an image from which tiles around objects take long to read from its strips."""

BLOCK_MB = 64
"""Decoded size of a block from which there is a remark; 512 x 512 RGB is 0.8."""

SIMILAR = 1.15
"""Ratio between the resolutions of imagery and model from which there is a warning."""

NOT_SQUARE = 0.01
"""Relative difference between the sides of a pixel from which there is a remark."""

MAX_NAMES = 3
"""Images named in a group of those that have something in common."""

VALIDITY = {"mask": "its mask", "alpha": "its alpha band"}


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One remark, with the same text for all images that it applies to."""

    finding: str
    """Description of what is unusual."""
    action: str
    """Action of the run, and remedies for the user."""
    warning: bool = False
    """Results may be worse, wrong or missing."""

    def to_json(self) -> dict[str, object]:
        """Return the entry of ``inspect --json``."""
        return {"what": self.finding, "does": self.action, "warning": self.warning}


@dataclass(frozen=True, slots=True)
class DiagnosticGroup:
    """A remark and the images that it applies to."""

    diagnostic: Diagnostic
    images: tuple[str, ...]

    @property
    def image_names(self) -> str:
        """Number of images and the first names."""
        return f"{len(self.images):,}: {join_names(self.images, MAX_NAMES)}"

    def to_json(self) -> dict[str, object]:
        """Return the entry of ``plan --json``."""
        entry = self.diagnostic
        return {
            "what": entry.finding,
            "images": self.images,
            "does": entry.action,
            "warning": entry.warning,
        }

    def __str__(self) -> str:
        return f"{self.diagnostic.finding} ({self.image_names}): {self.diagnostic.action}"


def summarize_diagnostics(city: City, settings: Settings) -> tuple[DiagnosticGroup, ...]:
    """Return the remarks on all usable images, those on most images first."""
    images: dict[Diagnostic, list[str]] = {}
    for source in city.mosaic.sources:
        for diagnostic in (
            *image_diagnostics(source.header, settings, resampled=source.warped),
            *_placement(source, settings),
            *_cover(source, city),
            *(Diagnostic(*remark) for remark in datum_remarks(source.header, city.mosaic)),
        ):
            images.setdefault(diagnostic, []).append(source.name)
    groups = [DiagnosticGroup(entry, tuple(names)) for entry, names in images.items()]
    return tuple(sorted(groups, key=lambda group: -len(group.images)))


def summarize_failures(failures: Mapping[str, str]) -> tuple[DiagnosticGroup, ...]:
    """Group images that cannot be used by the reason."""
    images: dict[str, list[str]] = {}
    for name, message in failures.items():
        path, colon, reason = message.partition(": ")  # most messages begin with the path
        reason = reason if colon and ("/" in path or "." in path) else message
        images.setdefault(reason, []).append(name)
    groups = []
    for reason, names in images.items():
        finding, _, remedy = reason.partition("; ")
        action = f"leaves it out; {remedy}" if remedy else "leaves it out"
        groups.append(DiagnosticGroup(Diagnostic(finding, action, warning=True), tuple(names)))
    return tuple(groups)


def image_diagnostics(
    header: Header, settings: Settings, *, resampled: bool = False
) -> tuple[Diagnostic, ...]:
    """Return the remarks on one image; none for 8 cm RGB as cities deliver it.

    The pixel size of an image that is ``resampled`` is not remarked on.
    """
    return (
        *_colors(header, settings),
        *_values(header, settings),
        *_validity(header),
        *_storage(header),
        *_georeference(header, settings),
        *(() if resampled else _resolution(header, settings)),
    )


def _placement(source: Source, settings: Settings) -> Iterator[Diagnostic]:
    """Compare an image with the grid of the mosaic."""
    north_up = source.header.placement.orientation == "north-up"
    if any(source.shift_px):
        yield Diagnostic(
            "is a part of a pixel off the mosaic's grid",
            "goes to the nearest whole pixel (--align snap)",
        )
    elif source.warped and north_up and settings.mosaic.gsd == "native":
        yield Diagnostic(
            "has another CRS or resolution than the mosaic",
            "is resampled onto its grid, bilinearly (--align warp)",
        )


def _cover(source: Source, city: City) -> Iterator[Diagnostic]:
    if city.mosaic.is_covered(source):
        yield Diagnostic(
            "lies wholly under other images",
            "fills their pixels that are no imagery, and has no cell of its own; leave the others "
            "out of the sources to see it",
            warning=True,
        )


def _colors(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    kinds, pixels = header.metadata.kinds, header.pixels
    bands = ", ".join(map(str, pixels.bands))
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
            f"bands {bands} are read as red, green and blue (--bands)",
        )
    elif not set(COLORS) <= set(kinds):
        yield Diagnostic(
            f"does not say which bands are red, green and blue ({join_names(kinds)})",
            "bands 1, 2, 3 are taken for them; --bands R,G,B says otherwise",
        )
    elif pixels.bands != (1, 2, 3):
        yield Diagnostic(
            f"has its bands in the order {join_names(kinds)}",
            f"bands {bands} are read as red, green and blue",
        )
    unused = [
        f"{number} ({kind})"
        for number, kind in enumerate(kinds, start=1)
        if number not in pixels.bands and kind != "alpha"
    ]
    if unused and settings.imagery.bands == "auto":
        yield Diagnostic(
            f"has more bands than red, green and blue: {join_names(unused)}", "leaves them out"
        )


def _values(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    pixels, value_range = header.pixels, settings.imagery.scale
    if not pixels.scaled:
        if value_range is not None:
            yield Diagnostic(
                "pixels are uint8", "are taken as they are: --scale is for other types"
            )
        return
    kind = f"{pixels.bits} bits a value" if pixels.bits < 8 else pixels.dtype
    values = str(value_range).replace(",", " and ")
    if value_range is not None and value_range.percent:
        action = (
            f"the percentiles {values} of the whole mosaic become 0 and 255; they are found by the "
            "first run, and kept in run.json"
        )
    else:
        action = f"{values} become 0 and 255 (--scale)"
    yield Diagnostic(f"pixels are {kind}, not uint8", action)
    factor, offset = header.metadata.stored[pixels.bands[0] - 1]
    if (factor, offset) != (1.0, 0.0):
        yield Diagnostic(
            f"gives its bands a scale of {factor:g} and an offset of {offset:g}",
            "is read without them: --scale is for the values as stored",
        )


def _validity(header: Header) -> Iterator[Diagnostic]:
    pixels = header.pixels
    has_nodata = any(value is not None for value in pixels.nodata)
    others = [name for name, has in (("alpha", pixels.alpha), ("nodata", has_nodata)) if has]
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
            f"has {' and '.join(others)} beside {VALIDITY[pixels.validity]}",
            f"{VALIDITY[pixels.validity]} alone says where there is imagery",
        )
    metadata = header.metadata
    lossy = {"nodata": metadata.lossy, "alpha": metadata.lossy_alpha, "mask": metadata.lossy_mask}
    if lossy.get(pixels.validity):
        name = {"nodata": "nodata", "alpha": "an alpha band", "mask": "a mask"}[pixels.validity]
        yield Diagnostic(
            f"has {name} and a compression that changes values",
            f"values near {'nodata' if pixels.validity == 'nodata' else '0'} count as imagery; "
            "--collar auto finds a border of them",
            warning=True,
        )


def _storage(header: Header) -> Iterator[Diagnostic]:
    metadata = header.metadata
    if metadata.missing:
        yield Diagnostic(
            "is shorter than its own directory says: it was not copied whole",
            "fails where that is read; copy it again",
            warning=True,
        )
    if metadata.pages > 1:
        yield Diagnostic(
            f"has {metadata.pages} pages", "the first is read, the others are not", warning=True
        )
    height, width = metadata.block
    if height * width * len(metadata.kinds) * header.pixels.bits / 8e6 > BLOCK_MB:
        yield Diagnostic(
            "is stored in huge blocks",
            f"each takes more than {BLOCK_MB} MB of memory in every reader, and is slow; "
            "gdal_translate -co TILED=YES fixes it",
        )
    elif metadata.striped and metadata.width > WIDE_PX:
        yield Diagnostic(
            "is stored in strips as wide as the image",
            "is decoded several times; gdal_translate -co TILED=YES makes it faster",
        )


def _georeference(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    if header.placement.assigned:
        yield Diagnostic("says no CRS", f"{crs_name(header.crs)} is assigned (--crs)", warning=True)
    if header.placement.orientation != "north-up":
        by_points = header.placement.orientation == "gcps"
        yield Diagnostic(
            "is placed by ground control points"
            if by_points
            else f"is {header.placement.orientation}",
            "is straightened (--align warp): bilinearly, unless its pixels are those of the grid"
            if settings.mosaic.align == "warp"
            else "fails; --align warp straightens it",
        )
    if is_in_degrees(header.crs):
        yield Diagnostic(
            "has coordinates in degrees", "areas and distances are measured on the ellipsoid"
        )
    elif metres_a_unit(header.crs) != 1.0:
        yield Diagnostic(
            f"has a CRS with a unit of {metres_a_unit(header.crs):.6g} m",
            "areas and distances are converted to metres",
        )
    limit = settings.tiling.cell_size
    width, height = header.placement.width, header.placement.height
    if max(width, height) > limit:
        parts = ceil(width / limit) * ceil(height / limit)
        yield Diagnostic(
            f"is larger than {limit:,} px", f"is processed in about {parts} parts (--cell-size)"
        )


def _resolution(header: Header, settings: Settings) -> Iterator[Diagnostic]:
    width, height = header.placement.ground_m
    if settings.mosaic.gsd == "native" and abs(width / height - 1) > NOT_SQUARE:
        yield Diagnostic(
            f"has pixels that are not square: {width:.2g} x {height:.2g} m",
            "objects look stretched to the network; --gsd model makes pixels square",
            warning=abs(width / height - 1) > 10 * NOT_SQUARE,
        )
    model_m = settings.model.gsd_m
    if model_m is None:
        return
    ratio = sqrt(width * height) / model_m
    if 1 / SIMILAR <= ratio <= SIMILAR:
        return
    times, comparison = max(ratio, 1 / ratio), "smaller" if ratio > 1 else "larger"
    yield Diagnostic(
        f"has pixels of {ratio * model_m:.3g} m on the ground; the model was trained on "
        f"{model_m:g} m",
        f"objects look {times:.2g} times {comparison} to the network than in training: many will "
        "be missed, others invented, and confidences mean less; --gsd model resamples the imagery",
        warning=True,
    )
