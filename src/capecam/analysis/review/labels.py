"""``capecam export OUT --labels FOLDER``: annotations for the next training.

Tiles of imagery with masks, COCO, and polygons, only of what people have looked at. Tiles do not
overlap, so that tiles of training and of validation share no pixel.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import geopandas as gpd
import numpy as np
import pandas as pd
import pyarrow as pa
import pyproj
import shapely

from capecam import __version__
from capecam.analysis.review.coco import annotation
from capecam.analysis.review.label_truth import LabelTruth, TileTruth, clip, label_truth
from capecam.analysis.review.review_file import ReviewFile
from capecam.errors import OutputError, UsageError
from capecam.grid import Tiling, Window
from capecam.io.cog import NODATA, Product, write_cog, write_rgb_cog
from capecam.io.gdal import gdal_settings
from capecam.io.geopackage_editing import append_rows, make_layer
from capecam.mosaic.reader import Reader
from capecam.store.run_folder import RunFolder

IMAGES, MASKS, JSON, GEOPACKAGE = "images", "masks", "labels.json", "labels.gpkg"

TEXT, REAL, INTEGER = pa.string(), pa.float64(), pa.int32()

LABEL_COLUMNS = pa.schema([
    ("id", TEXT), ("class_id", INTEGER), ("class", TEXT), ("m2", REAL), ("source", TEXT),
    ("block", TEXT),
])  # fmt: skip
TILE_COLUMNS = pa.schema([
    ("file", TEXT), ("complete", pa.bool_()), ("complete_by", TEXT), ("known_share", REAL),
    ("objects", INTEGER),
])  # fmt: skip


@dataclass(frozen=True, slots=True)
class LabelTile:
    """A tile that was written."""

    file: str
    """Name in ``images`` and in ``masks``."""
    truth: TileTruth
    known_share: float
    """Share of the valid pixels that have a label."""

    @property
    def is_complete(self) -> bool:
        """Return whether every object in it is known."""
        return bool(self.truth.complete_by)


@dataclass(frozen=True, slots=True)
class Labels:
    """Result of ``capecam export --labels``."""

    folder: Path
    tiles: int
    complete: int
    """Tiles in which every object is known."""
    objects: int
    """Objects in the tiles; one in two tiles counts once."""

    def to_text(self) -> str:
        """Return a sentence."""
        return (
            f"{self.folder}: {self.tiles} tiles, {self.complete} of them complete, with "
            f"{self.objects} objects"
        )


def export_labels(out: Path, folder: Path, path: Path | None = None) -> Labels:
    """Write what people have looked at as tiles, masks, COCO and polygons (docs/review.md).

    Args:
        out: folder of the run.
        folder: folder to make.
        path: review file; None: ``review.gpkg`` in the folder of the run.

    Raises:
        OutputError: the folder holds no run, or the other one exists.
        UsageError: the review file cannot be used, or nobody has looked at anything; the images
            are gone or have changed.
        ImageError: an image cannot be decoded.
    """
    run = RunFolder.open_finished(out)
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise OutputError(f"{folder}: exists, and is not overwritten; name a new folder")
    truth = label_truth(run, ReviewFile.of(run, path).read())
    tiling = Tiling(run.settings.tiling.size, 0, run.settings.tiling.stride)
    folder.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(mkdtemp(dir=folder.parent, prefix=f".{folder.name}-"))
    try:
        for name in (IMAGES, MASKS):
            (temporary / name).mkdir()
        with gdal_settings():
            tiles = _write_tiles(temporary, run, truth, tiling)
        if not tiles:
            raise UsageError(
                f"{path or ReviewFile.of(run).path}: nobody has looked at anything on the images; "
                "fill in verdicts first (docs/review.md)"
            )
        _write_json(temporary / JSON, run, truth, tiles)
        _write_geopackage(temporary / GEOPACKAGE, truth, tiles)
        temporary.chmod(0o755)
        temporary.rename(folder)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    objects = {row for tile in tiles for row in tile.truth.objects.tolist()}
    return Labels(folder, len(tiles), sum(tile.is_complete for tile in tiles), len(objects))


def _write_tiles(
    folder: Path, run: RunFolder, truth: LabelTruth, tiling: Tiling
) -> list[LabelTile]:
    """Write the imagery and the mask of each tile with imagery."""
    palette = {index: entry.rgb for index, entry in enumerate(run.settings.model.classes)}
    product = Product(MASKS, ("class",), "uint8", NODATA, palette=palette)
    tiles = []
    windows = truth.windows(tiling)
    _check_images(run, windows)
    with Reader(run.mosaic) as reader:
        for window in windows:
            pixels, valid = reader.read(window)
            if not valid.any():
                continue
            run.check_unchanged(run.mosaic.touching(window), whole=bool(valid.all()))
            found = truth.tile(window, valid)
            grid = run.grid.crop(window)
            file = f"tile_{window.col}_{window.row}.tif"
            write_rgb_cog(folder / IMAGES / file, grid, pixels, valid)
            write_cog(folder / MASKS / file, product, grid, found.classes[None])
            tiles.append(LabelTile(file, found, float((found.classes != NODATA)[valid].mean())))
    return tiles


def _check_images(run: RunFolder, windows: Sequence[Window]) -> None:
    """Raise UsageError if an image of the tiles is gone, which would leave a tile out."""
    boxes = np.array([window.box for window in windows], object)
    names = {
        image
        for name, cell in run.cells.items()
        if shapely.intersects(run.core(name).box, boxes).any()
        for image, facts in cell.images.items()
        if facts.sha256 is not None
    }
    run.check_images(names)


def _write_json(path: Path, run: RunFolder, truth: LabelTruth, tiles: Sequence[LabelTile]) -> None:
    """Write COCO's object detection format, with capecam's own keys beside it."""
    images, annotations = [], list[dict[str, Any]]()
    for number, tile in enumerate(tiles, start=1):
        height, width = tile.truth.window.shape
        images.append({
            "id": number, "file_name": f"{IMAGES}/{tile.file}", "mask": f"{MASKS}/{tile.file}",
            "width": width, "height": height, "complete": tile.is_complete,
            "complete_by": tile.truth.complete_by, "known_share": round(tile.known_share, 6),
        })  # fmt: skip
        for row in tile.truth.objects.tolist():
            entry = truth.objects.iloc[row]
            annotations.append({
                "id": len(annotations) + 1, "image_id": number,
                "category_id": int(entry["class_id"]),
                **annotation(clip(truth.shapes[row], tile.truth.window), tile.truth.window),
                "detection": entry["id"], "source": entry["source"],
            })  # fmt: skip
    tree = {
        "info": {
            "description": "capecam: what people say about a map of objects on roofs",
            "version": __version__,
            "checkpoint_sha256": run.record.checkpoint.sha256,
            "unknown": NODATA,
        },
        "licenses": [],
        "images": images,
        "annotations": annotations,
        "categories": [
            {"id": index, "name": name, "supercategory": "object"}
            for index, name in enumerate(run.names)
            if index
        ],
    }
    path.write_text(json.dumps(tree, indent=1) + "\n", encoding="utf-8")


def _write_geopackage(path: Path, truth: LabelTruth, tiles: Sequence[LabelTile]) -> None:
    """Write the layers ``labels`` and ``tiles``, in the CRS of the imagery."""
    crs = pyproj.CRS(truth.objects.crs)
    make_layer(path, "labels", LABEL_COLUMNS, crs, "MultiPolygon")
    make_layer(path, "tiles", TILE_COLUMNS, crs, "Polygon")
    inside = sorted({row for tile in tiles for row in tile.truth.objects.tolist()})
    append_rows(path, "labels", truth.objects.iloc[inside])
    rows = pd.DataFrame({
        "file": [tile.file for tile in tiles],
        "complete": [tile.is_complete for tile in tiles],
        "complete_by": [tile.truth.complete_by for tile in tiles],
        "known_share": [tile.known_share for tile in tiles],
        "objects": [len(tile.truth.objects) for tile in tiles],
    })  # fmt: skip
    boxes = [shapely.transform(tile.truth.window.box, truth.grid.to_map) for tile in tiles]
    append_rows(path, "tiles", gpd.GeoDataFrame(rows, geometry=boxes, crs=crs))
