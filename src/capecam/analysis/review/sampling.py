"""``capecam sample``: a probability sample of blocks, for people to check completely.

The sample says what the whole map has wrong; the review queue finds what to correct. They are kept
apart: the queue is biased on purpose, and an estimate reads only what was drawn here.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow.parquet as pq
import shapely
from numpy.typing import NDArray

from capecam.analysis.change import RunYear
from capecam.analysis.review.blocks import BlockGrid, BlockList, mapped_blocks, points_of
from capecam.analysis.review.design import Strata, allocate, stratify
from capecam.analysis.review.review_file import Review, ReviewFile
from capecam.analysis.review.sample_design import SampleDesign, map_digest
from capecam.analysis.zones import OUTSIDE, ZoneRules, Zones
from capecam.detections.confidence_calibration import P_RIGHT
from capecam.errors import UsageError
from capecam.io.gdal import gdal_settings
from capecam.io.geopackage_editing import edited_geopackage, update_rows
from capecam.store.file_names import SAMPLE, SAMPLE_DESIGN, VERDICTS
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

SURE = 0.02
"""Least probability of a surprise: nothing is certain, also where the map says so."""

MISSED_HERE, MISSED_BESIDE, MISSED_ELSEWHERE = 0.2, 0.08, 0.02
"""Missed objects to expect in a block with detections, beside one, and elsewhere. In drawn cities,
blocks of 32 m had .05 without and .08 to .44 with detections (the sample network; .3 to 1.2 where
it was degraded). A wrong guess costs width, and not validity."""

MIN_LOOKS_A_ZONE = 5
"""Looks for each zone without which strata do not follow zones."""

MAX_LOOKS = 100_000


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """Sample to draw."""

    looks: int = 300
    """Number of blocks."""
    block_m: float = 64.0
    """Edge of a block in metres."""
    zones: ZoneRules | None = None
    """Zones that the estimates will be for."""
    seed: int = 0

    def __post_init__(self) -> None:
        if not 1 <= self.looks <= MAX_LOOKS:
            raise UsageError(f"--looks must be from 1 to {MAX_LOOKS:,}, got {self.looks}")


@dataclass(frozen=True, slots=True, eq=False)
class DrawnSample:
    """Result of drawing a sample."""

    path: Path
    """The review file."""
    design: SampleDesign
    rows: gpd.GeoDataFrame
    """Rows that were added to the layer ``sample``."""
    detections: int
    """Number of detections in these blocks."""

    def to_json(self) -> dict[str, Any]:
        """Return the result of ``--json``."""
        design = self.design
        table = design.to_table()[["stratum", "zone", "blocks", "looks"]]
        return {
            "file": str(self.path),
            "draw": design.digest,
            "blocks": len(design.blocks),
            "looks": int(design.strata.looks.sum()),
            "added": len(self.rows),
            "detections": self.detections,
            "km2": float(self.rows["area_m2"].sum() / 1e6),
            "strata": table.to_dict("records"),
        }

    def to_text(self) -> str:
        """Return the result as text."""
        design = self.design
        looks, zones = int(design.strata.looks.sum()), pd.Series(design.zones)
        lines = [
            f"{len(self.rows)} blocks were drawn in {len(zones)} strata, with "
            f"{self.detections} detections in {self.rows['area_m2'].sum() / 1e6:.3g} km²; "
            f"{looks} of {len(design.blocks):,} blocks are in the sample now",
        ]
        by_zone = pd.DataFrame(
            {"zone": zones, "blocks": design.strata.sizes, "looks": design.strata.looks}
        )
        if zones.nunique() > 1:
            lines += [
                "",
                by_zone.groupby("zone", sort=False).sum().reset_index().to_string(index=False),
            ]
        lines += [
            "",
            "One look is one block. Check each completely: fill in the verdict of every detection "
            "in it, add what the map has missed to the layer missed, and set checked.",
            f"written: {self.path}; when all are checked: capecam estimate OUT",
        ]
        return "\n".join(lines)


def draw_sample(out: Path, request: SampleRequest, to: Path | None = None) -> DrawnSample:
    """Draw a sample of the blocks of a run, and add it to the review file.

    Args:
        out: folder of the run.
        request: the sample.
        to: the review file; None: ``review.gpkg`` in the folder of the run.

    Raises:
        OutputError: the folder holds no run, or the file cannot be written.
        UsageError: the file holds a sample already, or something else cannot be used.
    """
    with gdal_settings():
        year = RunYear.open(out)
        file = ReviewFile.of(RunFolder.open_finished(out), to)
        if file.path.exists():
            review = file.read()
            if len(review.design) or len(review.sample):
                raise UsageError(
                    f"{file.path}: holds a sample already; add looks to it with --more N, or draw "
                    "another into a new file with --reviews"
                )
        grid = BlockGrid.of(year.grid, request.block_m)
        blocks, m2 = mapped_blocks(year, grid)
        design = _design(year, blocks, request)
        return _write(file, year, design, design.drawn(), m2)


def add_looks(out: Path, more: int, to: Path | None = None) -> DrawnSample:
    """Add looks to the sample in the review file.

    They are the next ones of the same random order, so that the sample is as if it had been drawn
    at once; strata stay, and get more where the map was expected to be off.

    Raises:
        OutputError: the folder holds no run, or the file cannot be written.
        UsageError: the file holds no sample, or one that was changed.
    """
    if not 1 <= more <= MAX_LOOKS:
        raise UsageError(f"--more must be from 1 to {MAX_LOOKS:,}, got {more}")
    with gdal_settings():
        year = RunYear.open(out)
        file = ReviewFile.of(RunFolder.open_finished(out), to)
        before = checked_design(file.read())
        strata = before.strata
        total = int(strata.looks.sum()) + more
        looks = allocate(total, before.spread, strata.sizes, strata.looks)
        design = replace(
            before, strata=Strata(strata.stratum, strata.zone, looks), phase=before.phase + 1
        )
        added = np.setdiff1d(design.drawn(), before.drawn())
        if not len(added):
            raise UsageError(f"{file.path}: all blocks are in the sample; check them")
        blocks, m2 = mapped_blocks(year, design.blocks.grid)
        own = blocks.find(design.blocks.places)
        drawn = _write(file, year, design, added, np.where(own >= 0, m2[own], 0.0))
        sizes, names = design.strata.sizes, design.stratum_names
        weights = {"probability": looks / sizes, "weight": sizes / looks}
        with edited_geopackage(file.path) as copy:
            update_rows(copy, SAMPLE, "stratum", pd.DataFrame(weights, index=names))
        return drawn


def checked_design(review: Review) -> SampleDesign:
    """Return the design of a sample whose rows are the blocks that were drawn.

    Raises:
        UsageError: there is no sample, or rows were added or removed.
    """
    design = SampleDesign.of_table(review.design, review.path)
    names, digest = design.blocks.names, design.digest
    drawn = {names[index] for index in design.drawn()}
    listed = dict(zip(review.sample["block"], review.sample["draw"], strict=True))
    if missing := sorted(drawn - listed.keys()):
        raise UsageError(
            f"{review.path}: {len(missing)} block(s) that were drawn are not in the layer sample "
            f"(first: {missing[0]}); bring them back: a sample without them is none"
        )
    strange = [block for block in listed if block not in drawn or listed[block] != digest]
    if strange:
        raise UsageError(
            f"{review.path}: {len(strange)} block(s) of the layer sample were not drawn (first: "
            f"{strange[0]}); remove them: an estimate rests on chance alone"
        )
    return design


def _design(year: RunYear, blocks: BlockList, request: SampleRequest) -> SampleDesign:
    """Make strata of all blocks, and divide the looks among them."""
    zone, names = _zones(year, blocks, request)
    spread = _spread_of_map(year, blocks)
    strata = stratify(spread, zone, request.looks)
    if (looks := int(strata.looks.sum())) < request.looks:
        log.warning("there are only %d blocks, and all of them are in the sample", looks)
    return SampleDesign(
        blocks,
        strata,
        tuple(names[z] for z in strata.zone),
        np.asarray(np.bincount(strata.stratum, spread), np.float64),
        request.seed,
        map_digest(year.detections),
    )


def _zones(year: RunYear, blocks: BlockList, request: SampleRequest) -> tuple[Integers, list[str]]:
    """Return (N,) the zone of each block's centre for the strata, and the names of zones."""
    everywhere = np.zeros(len(blocks), np.int64), [""]
    if request.zones is None:
        return everywhere
    zones = Zones.read(request.zones, [year])
    if request.looks < MIN_LOOKS_A_ZONE * len(zones):
        log.warning(
            "%d looks are too few to draw some in each of %d zones; totals by zone will hold, but "
            "be wide; --looks %d would do",
            request.looks, len(zones), MIN_LOOKS_A_ZONE * len(zones),
        )  # fmt: skip
        return everywhere
    return zones.holding(centres_of(blocks, year)), [*zones.table["zone"], OUTSIDE]


def centres_of(blocks: BlockList, year: RunYear) -> gpd.GeoSeries:
    """Return the (N,) centres of blocks, in which they belong to zones."""
    points = blocks.grid.centres(blocks.places)
    return gpd.GeoSeries(shapely.points(points), crs=year.crs)


def _spread_of_map(year: RunYear, blocks: BlockList) -> Floats:
    """Return (N,) how much the map of a run may have wrong in a block."""
    table = year.detections
    column = _first_column(year.out, (P_RIGHT, "confidence"))
    known = pd.read_parquet(RunFolder.open_finished(year.out).detections(), columns=[column])
    p = known[column].fillna(0.5).to_numpy(np.float64)
    area_m2 = table["area_m2"].to_numpy(np.float64)
    return expected_spread(blocks, blocks.holding(points_of(table, year)), p, area_m2)


def expected_spread(blocks: BlockList, block: Integers, p: Floats, area_m2: Floats) -> Floats:
    """Return (N,) how much a map may have wrong in a block: numbers and m² count the same.

    A detection that is right with probability p adds p (1 - p) to the variance of the number, and
    its squared area times that to the variance of the area.

    Args:
        blocks: N blocks.
        block: (O,) index of the block of each detection.
        p: (O,) probability that it is right, or what comes closest to that.
        area_m2: (O,) its area.
    """
    p = np.clip(p, SURE, 1 - SURE)
    here = np.bincount(block, minlength=len(blocks))
    missed = np.full(len(blocks), MISSED_ELSEWHERE)
    missed[_beside(blocks, np.flatnonzero(here))] = MISSED_BESIDE
    missed[here > 0] = MISSED_HERE
    square = area_m2**2
    mean = float(square.mean()) if len(square) else 1.0
    number = missed + np.bincount(block, p * (1 - p), len(blocks))
    area = missed * mean + np.bincount(block, square * (p * (1 - p) + SURE), len(blocks))
    spread: Floats = np.sqrt(number / number.sum() + area / area.sum())
    return spread


def _first_column(out: Path, names: tuple[str, ...]) -> str:
    columns = pq.read_schema(RunFolder.open_finished(out).detections()).names
    return next(name for name in names if name in columns)


def _beside(blocks: BlockList, chosen: Integers) -> Integers:
    """Return the blocks that touch others."""
    around = np.array([(dc, dr) for dc in (-1, 0, 1) for dr in (-1, 0, 1)])
    places = (blocks.places[chosen][:, None] + around).reshape(-1, 2)
    found = blocks.find(places) if len(places) else np.empty(0, np.int64)
    return np.unique(found[found >= 0])


def _write(
    file: ReviewFile, year: RunYear, design: SampleDesign, drawn: Integers, m2: Floats
) -> DrawnSample:
    """Add the drawn blocks and their detections to the review file.

    Args:
        file: the review file.
        year: the run.
        design: of N blocks.
        drawn: (n,) indices of the blocks to add.
        m2: (N,) of imagery in each block.
    """
    names = np.array(design.blocks.names, object)
    stratum = design.strata.stratum[drawn]
    sizes, looks = design.strata.sizes[stratum], design.strata.looks[stratum]
    table = year.detections
    owner = design.blocks.holding(points_of(table, year))
    inside = np.isin(owner, drawn)
    sample = gpd.GeoDataFrame(
        {
            "block": names[drawn],
            "stratum": [design.stratum_names[number] for number in stratum],
            "zone": [design.zones[number] for number in stratum],
            "probability": looks / sizes,
            "weight": sizes / looks,
            "checked": np.zeros(len(drawn), np.bool_),
            "draw": design.digest,
            "area_m2": m2[drawn],
            "detections": np.bincount(owner[inside], minlength=len(names))[drawn],
        },
        geometry=_cut(design, drawn, year),
        crs=year.crs,
    )
    rows = table[inside]
    verdicts = gpd.GeoDataFrame(
        {
            "id": rows["id"].to_numpy(),
            "class": rows["class"].to_numpy(),
            "block": names[owner[inside]],
        },
        geometry=rows.geometry.to_numpy(),
        crs=year.crs,
    )
    file.add({VERDICTS: verdicts, SAMPLE: sample, SAMPLE_DESIGN: design.to_table()})
    return DrawnSample(file.path, design, sample, len(verdicts))


def _cut(design: SampleDesign, drawn: Integers, year: RunYear) -> NDArray[np.object_]:
    """Return (n,) the squares of blocks as far as the cells of the run cover them."""
    boxes = design.blocks.grid.boxes(design.blocks.places[drawn])
    run = RunFolder.open_finished(year.out)
    cores = np.array([run.core(cell).box for cell in run.cells])
    mapped = shapely.transform(shapely.union_all(cores), run.grid.to_map)
    shapely.prepare(mapped)
    cut = np.flatnonzero(~shapely.covers(mapped, boxes))
    for index in cut:
        parts = shapely.get_parts(shapely.intersection(boxes[index], mapped))
        areas = shapely.area(parts)
        if len(parts) == 1 and areas[0] > 0:  # the layer is of polygons; else the whole square
            boxes[index] = parts[0]
    return boxes
