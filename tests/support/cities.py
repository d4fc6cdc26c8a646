"""Small imagery for tests, written with rasterio alone, and a network whose answer is known."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import rasterio
import torch
from rasterio.transform import from_origin
from torch import nn

from capecam.model.model import Model, Normalisation
from capecam.settings import CAPE_TOWN_CLASSES, Settings
from capecam.settings.loading import load

CRS = "ESRI:102562"
CORNER = (-51_000.0, -3_763_000.0)
GSD = 0.08

CUSTOM_WKT = (
    'PROJCS["City grid, do not use",GEOGCS["WGS84",DATUM["WGS_1984",SPHEROID["WGS84",6378137,'
    '298.257223563]],PRIMEM["Greenwich",0],UNIT["degree",0.0174532925199433]],'
    'PROJECTION["Transverse_Mercator"],PARAMETER["latitude_of_origin",0],'
    'PARAMETER["central_meridian",19],PARAMETER["scale_factor",1],PARAMETER["false_easting",0],'
    'PARAMETER["false_northing",0],UNIT["metre",1]]'
)
"""The grid of CRS, as some files of Cape Town describe it."""


def write_tif(path: Path, pixels: np.ndarray, col: int = 0, row: int = 0, **profile) -> Path:
    """(bands, H, W) with its top-left pixel (col, row) pixels from CORNER, lossless."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = profile.pop("mask", None)
    shift = profile.pop("shift_px", (0.0, 0.0))
    colorinterp = profile.pop("colorinterp", None)
    profile = {"crs": CRS, "compress": "deflate", "tiled": True, **profile}
    x, y = CORNER[0] + (col + shift[0]) * GSD, CORNER[1] - (row + shift[1]) * GSD
    with (
        rasterio.Env(GDAL_TIFF_INTERNAL_MASK=True),
        rasterio.open(
            path,
            "w",
            driver="GTiff",
            width=pixels.shape[2],
            height=pixels.shape[1],
            count=pixels.shape[0],
            dtype=pixels.dtype,
            transform=profile.pop("transform", from_origin(x, y, GSD, GSD)),
            **profile,
        ) as dataset,
    ):
        dataset.write(pixels)
        if colorinterp:
            dataset.colorinterp = colorinterp
        if mask is not None:
            dataset.write_mask(mask)
    return path


def blobs(height: int, width: int, seed: int = 0) -> np.ndarray:
    """(3, H, W) uint8: dark noise with bright rectangles of three colours, some across tiles."""
    rng = np.random.default_rng(seed)
    pixels = rng.integers(20, 60, (3, height, width)).astype(np.uint8)
    for n in range(max(3, height * width // 20_000)):
        h, w = rng.integers(15, 60, 2)
        r, c = rng.integers(0, max(1, height - h)), rng.integers(0, max(1, width - w))
        pixels[n % 3, r : r + h, c : c + w] = 230
    return pixels


class Colours(nn.Module):
    """Class k where channel k - 1 is bright; its CAM lies where the brightness is.

    The encoder averages pixels to (3, H/32, W/32); the target layer passes them on.
    """

    def __init__(self, background: float = 1.0, gain: float = 8.0) -> None:
        super().__init__()
        self.background, self.gain = background, gain
        self.encoder = nn.Sequential(nn.AvgPool2d(32), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.encoder[1].weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.up = nn.Upsample(scale_factor=32, mode="nearest")
        self.at_pixels = nn.ReLU(inplace=True)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        coarse = self.up(self.encoder(x))
        fine = self.at_pixels(x - 0.5)
        foreground = self.gain * fine + 1e-3 * coarse
        return torch.cat([torch.full_like(foreground[:, :1], self.background), foreground], dim=1)


def quick_settings(city: Path, **options: object) -> Settings:
    """Settings of a quick run on the folder ``in`` of a city; options by key, __ for the dot."""
    given = {key.replace("__", "."): value for key, value in options.items()}
    return load(None, {
        "sources": [str(city / "in")], "out": str(city / "out"), "compute.readers": 0,
        "explain.calibration_tiles": 1, "explain.methods": ["gradcam"], "tiling.overlap": 0,
        "detections.min_area_m2": 0.0,
    } | given)  # fmt: skip


def colours_model(**logits: float) -> Model:
    """The network above as a model; pixels are 0..1 to it."""
    network = Colours(**logits).eval().requires_grad_(False)
    scaling = Normalisation(1.0, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    return Model(network, CAPE_TOWN_CLASSES, scaling, "encoder.1", "colours", "0" * 64, ())
