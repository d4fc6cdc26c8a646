"""The audit distinguishes maps of what the network uses from maps that show something else."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from dataclasses import replace
from itertools import product
from pathlib import Path

import geopandas as gpd
import numpy as np
import pandas as pd
import pytest
import shapely
import torch
from support.cities import blobs, colours_model, write_tif
from support.networks import smp_network, tiny_model, tiny_network
from support.tracing import LO19
from torch import Tensor, nn

from capecam.analysis.audit.audit import audit
from capecam.analysis.audit.block_maps import Explain, block_heat
from capecam.analysis.audit.deletion_insertion import (
    MEASURES,
    Target,
    areas,
    blur,
    curves,
    removal_curves,
    removal_ranks,
    scaled,
)
from capecam.analysis.audit.measure import AuditEngines, AuditMeasurement, measure_detection
from capecam.analysis.audit.randomization import cascade, spearman, stages
from capecam.analysis.audit.sampling import (
    DetectionTiles,
    SampledDetection,
    centred,
    sample_detections,
    shift_px,
    shifted,
)
from capecam.analysis.audit.summary import Estimate, Margin, summarize_methods
from capecam.attribution.engine import Engine
from capecam.errors import CheckpointError, OutputError, UsageError
from capecam.grid import Tiling, Window
from capecam.model.model import Model, Normalisation
from capecam.pipeline.tiles import Tile
from capecam.run.supervisor import run
from capecam.runtime.lock import output_lock
from capecam.settings import CAPE_TOWN_CLASSES, AuditSettings, Settings
from capecam.settings.loading import load

TILING = Tiling(64, 16, 8)
AWAY = 3
"""Cells (of 8 px) between an object and the feature that :class:`KnownNetwork` detects."""


class KnownNetwork(nn.Module):
    """Network that predicts class k where channel k - 1 is bright ``away`` cells to the left."""

    def __init__(self, away: int) -> None:
        super().__init__()
        pick = torch.zeros(3, 3, 1, 2 * AWAY + 1)
        pick[range(3), range(3), 0, AWAY - away] = 1
        self.encoder = nn.Sequential(nn.AvgPool2d(8), nn.Conv2d(3, 3, 1, bias=False), nn.ReLU())
        self.encoder[1].weight.data = torch.eye(3).view(3, 3, 1, 1)
        self.decoder = nn.Conv2d(3, 3, pick.shape[2:], padding=(0, AWAY), bias=False)
        self.decoder.weight.data = pick
        self.segmentation_head = nn.Conv2d(3, 4, 1)
        self.segmentation_head.weight.data = 20 * torch.eye(4, 3).roll(1, 0).view(4, 3, 1, 1)
        self.segmentation_head.bias.data = torch.tensor([10.0, 0, 0, 0])
        self.up = nn.Upsample(scale_factor=8)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.up(self.segmentation_head(self.decoder(self.encoder(x))))
        return logits


def model_of(network: nn.Module, layer: str = "encoder.1", input_max: float = 1.0) -> Model:
    scaling = Normalisation(input_max, (0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
    network.eval().requires_grad_(False)
    return Model(network, CAPE_TOWN_CLASSES, scaling, layer, "for tests", "0" * 64, ())


def engines_of(
    network: nn.Module, explain: Explain = block_heat, score: str = "mean"
) -> AuditEngines:
    model = model_of(network)

    def engine(of: Model) -> Engine:
        return Engine(of, ["gradcam"], score=score)

    randomised = {stage: engine(random) for stage, random in cascade(model, 0)}
    return AuditEngines(engine(model), randomised, TILING, 4, explain)


def detection_tiles(away: int, seed: int = 0) -> DetectionTiles:
    """Return tiles of a bright feature in dark noise and an object ``away`` cells from it."""
    scene = np.random.default_rng(seed).integers(20, 60, (3, 128, 128)).astype(np.uint8)
    scene[1, 56:72, 56:72] = 240
    region = shapely.box(56 + 8 * away, 56, 72 + 8 * away, 72)

    def tile(window: Window) -> Tile:
        place = window.slices(Window(0, 0, 128, 128))
        return Tile(window, torch.from_numpy(scene[:, *place]), torch.ones(64, 64, dtype=bool))

    first = Window(32, 32, 64, 64)
    inside = np.zeros((64, 64), bool)
    inside[24:40, 24 + 8 * away : 40 + 8 * away] = True
    others = tuple(tile(window) for window in shifted(region, first, shift_px(TILING)))
    return DetectionTiles(SampledDetection("2_0_0", 2, region, ("a",)), tile(first), others, inside)


def margin(measurements: list[AuditMeasurement], measure: str) -> Margin:
    """Return the margin of the only method below random order."""
    (method,) = summarize_methods(measurements, ["gradcam"], ["decoder", "encoder.1"])
    return {"score": method.score, "confidence": method.confidence}[measure].below_random


def measured(engines: AuditEngines, away: int) -> list[AuditMeasurement]:
    return [
        measure_detection(detection_tiles(away, n), engines, np.random.default_rng(n))
        for n in range(6)
    ]


# --- Deletion and insertion -----------------------------------------------------------------------


def inverted(*arguments) -> np.ndarray:
    return -block_heat(*arguments)


def shuffled(*arguments) -> np.ndarray:
    heat = block_heat(*arguments)
    return (
        np.random.default_rng(5)
        .permuted(heat.reshape(*heat.shape[:2], -1), axis=2)
        .reshape(heat.shape)
    )


@pytest.mark.parametrize("score", ["mean", "predicted"])
@pytest.mark.parametrize("away", [0, AWAY], ids=["looks at the object", "looks at its context"])
def test_a_faithful_map_is_told_from_wrong_ones(away: int, score: str) -> None:
    honest = measured(engines_of(KnownNetwork(away), score=score), away)
    for measure in MEASURES:
        found = margin(honest, measure)
        assert found.area.low > 0.15, (measure, found)
        assert found.share == 1
        k = MEASURES.index(measure)
        for finding in honest:
            highest, random, lowest = areas(finding.shares, finding.curves)[0, :, k]
            assert highest < random < lowest
        for wrong in (inverted, shuffled):  # a shuffled map is one more random order
            found = margin(measured(engines_of(KnownNetwork(away), wrong, score), away), measure)
            assert found.area.low < 0, (wrong.__name__, measure, found)


def test_a_map_of_the_object_is_wrong_where_the_network_looks_at_the_context() -> None:
    def object_itself(_engine, _tiling, tiles, _class_id) -> np.ndarray:
        heat = np.zeros((len(tiles), 1, 8, 8))
        heat[:, 0, 3:5, 3 + AWAY : 5 + AWAY] = 1
        return heat

    honest = margin(measured(engines_of(KnownNetwork(AWAY)), AWAY), "confidence")
    pleasing = margin(measured(engines_of(KnownNetwork(AWAY), object_itself), AWAY), "confidence")
    assert honest.area.low > pleasing.area.high
    assert pleasing.area.low < 0


def by_hand() -> tuple[Engine, Target]:
    """Return four blocks of 8, 4, 2 and 2, and an engine whose score is their mean."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv2d(3, 1, 1, bias=False)
            self.encoder.weight.data = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.encoder(x)
            return torch.cat([0 * y, y], dim=1)

    values = torch.tensor([[8, 4], [2, 2]], dtype=torch.uint8)
    pixels = values.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat(3, 1, 1)
    tile = Tile(Window(0, 0, 4, 4), pixels, torch.ones(4, 4, dtype=bool))
    inside = torch.zeros(4, 4, dtype=bool)
    inside[:2, :2] = True
    engine = Engine(model_of(Linear(), "encoder", input_max=255.0), ["gradcam"])
    return engine, Target(tile, torch.zeros_like(pixels), inside, np.ones((2, 2), bool), 1)


def test_curves_and_areas_by_hand() -> None:
    engine, target = by_hand()
    orders = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])
    found = removal_curves(engine, target, orders, [0, 1, 2, 3, 4], batch_size=3)
    assert found[0, :, 0].tolist() == [4, 2, 1, 0.5, 0]  # 16/4, 8/4, 4/4, 2/4
    assert found[1, :, 0].tolist() == [4, 3.5, 3, 2, 0]
    sure, even = 1 / (1 + np.exp(-8)), 0.5
    assert found[0, :, 1] == pytest.approx([sure, even, even, even, even], abs=1e-6)
    assert found[1, :, 1] == pytest.approx([sure, sure, sure, sure, even], abs=1e-6)
    area = areas(np.linspace(0, 1, 5), found)
    assert area[:, 0].tolist() == [1.375, 2.625]  # (4/2 + 2 + 1 + 1/2 + 0/2) / 4
    assert area[0, 1] == pytest.approx((sure / 2 + 3.5 * even) / 4)


def test_scores_come_in_parts_of_their_range() -> None:
    engine, target = by_hand()
    heat = np.array([[[9.0, 5.0], [1.0, 0.0]], [[0.0, 0.0], [0.0, 0.0]]])
    shares, found = curves(engine, target, heat, np.random.default_rng(0), 4)
    assert set(shares) == {0, 0.25, 0.5, 0.75, 1}
    highest, random, lowest = areas(shares, found)[0, :, 0]
    assert (highest, lowest) == (1.375 / 4, 2.625 / 4)
    assert highest <= random <= lowest
    assert np.isnan(found[1]).all(), "an empty map ranks nothing"


def test_a_score_that_never_moves_is_not_stretched() -> None:
    engine, target = by_hand()
    still = target._replace(baseline=target.tile.pixels)
    heat = np.array([[[9.0, 5.0], [1.0, 0.0]]])
    _, found = curves(engine, still, heat, np.random.default_rng(0), 4)
    assert np.isnan(found[..., 0]).all()
    assert (np.ptp(found[..., 1], axis=2) == 0).all()
    assert np.isnan(scaled(np.array([7.0, 7.0 + 1e-6]))).all(), "that is rounding"
    assert scaled(np.array([7.0, 7.1, 7.2])) == pytest.approx([0, 0.5, 1])


def test_blocks_go_by_rank_and_never_without_imagery() -> None:
    key = np.array([[3.0, 1.0], [2.0, 0.0]])
    seen = np.array([[True, True], [True, False]])
    assert removal_ranks(key, seen, np.random.default_rng(0)).tolist() == [[2, 0], [1, 4]]
    drawn = {
        tuple(removal_ranks(np.zeros((2, 2)), seen, np.random.default_rng(n)).ravel())
        for n in range(40)
    }
    assert len(drawn) == 6, "equal blocks go in every order"


def test_blur_removes_an_object_and_minds_nodata() -> None:
    pixels = torch.full((3, 64, 64), 50, dtype=torch.uint8)
    valid = torch.ones(64, 64, dtype=bool)
    valid[:, 40:] = False
    pixels[:, ~valid] = 0
    window = Window(0, 0, 64, 64)
    assert blur(Tile(window, pixels, valid)).equal(pixels), "nodata darkens nothing"
    pixels[0, 10:14, 10:14] = 250
    blurred = blur(Tile(window, pixels, valid))
    assert 50 < blurred[0, 12, 12] < 70


# --- Randomization --------------------------------------------------------------------------------


def test_stages_go_from_the_head_to_the_encoders_last() -> None:
    for encoder, last in (("resnet18", "layer4"), ("tu-resnet18", "model.layer4")):
        network = smp_network("FPN", encoder)
        expected = ("segmentation_head", "decoder", f"encoder.{last}")
        assert stages(network, f"encoder.{last}.1.conv2") == expected
    plain = nn.Sequential(nn.Conv2d(3, 2, 1), nn.ReLU(), nn.Conv2d(2, 2, 1), nn.Conv2d(2, 4, 1))
    assert stages(plain, "0") == ("3", "2", "0")
    assert stages(plain, "1") == ("3", "2")


def test_the_model_stays_as_it_is_bit_by_bit() -> None:
    model = tiny_model(tiny_network())
    before = {key: value.clone() for key, value in model.network.state_dict().items()}

    def untouched() -> bool:
        after = model.network.state_dict()
        return all(after[key].equal(value) for key, value in before.items())

    def interrupted() -> None:
        for _ in cascade(model, 0):
            assert untouched(), "not even while it happens"
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert untouched()
    found = dict(cascade(model, 0))
    assert untouched()
    assert not model.network.training
    assert list(found) == ["segmentation_head", "decoder", "encoder.bn3", "encoder.conv3"]


def test_stages_are_randomised_one_after_the_other() -> None:
    model = tiny_model(tiny_network())
    found, again = (dict(cascade(model, 7)) for _ in range(2))
    done: list[str] = []
    for stage, random in found.items():
        done.append(stage)
        for key, weight in random.network.named_parameters():
            own = model.network.get_parameter(key)
            if not any(key.startswith(f"{each}.") for each in done):
                assert weight.equal(own), (stage, key)
            elif own.std() > 0:
                assert not weight.equal(own), (stage, key)
            assert weight.equal(again[stage].network.get_parameter(key)), "the seed decides"
    other = dict(cascade(model, 8))
    assert (
        not other["decoder"]
        .network.decoder[0]
        .weight.equal(found["decoder"].network.decoder[0].weight)
    )


def test_an_edge_detector_survives_randomisation_and_a_map_of_the_network_does_not() -> None:
    def edges(_engine, tiling, tiles, _class_id) -> np.ndarray:
        grey = torch.stack([tile.pixels for tile in tiles]).double().mean(dim=1, keepdim=True)
        steps = nn.functional.avg_pool2d(grey.diff(dim=-1, append=grey[..., -1:]).abs(), 8)
        return steps.numpy()

    def similarities(explain: Explain) -> np.ndarray:
        findings = measured(engines_of(KnownNetwork(0), explain), 0)
        return np.stack([finding.randomized for finding in findings])

    assert similarities(edges) == pytest.approx(1)
    found = similarities(block_heat)
    assert found.max() < 0.97, "there is little to randomise in three channels"
    assert (found.min(axis=1) < 0.75).all()


def test_rank_correlation_by_hand() -> None:
    a = np.array([[[1.0, 2.0], [3.0, 50.0]], [[0.0, 0.0], [1.0, 2.0]]])
    b = np.array([[[10.0, 20.0], [30.0, 31.0]], [[5.0, 7.0], [1.0, 0.0]]])
    seen = np.ones((2, 2), bool)
    # Ranks 1.5 1.5 3 4 and 3 4 2 1: centred -1 -1 .5 1.5 and .5 1.5 -.5 -1.5.
    expected = [1, -4.5 / np.sqrt(4.5 * 5)]
    assert spearman(a, b, seen) == pytest.approx(expected)
    assert np.isnan(spearman(a, np.zeros_like(b), seen)).all()


# --- Stability ------------------------------------------------------------------------------------


def test_a_network_that_knows_no_position_is_stable() -> None:
    for finding in measured(engines_of(KnownNetwork(0)), 0):
        assert finding.shift_correlation == pytest.approx([1], abs=1e-6)
        assert finding.shift_ratio == pytest.approx([1], abs=1e-6)


def test_a_network_that_minds_its_place_is_less_stable() -> None:
    class Placed(KnownNetwork):
        """Network that brightens its input towards the right."""

        def forward(self, x: Tensor) -> Tensor:
            ramp = torch.linspace(0, 4, x.shape[-1], dtype=x.dtype)
            return super().forward(x * ramp)

    for finding in measured(engines_of(Placed(0)), 0):
        assert finding.shift_correlation.max() < 0.99
        assert finding.shift_ratio.max() < 0.9


def test_tiles_are_centred_and_shifted_without_losing_the_object() -> None:
    extent = Window(0, 0, 1000, 1000)
    assert centred(shapely.box(400, 500, 440, 520), 320, extent) == Window(350, 260, 320, 320)
    assert centred(shapely.box(0, 980, 40, 1000), 320, extent) == Window(680, 0, 320, 320)
    small = Window(-5, 7, 100, 100)
    assert centred(shapely.box(10, 0, 20, 10), 320, small) == Window(-5, 7, 320, 320)
    first = Window(350, 260, 320, 320)
    assert len(list(shifted(shapely.box(400, 500, 440, 520), first, 80))) == 4
    wide = shapely.box(290, 500, 440, 520)  # 30 px from the left edge of the tile
    assert {w.col for w in shifted(wide, first, 80)} == {180}
    assert not list(shifted(shapely.box(200, 300, 900, 800), first, 80))


# --- Numbers --------------------------------------------------------------------------------------


def test_estimates_say_what_they_rest_on() -> None:
    nan = float("nan")
    assert Estimate.of(np.array([nan, nan])) == Estimate(0, None, None, None)
    assert Estimate.of(np.array([nan, 2.0])) == Estimate(1, 2.0, None, None)
    found = Estimate.of(np.array([1.0, 3.0, nan]))
    # t with one degree of freedom: 12.706; the error of the mean is sqrt(2) / sqrt(2).
    assert (found.count, found.mean) == (2, 2.0)
    assert (found.low, found.high) == pytest.approx((2 - 12.706, 2 + 12.706), abs=1e-3)
    assert Margin.of(np.array([nan, 0.0, 0.5, 0.1, -1.0])).share == 0.5


# --- A run ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    """Return the folder of a run with a known network."""
    folder = tmp_path_factory.mktemp("audit")
    source = write_tif(folder / "images" / "a.tif", blobs(360, 420, seed=5))
    write_tif(folder / "images" / "b.tif", blobs(360, 200, seed=6), col=420)
    options = {
        "sources": [str(source.parent)], "out": str(folder / "out"), "compute.readers": 0,
        "detections.min_area_m2": 0.0, "explain.calibration_tiles": 4,
        "tiling.size": 160, "tiling.overlap": 40,
    }  # fmt: skip
    run(load(None, options), model=colours_model())
    return folder


@pytest.fixture
def out(made, tmp_path) -> Path:
    """Return a copy of that run's output that a test may change."""
    return Path(shutil.copytree(made / "out", tmp_path / "out"))


RULES = AuditSettings(sample=4, seed=3)


def test_an_audit_leaves_a_table_a_picture_and_numbers(out) -> None:
    calls: list[tuple[int, int]] = []
    found = audit(
        out, RULES, device="cpu", model=colours_model(), progress=lambda *n: calls.append(n)
    )
    assert calls == [(1, 4), (2, 4), (3, 4), (4, 4)]
    run_json, own = (json.loads((out / name).read_text()) for name in ("run.json", "audit.json"))
    assert run_json["audit"] == json.loads(json.dumps(found.to_json()))
    assert {"calibration", "settings", "totals"} <= set(run_json), "the rest is still there"
    detections = own.pop("detections")
    assert own == run_json["audit"]
    assert "NaN" not in (out / "audit.json").read_text()
    assert len({entry["id"] for entry in detections}) == 4
    mean = np.mean([entry["gradcam"]["score_below_random"] for entry in detections])
    assert found.methods[0].score.below_random.area.mean == pytest.approx(mean)
    table = pd.read_csv(out / "audit.csv")
    assert table["method"].tolist() == ["gradcam", "gradcampp", "guided_gradcam"]
    assert table["detections"].tolist() == [4, 4, 4]
    assert table["score_below_random_area_mean"][0] == pytest.approx(mean)
    assert (out / "audit.png").read_bytes()[:4] == b"\x89PNG"
    assert not [path for path in out.iterdir() if ".tmp" in path.name]
    assert {"gradcam", "guided_gradcam"} <= set(found.to_text().split())
    for method in found.methods:  # the network looks at nothing but the object
        assert method.confidence.below_lowest.area.mean > 0.1, method
        assert method.score.below_lowest.area.mean > 0.1, method


@pytest.mark.parametrize(("away", "word"), [(0, "focused"), (AWAY, "context")])
def test_evidence_and_audit_agree_on_where_a_network_looks(
    tmp_path: Path, away: int, word: str
) -> None:
    """A known network on imagery with the features that it detects."""
    pixels = np.zeros((3, 448, 448), np.uint8)
    for n, (row, col) in enumerate(product((64, 192, 320), repeat=2)):
        pixels[n % 3, row : row + 16, col : col + 16] = 240
    write_tif(tmp_path / "images" / "a.tif", pixels)
    options = {
        "sources": [str(tmp_path / "images")], "out": str(tmp_path / "out"), "compute.readers": 0,
        "detections.min_area_m2": 0.0, "explain.methods": ("gradcam",),
        "tiling.size": 160, "tiling.overlap": 80, "tiling.stride": 8,
    }  # fmt: skip
    model = model_of(KnownNetwork(away))
    run(load(None, options), model=model)
    table = gpd.read_parquet(tmp_path / "out" / "detections.parquet")
    assert len(table) == 9
    assert set(table["evidence"]) == {word}
    (method,) = audit(tmp_path / "out", AuditSettings(sample=9), model=model).methods
    # Faithful either way: what the map points to is what the network needs.
    assert method.confidence.below_random.area.low > 0.05
    assert method.confidence.below_random.share == 1


def test_an_audit_outlives_a_run_that_changes_nothing(out, made) -> None:
    found = audit(out, AuditSettings(sample=1), model=colours_model())
    settings = json.loads((out / "run.json").read_text())["settings"]
    settings["out"] = str(out)
    run(Settings.model_validate(settings), model=colours_model())
    assert json.loads((out / "run.json").read_text())["audit"]["seed"] == found.seed
    settings["detections"]["min_area_m2"] = 8.0
    run(Settings.model_validate(settings), model=colours_model())
    assert "audit" not in json.loads((out / "run.json").read_text())


@pytest.mark.thorough
def test_the_seed_decides(out) -> None:
    found, again, other = (
        audit(out, rules, model=colours_model())
        for rules in (RULES, RULES, AuditSettings(sample=4, seed=4))
    )
    assert found == again
    assert replace(other, seed=found.seed) != found


def test_a_sample_takes_from_every_class_in_turn(out) -> None:
    path = out / "detections.parquet"
    table = pd.read_parquet(path, columns=["id", "class_id"])
    classes = table["class_id"].value_counts()
    assert (classes >= 2).all(), "else there is nothing to choose"
    chosen = sample_detections(path, LO19, 2 * len(classes), 0)
    assert Counter(detection.class_id for detection in chosen) == dict.fromkeys(classes.index, 2)
    assert all(detection.region.area % 1 == 0 for detection in chosen), "in whole pixels"
    other = sample_detections(path, LO19, 2 * len(classes), 1)
    assert {detection.id for detection in chosen} != {detection.id for detection in other}
    everything = sample_detections(path, LO19, 10_000, 0)
    assert [detection.id for detection in everything] == table["id"].tolist()


def test_what_is_not_there_is_said(out, made, tmp_path) -> None:
    model = colours_model()
    with pytest.raises(OutputError, match=r"holds no run\.json"):
        audit(tmp_path, RULES, model=model)
    with pytest.raises(UsageError, match="at least 1 detection, got 0"):
        audit(out, AuditSettings(sample=0), model=model)
    with pytest.raises(CheckpointError, match=r"is not the checkpoint of the run.*1111.*0000"):
        audit(out, RULES, model=replace(model, sha256="1" * 64))
    with output_lock(out), pytest.raises(OutputError, match="is in use by"):
        audit(out, RULES, model=model)
    table = pd.read_parquet(out / "detections.parquet")
    table[:0].to_parquet(out / "detections.parquet")
    with pytest.raises(UsageError, match="holds no detection"):
        audit(out, RULES, model=model)
    (out / "detections.parquet").unlink()
    with pytest.raises(UsageError, match="capecam finish"):
        audit(out, RULES, model=model)


def test_images_that_are_gone_are_named(out, made) -> None:
    image = made / "images" / "b.tif"
    aside = image.rename(made / "aside.tif")
    try:
        with pytest.raises(UsageError, match="gone or cannot be used: b;"):
            audit(out, AuditSettings(sample=100), model=colours_model())
    finally:
        aside.rename(image)


def test_an_image_that_cannot_be_decoded_costs_its_detections(out, made) -> None:
    image = made / "images" / "b.tif"
    whole = image.read_bytes()
    image.write_bytes(whole[: len(whole) // 2] + bytes(len(whole) - len(whole) // 2))
    try:
        found = audit(out, AuditSettings(sample=100), model=colours_model())
        assert found.skipped
        assert all("b.tif: cannot be decoded" in why for why in found.skipped.values())
        total = len(pd.read_parquet(out / "detections.parquet"))
        assert sum(found.by_class.values()) == total - len(found.skipped) > 0
    finally:
        image.write_bytes(whole)
