"""Guess a configuration from a checkpoint and images, and try it on one tile."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import chain
from math import sqrt
from pathlib import Path

import torch

from capecam.attribution.methods import decide
from capecam.errors import SettingsError, UsageError
from capecam.grid import Tiling
from capecam.imagery.discovery import find_images
from capecam.model.checkpoint import Weights, read_weights
from capecam.model.checkpoint_facts import gsd_m, guess_classes, input_max, tile_px
from capecam.model.input_range import InputRange, Judgement, judge
from capecam.model.introspection import sizes, why_not_size
from capecam.model.model import Model, build_model, check_tile
from capecam.model.recognition import Recognition, recognize
from capecam.mosaic.city import City, city_of
from capecam.mosaic.value_range import find_value_range
from capecam.pipeline.calibration import sample_tiles
from capecam.pipeline.tiles import Tile
from capecam.settings import ClassSettings, ImagerySettings, Settings, TilingSettings, ValueRange
from capecam.views.panels.trial import Prediction, Trial

log = logging.getLogger(__name__)

TILES = 4
"""Tiles on which ranges of the input are compared; the one with most detections is drawn."""

MAX_DRAWN = 4
"""Ranges in the picture."""

MAX_IMAGES = 5
"""Images that are tried until one can be used."""

STRIDES = (10, 8)
"""Edges of heatmap blocks: the default, and one that divides tiles of a power of two."""

PERCENTILES = ValueRange(2, 98, percent=True)
"""Values of images that are not uint8 that become 0 and 255."""


@dataclass(frozen=True, slots=True)
class ConfigurationGuess:
    """A configuration, how sure its parts are, and one tile with it."""

    network: Recognition
    weights: str | None
    """Network of the checkpoint, if it holds several."""
    classes: tuple[ClassSettings, ...]
    names_from: str
    """Where the names of the classes are from."""
    input: Judgement
    gsd_m: float
    """Size of a pixel on the ground."""
    gsd_from: str
    tiling: TilingSettings
    imagery: ImagerySettings
    image: str
    """Path of the image that was looked at."""
    trial: Trial


def guess_configuration(
    checkpoint: Path, sources: Sequence[str], weights_name: str | None = None
) -> ConfigurationGuess:
    """Guess the configuration of a checkpoint for images.

    Args:
        checkpoint: file or saved folder.
        sources: images, as for a run.
        weights_name: network of the checkpoint, if it holds several.

    Raises:
        CheckpointError: the network cannot be recognised or loaded.
        UsageError: no image can be used.
    """
    weights = read_weights(checkpoint)
    log.info("comparing the tensors of %s with known networks", checkpoint)
    network = recognize(weights, weights_name)
    log.info("it is %s; trying it on one image", network.title)
    classes, names_from = guess_classes(network.channels, weights.facts)
    given = {"classes": classes, "weights": weights_name}
    model = build_model(weights, network.settings.model_copy(update=given))
    tiling = _tiling(model, tile_px(weights.facts))
    city, imagery = _open(sources)
    tiles = _tiles(city, tiling.tiling)
    pixels = torch.stack([tile.pixels for tile in tiles])
    judgement = _judge(model, weights, pixels)
    source = city.mosaic.sources[0]
    width, height = source.header.placement.ground_m
    said = gsd_m(weights.facts)
    return ConfigurationGuess(
        network,
        weights_name,
        classes,
        names_from,
        judgement,
        said or float(f"{sqrt(width * height):.4g}"),
        "the checkpoint" if said else "the image",
        tiling,
        imagery,
        str(source.header.path),
        _trial(model, judgement, tiles, width, f"{checkpoint.name}: {network.title}"),
    )


def _open(sources: Sequence[str]) -> tuple[City, ImagerySettings]:
    """Open one of the images, and return how images are read.

    Raises:
        UsageError: none of the first can be used.
    """
    found = find_images(sources)
    paths = [str(path) for path in found.paths if path not in found.refused]
    middle = len(paths) // 2  # the first and the last images of a city are at its edges
    errors = []
    for path in (paths[middle:] + paths[:middle])[:MAX_IMAGES]:
        for imagery in (ImagerySettings(), ImagerySettings(scale=PERCENTILES)):
            try:
                city = city_of(Settings(sources=(path,), imagery=imagery), None)
                if imagery.scale is not None:
                    city = city.with_value_range(find_value_range(city.mosaic, imagery.scale, 0))
            except UsageError as error:
                errors.append(error)
            else:
                return city, imagery
    raise errors[0] if errors else UsageError("; ".join(found.refused.values()))


def _tiles(city: City, tiling: Tiling) -> list[Tile]:
    """Return a few tiles, those with most imagery of a larger sample."""
    sample = list(sample_tiles(city, tiling, 4 * TILES, seed=0))
    if not sample:
        raise UsageError(
            f"{city.mosaic.sources[0].header.path}: has no valid pixel; name another image"
        )
    return sorted(sample, key=lambda tile: -int(tile.valid.sum()))[:TILES]


def _judge(model: Model, weights: Weights, pixels: torch.Tensor) -> Judgement:
    """Judge the range of the input, unless the checkpoint says it."""
    scaling, said = model.normalisation, input_max(weights.facts)
    has_own = scaling.keys[0] in weights.tensors
    judgement = judge(model.network, (scaling.mean, scaling.std) if has_own else None, pixels)
    if said is None:
        return judgement
    named = [each for each in judgement.ranges if each.normalisation.input_max == said]
    others = [each for each in judgement.ranges if each not in named]
    return replace(judgement, ranges=(*named, *others), sure_max="sure") if named else judgement


def _tiling(model: Model, said: int | None) -> TilingSettings:
    """Return tiles that the network takes: as in training if the checkpoint says so."""
    default = TilingSettings()
    errors = list[SettingsError]()
    for size in dict.fromkeys(chain([said or default.size], sizes(model.network, default.size))):
        for stride in STRIDES:
            overlap = round(size * default.overlap / default.size / stride) * stride
            try:
                tiling = TilingSettings(size=size, overlap=overlap, stride=stride)
                check_tile(model.network, tiling.tiling)
            except SettingsError as error:
                errors.append(error)
            else:
                if why_not_size(model.network, size) is None:
                    return tiling
    raise next(iter(errors), SettingsError("the network takes no tiles; correct model.options"))


def _trial(
    model: Model, judgement: Judgement, tiles: Sequence[Tile], pixel_m: float, title: str
) -> Trial:
    """Predict the tile with most detections in several ranges of the input."""

    def predict(scaling: InputRange, pixels: torch.Tensor) -> Prediction:
        dtype = next(model.network.parameters()).dtype
        normalised = scaling.normalisation.on(pixels.device, dtype)(pixels.to(dtype))
        with torch.no_grad():
            logits = model.network(normalised).float()
        if model.sigmoid:  # softmax of (0, z) is (1 - sigmoid(z), sigmoid(z))
            logits = torch.cat([torch.zeros_like(logits), logits], dim=1)
        probability = logits.softmax(dim=1)
        return Prediction(
            scaling.name,
            decide(probability, sigmoid=model.sigmoid).numpy(),
            (1 - probability[:, 0]).numpy(),
            "" if scaling.misfit is None else f"misfit {scaling.misfit:.2g}",
        )

    first, *others = judgement.ranges[:MAX_DRAWN]
    taken = predict(first, torch.stack([tile.pixels for tile in tiles]))
    valid = torch.stack([tile.valid for tile in tiles]).numpy()
    index = int(((taken.predicted > 0) & valid).sum(axis=(1, 2)).argmax())
    chosen = tiles[index]
    predictions = [taken, *(predict(each, chosen.pixels[None]) for each in others)]
    rows = [index] + [0] * len(others)
    return Trial(
        title,
        chosen.pixels.permute(1, 2, 0).numpy(),
        valid[index],
        pixel_m,
        model.classes,
        tuple(
            replace(p, predicted=p.predicted[row], foreground=p.foreground[row])
            for p, row in zip(predictions, rows, strict=True)
        ),
    )
