"""Drawn scenes, mapped by a network: what is right, what is wrong and what was missed."""

from __future__ import annotations

import colorsys
import copy
from collections.abc import Iterator
from dataclasses import dataclass, replace
from importlib.resources import files
from pathlib import Path
from unittest import mock

import numpy as np
import pandas as pd
import pyproj
import shapely
import torch
from numpy.typing import NDArray
from PIL import Image, ImageFilter

from capecam.analysis.matching import match
from capecam.api import Model, load_model, load_settings
from capecam.demo import scene as drawing
from capecam.demo.scene import Scene, draw_scene
from capecam.demo.street_layout import build
from capecam.detections.measurement import to_table
from capecam.detections.regions import join
from capecam.detections.tracing import Tracer
from capecam.grid import Grid, Window
from capecam.io.cog import LEVELS

SIDE_PX = 2400
"""Edge of a scene: 192 m, 3 x 3 blocks of 64 m."""

GSD_M = 0.08
GRID = Grid(
    pyproj.CRS("ESRI:102562").to_wkt(),
    (-51_000.0, -3_763_000.0),
    (GSD_M, GSD_M),
    Window(0, 0, SIDE_PX, SIDE_PX),
)

WINDOW_PX, MARGIN_PX = 800, 80
"""The network sees windows of 960 pixels, of which the middle 800 are kept."""

SQUARE_PX = 400
"""Edge of a square of 32 m."""

DOUBT_LEVEL = 13
"""Smallest level, 5 %, that counts as a doubt that there is nothing."""

MIN_AREA_M2, JOIN_PX, MIN_IOU = 1.7, 2.0, 0.5

FIRST_SEED = 700_000
"""Seeds below 100,000 trained the sample network."""

NOISE = 0.4
"""Standard deviation of the noise on weights, as a share of that of the layer's weights."""


@dataclass(frozen=True, slots=True)
class Acquisition:
    """A way in which the imagery differs from that of the training."""

    blur_px: float = 0.0
    hue_degrees: float = 0.0
    other_roofs: bool = False


USUAL, SHIFTED = Acquisition(), Acquisition(1.7, 24.0, other_roofs=True)

MAPS = {"sample": (0.0, USUAL), "noisy": (NOISE, USUAL), "shifted": (0.0, SHIFTED)}
"""By name of a map: noise on the sample network's weights, and the imagery that it sees."""


def sample_network(noise: float) -> Model:
    """Return the sample city's network, with noise on its weights."""
    data = Path(str(files("capecam.demo"))) / "data"
    settings = load_settings(data / "demo.yaml")
    model = load_model(data / "sample_model.safetensors", settings.model)
    model.network.to(memory_format=torch.channels_last)  # a fifth faster on a CPU
    if not noise:
        return model
    network, random = copy.deepcopy(model.network), torch.Generator().manual_seed(1)
    with torch.no_grad():
        for weights in network.parameters():
            if weights.ndim == 4:
                weights.add_(noise * weights.std() * torch.randn(weights.shape, generator=random))
    return replace(model, network=network)


def drawn(seed: int, acquisition: Acquisition, side_px: int = SIDE_PX) -> Scene:
    """Draw a scene as an acquisition shows it; one with other roofs is another city."""
    if not acquisition.other_roofs:
        scene = draw_scene(seed, side_px, side_px)
    else:

        def other(rng: np.random.Generator, lot: object) -> object:
            house = build(rng, lot)
            colour = tuple(255 - 0.75 * channel for channel in house.look.colour)
            return replace(house, look=replace(house.look, colour=colour))

        with mock.patch.object(drawing, "build", other):
            scene = draw_scene(seed, side_px, side_px)
    pixels = scene.pixels
    if acquisition.hue_degrees:
        pixels = turned_hue(pixels, acquisition.hue_degrees)
    if acquisition.blur_px:
        soft = Image.fromarray(pixels).filter(ImageFilter.GaussianBlur(acquisition.blur_px))
        pixels = np.asarray(soft)
    return replace(scene, pixels=pixels)


def turned_hue(pixels: NDArray[np.uint8], degrees: float) -> NDArray[np.uint8]:
    """Turn the hue of (H, W, 3) pixels around the grey axis."""
    yiq = np.array([colorsys.rgb_to_yiq(*row) for row in np.eye(3)]).T
    angle = np.radians(degrees)
    turn = np.array([
        [1, 0, 0],
        [0, np.cos(angle), -np.sin(angle)],
        [0, np.sin(angle), np.cos(angle)],
    ])  # fmt: skip
    matrix = (np.linalg.inv(yiq) @ turn @ yiq).astype(np.float32)
    rows = [np.clip(strip.astype(np.float32) @ matrix.T + 0.5, 0, 255) for strip in pixels]
    return np.stack(rows).astype(np.uint8)


@torch.inference_mode()
def levels_of(model: Model, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Return (C, H, W) probability levels of all classes, 0..254."""
    height, width, _ = pixels.shape
    padded = np.pad(pixels, ((MARGIN_PX,) * 2, (MARGIN_PX,) * 2, (0, 0)), mode="reflect")
    levels = np.empty((len(model.classes), height, width), np.uint8)
    scaled = model.normalisation.on(torch.device("cpu"))
    for row in range(0, height, WINDOW_PX):
        for col in range(0, width, WINDOW_PX):
            edge = WINDOW_PX + 2 * MARGIN_PX
            part = padded[row : row + edge, col : col + edge].transpose(2, 0, 1)
            tile = torch.from_numpy(np.ascontiguousarray(part))[None].float()
            tile = scaled(tile).contiguous(memory_format=torch.channels_last)
            found = model.network(tile).softmax(1)[0]
            inner = found[:, MARGIN_PX : MARGIN_PX + WINDOW_PX, MARGIN_PX : MARGIN_PX + WINDOW_PX]
            levels[:, row : row + WINDOW_PX, col : col + WINDOW_PX] = (
                (inner * LEVELS).round().to(torch.uint8).numpy()
            )
    return levels


def doubt_of(levels: NDArray[np.uint8]) -> pd.DataFrame:
    """Return the probability outside of all objects as m² by square of ``SQUARE_PX``.

    Columns: ``row`` and ``col`` of the square, and the m² of each foreground class.
    """
    outside = (levels.argmax(axis=0) == 0) & (levels[1:] >= DOUBT_LEVEL)
    mass = np.where(outside, levels[1:], 0).astype(np.float64) / LEVELS * GSD_M**2
    classes, height, width = mass.shape
    rows, cols = height // SQUARE_PX, width // SQUARE_PX
    cut = mass[:, : rows * SQUARE_PX, : cols * SQUARE_PX]
    squares = cut.reshape(classes, rows, SQUARE_PX, cols, SQUARE_PX).sum(axis=(2, 4))
    row, col = np.indices((rows, cols))
    columns = {f"m2_{k + 1}": squares[k].ravel() for k in range(classes)}
    return pd.DataFrame({"row": row.ravel(), "col": col.ravel(), **columns})


def objects_of(model: Model, levels: NDArray[np.uint8], scene: Scene) -> pd.DataFrame:
    """Return a row for each object of a scene that was found or is true.

    Columns: ``x`` and ``y`` in metres from the corner; ``class_id``, ``area_m2`` and
    ``confidence`` of what was found, else 0; ``true_class`` and ``true_m2`` of what is there,
    else 0.
    """
    tracer = Tracer(0, "scene")
    tracer.add(0, levels.argmax(axis=0).astype(np.uint8), levels[1:])
    names = [entry.name for entry in model.classes]
    pieces = join(tracer.finish(), JOIN_PX)
    table = to_table(pieces, GRID, names)
    kept = (table["area_m2"] > MIN_AREA_M2).to_numpy()
    found, shapes = table[kept], pieces.geometry[kept]
    true_class = np.array([o.class_id for o in scene.objects], np.int64)
    truth = np.array([o.polygon for o in scene.objects], object)
    true_m2 = shapely.area(truth) * GSD_M**2
    class_id = found["class_id"].to_numpy(np.int64)
    owner = np.full(len(shapes), -1)
    for k in range(1, len(names)):
        ours, theirs = np.flatnonzero(class_id == k), np.flatnonzero(true_class == k)
        i, j, _ = match(shapes[ours], truth[theirs], MIN_IOU)
        owner[ours[i]] = theirs[j]
    free, left = np.flatnonzero(owner < 0), np.setdiff1d(np.arange(len(truth)), owner)
    i, j, _ = match(shapes[free], truth[left], MIN_IOU)  # of another class
    owner[free[i]] = left[j]
    missed = np.setdiff1d(np.arange(len(truth)), owner)
    has = owner >= 0
    rows = pd.DataFrame({
        "class_id": class_id,
        "area_m2": found["area_m2"].to_numpy(),
        "confidence": found["confidence"].to_numpy(),
        "true_class": np.where(has, true_class[owner], 0),
        "true_m2": np.where(has, true_m2[owner], 0.0),
    })  # fmt: skip
    lost = pd.DataFrame({
        "class_id": 0, "area_m2": 0.0, "confidence": 0.0, "true_class": true_class[missed],
        "true_m2": true_m2[missed],
    })  # fmt: skip
    both = pd.concat([rows, lost], ignore_index=True)
    inside = shapely.point_on_surface(np.concatenate([shapes, truth[missed]]))
    both[["x", "y"]] = shapely.get_coordinates(inside) * GSD_M
    return both


def write_maps(folder: Path, seeds: Iterator[int], side_px: int = SIDE_PX) -> None:
    """Draw and map scenes until the seeds end; what lies in the folder is not done again."""
    folder.mkdir(parents=True, exist_ok=True)
    networks = {name: sample_network(noise) for name, (noise, _) in MAPS.items()}
    for seed in seeds:
        scenes: dict[Acquisition, Scene] = {}
        for name, (_, acquisition) in MAPS.items():
            path = folder / f"{name}-{seed}.csv"
            if path.exists():
                continue
            if acquisition not in scenes:
                scenes[acquisition] = drawn(seed, acquisition, side_px)
            levels = levels_of(networks[name], scenes[acquisition].pixels)
            doubt_of(levels).to_csv(path.with_suffix(".doubt"), index=False)
            objects_of(networks[name], levels, scenes[acquisition]).to_csv(path, index=False)
