"""A checked sample beside the map of its run, as the arrays that estimates are computed from."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import shapely
from numpy.typing import NDArray

from capecam.analysis.change import RunYear
from capecam.analysis.matching import match
from capecam.analysis.review.blocks import BlockList, points_of
from capecam.analysis.review.estimation import Frame, Sample, Values
from capecam.analysis.review.review_file import RIGHT, WRONG, Review, ReviewFile
from capecam.analysis.review.sample_design import SampleDesign, map_digest
from capecam.analysis.review.sampling import centres_of, checked_design
from capecam.analysis.review.verdicts import areas_m2
from capecam.analysis.zones import Zones, area_m2
from capecam.errors import UsageError
from capecam.io.reprojection import reproject_table
from capecam.store.run_folder import RunFolder

log = logging.getLogger(__name__)

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]
Booleans = NDArray[np.bool_]

MIN_IOU = 0.5
"""Overlap from which on a detection of a later map is an object that people confirmed."""


@dataclass(frozen=True, slots=True, eq=False)
class CheckedBlocks:
    """n checked blocks of a run's sample. D: zones, the last is outside of all; C: classes."""

    year: RunYear
    path: Path
    """The review file."""
    design: SampleDesign
    sample: Sample
    drawn: int
    """Number of blocks that were drawn, checked or not."""
    count: Values
    """Numbers of objects."""
    m2: Values
    """Areas of objects."""
    right: Floats
    """(n, C) number of detections that are right."""
    found: Floats
    """(n, C) number of detections."""
    looks_by_zone: Integers
    """(D,) number of checked blocks whose centres are in a zone."""
    blocks_by_zone: Integers
    """(D,) number of all blocks whose centres are in a zone."""
    same_map: bool
    """The detections are still those that people looked at."""
    astray: int
    """Number of missed objects that name a block, but do not lie in it; they are not counted."""

    @property
    def looks(self) -> int:
        """Return the number of checked blocks."""
        return len(self.sample.stratum)


def read_checked(
    year: RunYear, path: Path | None, zones: Zones | None, *, partial: bool
) -> CheckedBlocks:
    """Read the sample of a run, and what people found in its blocks.

    Args:
        year: the run.
        path: the review file; None: ``review.gpkg`` in the folder of the run.
        zones: to count in; None: only the whole.
        partial: take the blocks that are checked for a random part of those drawn in their strata.

    Raises:
        UsageError: there is no sample, it was changed, is not complete, or is of another area.
    """
    run = RunFolder.open_finished(year.out)
    review = ReviewFile.of(run, path).read()
    design = checked_design(review)
    done = _done(review, design, partial=partial)
    stratum, sample, chance = _answered(design, done)
    detections = _Objects.of_detections(year, design.blocks, zones)
    if len(outside := np.flatnonzero(detections.block < 0)):
        raise UsageError(
            f"{year.out}: {len(outside)} detection(s) are outside of the area that was mapped when "
            f"the sample of {review.path} was drawn; draw a new sample into another file"
        )
    truth, right, astray = _truth(review, design.blocks, done, year)
    there = _Objects.of_truth(truth, zones)
    same = map_digest(year.detections) == design.detections
    classes, places = len(year.classes), 1 if zones is None else len(zones) + 1
    home = _homes(design.blocks, year, zones)
    table = _Table(done, len(design.blocks), places, classes)
    x = table.numbers(detections)
    objects = x.sum(axis=1)
    frame = Frame(*_frame(detections, stratum, home, table), chance)
    known, known_m2 = table.totals(detections)
    unit_m2 = _typical_m2(detections, classes)
    count = Values(known, x, table.numbers(there), objects, frame, np.ones(classes))
    m2 = Values(known_m2, table.areas(detections), table.areas(there), objects, frame, unit_m2)
    if not same:
        log.warning(
            "%s: the map was made again since the sample was drawn; the estimates are for the map "
            "as it is now, and a detection is right where it overlaps what people confirmed",
            review.path,
        )
        right = _right_now(year, detections, truth)
    hits = np.zeros((len(design.blocks), classes))
    np.add.at(hits, (right["block"].to_numpy(), right["class_id"].to_numpy() - 1), 1)
    return CheckedBlocks(
        year, review.path, design, sample, len(review.sample), count, m2,
        hits[done], objects, np.bincount(home[done], minlength=places),
        np.bincount(home, minlength=places), same, astray,
    )  # fmt: skip


def _typical_m2(detections: _Objects, classes: int) -> Floats:
    """Return (C,) the root mean square of the areas of a class; 1 without any."""
    index = detections.class_id - 1
    number = np.bincount(index, minlength=classes)
    squares = np.bincount(index, detections.area**2, classes)
    return np.sqrt(np.divide(squares, number, out=np.ones(classes), where=number > 0))


def _done(review: Review, design: SampleDesign, *, partial: bool) -> Integers:
    """Return (n,) the indices of the blocks that are checked, ascending."""
    names = design.blocks.names
    index = {name: number for number, name in enumerate(names)}
    done = sorted(index[name] for name in review.done_blocks())
    drawn = len(review.sample)
    unfilled = review.verdicts[
        (review.verdicts["block"] != "") & (review.verdicts["verdict"] == "")
    ]
    still = f"{drawn - len(done)} of {drawn} blocks are not done"
    if len(unfilled):
        still += f" ({len(unfilled)} detection(s) in {unfilled['block'].nunique()} have no verdict)"
    if not done or (len(done) < drawn and not partial):
        open_ones = sorted({*review.sample["block"]} - {names[n] for n in done})
        raise UsageError(
            f"{review.path}: {still}, the first is {open_ones[0]}; look at them and set checked, "
            "or take those that are done for a random part with --partial"
        )
    if len(done) < drawn:
        log.warning(
            "%s: %s; those that are done are taken for a random part of their strata, and the "
            "estimates are wrong if the others were left because of what is in them",
            review.path, still,
        )  # fmt: skip
    return np.array(done, np.int64)


def _answered(design: SampleDesign, done: Integers) -> tuple[Integers, Sample, Floats]:
    """Return (N,) strata of all blocks, the sample of those that are done, and (H,) the chance of
    errors in a block of each stratum.

    A stratum in which nothing is done is joined with the next one of its zone that has something.
    """
    strata = design.strata
    counts = np.bincount(strata.stratum[done], minlength=len(strata.zone))
    full = np.flatnonzero(counts)
    label = np.arange(len(counts))
    for empty in np.flatnonzero(counts == 0):
        same = full[strata.zone[full] == strata.zone[empty]]
        pool = same if len(same) else full
        label[empty] = pool[np.argmin(np.abs(pool - empty))]
    kept, label = np.unique(label, return_inverse=True)
    stratum = label[strata.stratum]
    sizes = np.bincount(stratum, minlength=len(kept)).astype(np.int64)
    chance = (np.bincount(label, design.spread) / sizes) ** 2
    return stratum, Sample(stratum[done], sizes, strata.zone[kept]), chance


@dataclass(frozen=True, slots=True, eq=False)
class _Objects:
    """Objects of the map or of the truth, with the zones that they lie in."""

    class_id: Integers
    """(O,) from 1."""
    block: Integers
    """(O,) index of the block; -1: in none."""
    zone: Integers
    """(O,) zone in which each is counted."""
    share: tuple[Integers, Integers, Floats]
    """Objects, zones, and the share of the object's area in the zone."""
    area: Floats
    """(O,) m²."""

    @classmethod
    def of_detections(cls, year: RunYear, blocks: BlockList, zones: Zones | None) -> _Objects:
        table, points = year.detections, points_of(year.detections, year)
        return cls(
            table["class_id"].to_numpy(np.int64),
            blocks.holding(points),
            *_in_zones(table, points, zones),
            table["area_m2"].to_numpy(np.float64),
        )

    @classmethod
    def of_truth(cls, truth: gpd.GeoDataFrame, zones: Zones | None) -> _Objects:
        return cls(
            truth["class_id"].to_numpy(np.int64),
            truth["block"].to_numpy(np.int64),
            *_in_zones(truth, truth[["x", "y"]].to_numpy(np.float64), zones),
            truth["m2"].to_numpy(np.float64),
        )


def _in_zones(
    table: gpd.GeoDataFrame, points: Floats, zones: Zones | None
) -> tuple[Integers, tuple[Integers, Integers, Floats]]:
    """Return (O,) zones of points, and the shares of outlines in zones; points have no outline."""
    every = np.arange(len(table))
    if zones is None or not len(table):
        zone = np.zeros(len(table), np.int64)
        return zone, (every, zone, np.ones(len(table)))
    zone = zones.holding(gpd.GeoSeries(shapely.points(points), crs=table.crs).to_crs(zones.crs))
    flat = shapely.get_dimensions(table.geometry.to_numpy()) == 2
    moved = reproject_table(table[flat], zones.crs, zones.extent)
    shape, cut, share = zones.split(np.asarray(moved.geometry.to_numpy()))
    return zone, (
        np.concatenate([every[flat][shape], every[~flat]]),
        np.concatenate([cut, zone[~flat]]),
        np.concatenate([share, np.ones(int((~flat).sum()))]),
    )


@dataclass(frozen=True, slots=True, eq=False)
class _Table:
    """Sums by checked block, zone and class."""

    done: Integers
    """(n,) indices of the checked blocks, ascending."""
    blocks: int
    """N, number of all blocks."""
    zones: int
    classes: int

    def numbers(self, objects: _Objects) -> Floats:
        """Return (n, D, C) the number of objects."""
        every = np.arange(len(objects.block))
        return self._sums(objects, every, objects.zone, np.ones(len(every)))

    def areas(self, objects: _Objects) -> Floats:
        """Return (n, D, C) the m² of objects."""
        own, zone, share = objects.share
        return self._sums(objects, own, zone, objects.area[own] * share)

    def _sums(self, objects: _Objects, own: Integers, zone: Integers, values: Floats) -> Floats:
        row = np.full(self.blocks, -1)
        row[self.done] = np.arange(len(self.done))
        block = row[objects.block[own]]
        here = block >= 0
        result = np.zeros((len(self.done), self.zones, self.classes))
        index = objects.class_id[own] - 1
        np.add.at(result, (block[here], zone[here], index[here]), values[here])
        return result

    def totals(self, objects: _Objects) -> tuple[Floats, Floats]:
        """Return (D, C) the number of all objects, and (D, C) their m²."""
        number, m2 = np.zeros((2, self.zones, self.classes))
        np.add.at(number, (objects.zone, objects.class_id - 1), 1)
        own, zone, share = objects.share
        np.add.at(m2, (zone, objects.class_id[own] - 1), objects.area[own] * share)
        return number, m2


def _homes(blocks: BlockList, year: RunYear, zones: Zones | None) -> Integers:
    """Return (N,) the zone in which the centre of each block lies."""
    if zones is None:
        return np.zeros(len(blocks), np.int64)
    return zones.holding(centres_of(blocks, year).to_crs(zones.crs))


def _frame(
    detections: _Objects, stratum: Integers, home: Integers, table: _Table
) -> tuple[Floats, Floats]:
    """Return (H, D, C) objects and empty blocks, by (N,) strata and zones of blocks."""
    by_stratum = np.zeros((int(stratum.max()) + 1, table.zones, table.classes))
    objects, empty = by_stratum.copy(), by_stratum.copy()
    index = detections.class_id - 1
    np.add.at(objects, (stratum[detections.block], detections.zone, index), 1)
    has = np.zeros((table.blocks, table.classes), np.bool_)
    has[detections.block, index] = True
    np.add.at(empty, (stratum, home), ~has)
    return objects, empty


def _truth(
    review: Review, blocks: BlockList, done: Integers, year: RunYear
) -> tuple[gpd.GeoDataFrame, pd.DataFrame, int]:
    """Return what is in the checked blocks, the right detections, and missed ones that are astray.

    Returns:
        ``class_id``, ``m2``, ``block``, the point ``x`` and ``y`` in which an object is counted,
        and its geometry; ``block`` and ``class_id`` of right detections; the number of missed
        objects that name a block and do not lie in it.
    """
    every = blocks.names
    names = {every[index]: index for index in done}
    verdicts = review.verdicts[review.verdicts["block"].isin(names.keys())].reset_index(drop=True)
    verdicts["index"] = verdicts["block"].map(names).astype(np.int64)
    _check_places(review, verdicts, blocks)
    is_right = verdicts["verdict"] == RIGHT
    is_other = (verdicts["verdict"] == WRONG) & (verdicts["true_class_id"] > 0)
    known = _known(verdicts, year)
    found = pd.DataFrame({
        "class_id": np.where(is_right, verdicts["class_id"], verdicts["true_class_id"]),
        "m2": verdicts["true_m2"].fillna(known["area_m2"]),
        "block": verdicts["index"], "x": known["x"], "y": known["y"],
    })[is_right | is_other]  # fmt: skip
    missed = _without_redrawn(review.missed).reset_index(drop=True)
    points = shapely.get_coordinates(shapely.point_on_surface(missed.geometry.to_numpy()))
    block = blocks.holding(points.reshape(-1, 2)) if len(missed) else np.empty(0, np.int64)
    inside = np.isin(block, done)
    own = missed["block"].map(names)
    astray = own.notna() & (own != block)
    lost = pd.DataFrame({
        "class_id": missed["class_id"], "m2": areas_m2(missed, "m2"),
        "block": block, "x": points[:, 0], "y": points[:, 1],
    })[inside]  # fmt: skip
    shapes = [*verdicts.geometry[is_right | is_other], *missed.geometry[inside]]
    both = pd.concat([found, lost], ignore_index=True)
    right = pd.DataFrame({"block": verdicts["index"], "class_id": verdicts["class_id"]})[is_right]
    return gpd.GeoDataFrame(both, geometry=shapes, crs=year.crs), right, int(astray.sum())


def _without_redrawn(missed: gpd.GeoDataFrame) -> gpd.GeoDataFrame:
    """Leave out places that were proposed and confirmed, and then drawn as rows of their own."""
    is_proposed = (missed["id"] != "").to_numpy()
    drawn, proposed = missed[~is_proposed], missed[is_proposed]
    shapes = np.asarray(proposed.geometry.to_numpy())
    i, j = shapely.STRtree(drawn.geometry.to_numpy()).query(shapes, predicate="intersects")
    same = drawn["class_id"].to_numpy()[j] == proposed["class_id"].to_numpy()[i]
    return missed.drop(index=proposed.index[np.unique(i[same])])


def _check_places(review: Review, verdicts: gpd.GeoDataFrame, blocks: BlockList) -> None:
    """Raise UsageError if a verdict names a block and lies elsewhere: it was not drawn."""
    boxes = blocks.grid.boxes(blocks.places[verdicts["index"].to_numpy()])
    away = ~shapely.intersects(boxes, verdicts.geometry.to_numpy())
    if away.any():
        first = verdicts[away].iloc[0]
        raise UsageError(
            f"{review.path}: {int(away.sum())} verdict(s) are not in the block that they name "
            f"(first: row {first['row']}, block {first['block']}); clear block: only what was "
            "drawn counts for an estimate"
        )
    twice = verdicts[(verdicts["id"] != "") & verdicts.duplicated(["block", "id"])]
    if len(twice):
        raise UsageError(
            f"{review.path}: detection {twice['id'].iloc[0]} has two verdicts in block "
            f"{twice['block'].iloc[0]}; remove one"
        )


def _known(verdicts: gpd.GeoDataFrame, year: RunYear) -> pd.DataFrame:
    """Return point and area of the detections that people looked at: ``x``, ``y``, ``area_m2``.

    They are those of the map where it still has the detection, so that it is counted in the same
    zone on both sides; else they follow from the outline.
    """
    shapes = np.asarray(verdicts.geometry.to_numpy())
    x, y = shapely.get_coordinates(shapely.point_on_surface(shapes)).reshape(-1, 2).T
    known = pd.DataFrame({"x": x, "y": y, "area_m2": area_m2(shapes, year.crs)})
    rows = pd.Index(year.detections["id"]).get_indexer(verdicts["id"])
    here = np.flatnonzero(rows >= 0)
    if len(here):
        table = year.detections.iloc[rows[here]]
        same = shapely.equals(shapes[here], np.asarray(table.geometry.to_numpy()))
        points = points_of(table, year)[same]
        known.loc[here[same], ["x", "y"]] = points
        known.loc[here[same], "area_m2"] = table["area_m2"].to_numpy()[same]
    return known


def _right_now(year: RunYear, detections: _Objects, truth: gpd.GeoDataFrame) -> pd.DataFrame:
    """Return ``block`` and ``class_id`` of the present detections that people confirmed."""
    rows = []
    for class_id in np.unique(truth["class_id"]):
        ours = np.flatnonzero(detections.class_id == class_id)
        theirs = np.asarray(truth.geometry[truth["class_id"] == class_id].to_numpy())
        theirs = theirs[shapely.get_dimensions(theirs) == 2]
        shapes = np.asarray(year.detections.geometry.to_numpy())[ours]
        i, _, _ = match(shapes, theirs, MIN_IOU)
        rows.append(pd.DataFrame({"block": detections.block[ours[i]], "class_id": class_id}))
    empty = pd.DataFrame({"block": np.empty(0, np.int64), "class_id": np.empty(0, np.int64)})
    return pd.concat([empty, *rows], ignore_index=True)
