"""The audit distinguishes maps of what the network uses from maps that show something else."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Callable
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

from capecam.analysis.audit import deletion_insertion
from capecam.analysis.audit.audit import audit
from capecam.analysis.audit.block_maps import (
    BlockMaps,
    Explain,
    Network,
    block_maps,
    energy_share,
)
from capecam.analysis.audit.conclusion import Verdict, conclude, judge
from capecam.analysis.audit.deletion_insertion import (
    MARGINS_M,
    SHARES,
    areas,
    measure_curves,
)
from capecam.analysis.audit.estimate import Estimate
from capecam.analysis.audit.measure import AuditEngines, AuditMeasurement, measure_detection
from capecam.analysis.audit.randomization import cascade, spearman, stages
from capecam.analysis.audit.sampling import (
    AuditTile,
    DetectionTiles,
    moved,
    sample_detections,
    shift_px,
    shifted,
)
from capecam.analysis.audit.summary import MethodAudit, summarize
from capecam.attribution.engine import Engine
from capecam.attribution.object_engine import ObjectEngine
from capecam.errors import CheckpointError, OutputError, UsageError
from capecam.grid import Tiling, Window
from capecam.model.model import Model, Normalisation
from capecam.pipeline.blocks import block_ranks
from capecam.pipeline.object_tiles import ExplainedObject, ObjectTile, object_tiles
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
    network: nn.Module, explain: Explain = block_maps, score: str = "mean"
) -> AuditEngines:
    model = model_of(network)

    def engines(of: Model) -> Network:
        return Network(Engine(of, ["gradcam"], score=score), ObjectEngine(of))

    randomised = {stage: engines(random) for stage, random in cascade(model, 0)}
    return AuditEngines(engines(model), randomised, TILING, 4, explain)


METHODS = ("gradcam", "object", "integrated_gradients")
STAGES = ("segmentation_head", "decoder", "encoder.1")


def detection_tiles(away: int, seed: int = 0) -> DetectionTiles:
    """Return tiles of a bright feature in dark noise and an object ``away`` cells from it."""
    extent = Window(0, 0, 128, 192)
    scene = np.random.default_rng(seed).integers(20, 60, (3, *extent.shape)).astype(np.uint8)
    scene[1, 56:72, 56:72] = 240
    region = shapely.box(56 + 8 * away, 56, 72 + 8 * away, 72)
    (own,) = object_tiles(ExplainedObject("2_0_0", 2, region), 64, 8, extent, (0.08, 0.08))

    def tile(window: Window) -> AuditTile:
        pixels = torch.from_numpy(scene[:, *window.slices(extent)])
        part = torch.from_numpy(moved(own.part, own.window, window))
        return AuditTile(window, pixels, torch.ones(64, 64, dtype=bool), part)

    others = tuple(map(tile, shifted(own.part, own.window, shift_px(TILING))))
    return DetectionTiles("2_0_0", 2, own, tile(own.window), others)


def measured(engines: AuditEngines, away: int, count: int = 4) -> list[AuditMeasurement]:
    return [
        measure_detection(detection_tiles(away, n), engines, np.random.default_rng(n))
        for n in range(count)
    ]


def judged(measurements: list[AuditMeasurement]) -> dict[str, MethodAudit]:
    audited, _ = summarize(measurements, METHODS, STAGES)
    return {entry.method: entry for entry in audited}


# --- Deletion and insertion -----------------------------------------------------------------------


def changed(change: Callable[[np.ndarray], np.ndarray]) -> Explain:
    """Return an ``Explain`` whose maps are changed ones of the network."""

    def explain(*arguments) -> BlockMaps:
        maps = block_maps(*arguments)
        return BlockMaps(change(maps.heat), maps.seconds)

    return explain


def shuffle() -> Callable[[np.ndarray], np.ndarray]:
    """Return a change that puts the blocks of every map into another random order."""
    rng = np.random.default_rng(5)
    return lambda heat: rng.permuted(heat.reshape(*heat.shape[:2], -1), axis=2).reshape(heat.shape)


@pytest.mark.parametrize("score", ["mean", pytest.param("predicted", marks=pytest.mark.thorough)])
@pytest.mark.parametrize("away", [0, AWAY], ids=["looks at the object", "looks at its context"])
def test_a_faithful_map_is_told_from_wrong_ones(away: int, score: str) -> None:
    honest = judged(measured(engines_of(KnownNetwork(away), score=score), away))
    for method, entry in honest.items():
        assert entry.above_random.low > 0.3, (method, entry)
        assert entry.above_distance.low > (0.3 if away else -0.05), (method, entry)
    for wrong in (np.negative, shuffle()):  # a shuffled map is one more random order
        found = judged(measured(engines_of(KnownNetwork(away), changed(wrong), score), away, 8))
        for method, entry in found.items():
            assert entry.above_random.low < 0.1, (wrong, method, entry)
            assert entry.above_random.high < honest[method].above_random.low


def test_a_map_of_the_object_is_wrong_where_the_network_looks_at_the_context() -> None:
    def object_itself(_network, _tiling, tiles, _class_id) -> BlockMaps:
        heat = np.stack([tile.part.numpy().reshape(8, 8, 8, 8).mean((1, 3)) for tile in tiles])
        return BlockMaps(heat[:, None].repeat(len(METHODS), axis=1), np.zeros(len(METHODS)))

    for away, as_good in ((0, True), (AWAY, False)):
        found = judged(measured(engines_of(KnownNetwork(away), object_itself), away))["object"]
        assert (found.above_random.low > 0.3) == as_good
        assert found.above_distance.mean == pytest.approx(0, abs=0.05)


def by_hand(monkeypatch: pytest.MonkeyPatch) -> tuple[ObjectEngine, DetectionTiles]:
    """Return four blocks of 8, 4, 2 and 2, of which the first two are an object, and an engine
    whose probability is the sigmoid of the pixels; what is removed is 0."""

    class Linear(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoder = nn.Conv2d(3, 1, 1, bias=False)
            self.encoder.weight.data = torch.tensor([1.0, 0, 0]).view(1, 3, 1, 1)

        def forward(self, x: Tensor) -> Tensor:
            y = self.encoder(x)
            return torch.cat([0 * y, y], dim=1)

    monkeypatch.setattr(deletion_insertion, "SHARES", (0.25, 0.5, 0.75, 1.0))
    monkeypatch.setattr(deletion_insertion, "blurred", lambda pixels, _: torch.zeros_like(pixels))
    values = torch.tensor([[8, 4], [2, 2]], dtype=torch.uint8)
    pixels = values.repeat_interleave(2, 0).repeat_interleave(2, 1).repeat(3, 1, 1)
    inside = np.zeros((4, 4), bool)
    inside[:2] = True
    window, far = Window(0, 0, 4, 4), np.where(inside, 0.0, 100.0)
    own = ObjectTile(window, inside, inside, np.zeros_like(inside), far, inside * 1.0)
    everywhere = torch.ones(4, 4, dtype=bool)
    tile = AuditTile(window, pixels, everywhere, torch.from_numpy(inside))
    engine = ObjectEngine(model_of(Linear(), "encoder", input_max=255.0))
    return engine, DetectionTiles("1_0_0", 1, own, tile, ())


def test_curves_and_areas_by_hand(monkeypatch: pytest.MonkeyPatch) -> None:
    engine, tiles = by_hand(monkeypatch)
    orders = np.array([[[0, 1], [2, 3]], [[3, 2], [1, 0]]])
    found = measure_curves(engine, tiles, orders, batch_size=3)
    eight, four = (1 / (1 + np.exp(-z)) for z in (8, 4))
    both, none = (eight + four) / 2, 0.5
    parts = np.array([both, (none + four) / 2, none, none, none]) / both
    back = np.array([none, (eight + none) / 2, both, both, both]) / both
    assert found.shares.tolist() == [0, 0.25, 0.5, 0.75, 1]
    assert found.deletion[0] == pytest.approx(parts, abs=1e-6)
    assert found.insertion[0] == pytest.approx(back, abs=1e-6)
    assert found.deletion[1] == pytest.approx(back[::-1], abs=1e-6), "the same, read from its end"
    assert found.insertion[1] == pytest.approx(parts[::-1], abs=1e-6)
    assert found.kept == pytest.approx([1] * len(MARGINS_M), abs=1e-6)
    assert areas(found.shares, np.array([[4.0, 2, 1, 0.5, 0]])).tolist() == [1.375]


def test_an_object_that_the_network_does_not_see_has_no_curves(monkeypatch) -> None:
    engine, tiles = by_hand(monkeypatch)
    monkeypatch.setattr(engine, "probability", lambda pixels, _: torch.zeros(len(pixels)))
    found = measure_curves(engine, tiles, np.arange(4).reshape(1, 2, 2), batch_size=3)
    assert np.isnan(found.deletion).all()
    assert np.isnan(found.kept).all()


def test_an_order_that_knows_nothing_is_near_the_lowest_end() -> None:
    """Within the first tenth of a tile; over all of it, it would be in the middle."""
    assert SHARES[-1] == 0.1
    measurements = measured(engines_of(KnownNetwork(0)), 0)
    _, (distance, random) = summarize(measurements, METHODS, STAGES)
    assert random.insertion_minus_deletion.mean < -0.5
    assert distance.insertion_minus_deletion.mean > 0.1, "the object is 6 % of this small tile"


def test_the_margin_that_an_object_needs_is_found() -> None:
    for away, least_m in ((0, 0.0), (AWAY, 2.0)):  # the feature is 8 to 24 px of 8 cm away
        (finding,) = measured(engines_of(KnownNetwork(away)), away, count=1)
        enough = np.array(MARGINS_M) >= least_m
        assert finding.kept[enough] == pytest.approx(1, abs=0.05)
        assert (finding.kept[~enough] < 0.95).all()


def test_an_empty_map_is_not_measured() -> None:
    nothing = changed(np.zeros_like)
    (finding,) = measured(engines_of(KnownNetwork(0), nothing), 0, count=1)
    assert finding.empty.all()
    assert np.isnan(finding.deletion[: len(METHODS)]).all()
    assert not np.isnan(finding.deletion[len(METHODS) :]).any(), "the baselines are"
    assert np.isnan(finding.randomized).all()


def test_a_map_that_is_gone_without_its_weights_has_changed() -> None:
    honest = engines_of(KnownNetwork(0))

    def explain(network: Network, *arguments) -> BlockMaps:
        maps = block_maps(network, *arguments)
        return maps if network is honest.network else maps._replace(heat=0 * maps.heat)

    (finding,) = measured(replace(honest, explain=explain), 0, count=1)
    assert (finding.randomized == 0).all()


def test_blocks_go_by_rank_and_never_without_imagery() -> None:
    key = np.array([[3.0, 1.0], [2.0, 4.0]])
    seen = np.array([[True, True], [True, False]])
    assert block_ranks(-key, seen, np.random.default_rng(0)).tolist() == [[0, 2], [1, 4]]
    drawn = {
        tuple(block_ranks(np.zeros((2, 2)), seen, np.random.default_rng(n)).ravel())
        for n in range(40)
    }
    assert len(drawn) == 6, "equal blocks go in every order"


def test_energy_on_other_objects_by_hand() -> None:
    heat = np.array([[[3.0, 1.0], [0.0, 4.0]], [[0.0, 0.0], [0.0, 0.0]]])
    others = np.array([[0.0, 1.0], [0.0, 0.25]])
    assert energy_share(heat, others)[0] == (1 + 1) / 8
    assert np.isnan(energy_share(heat, others)[1]), "an empty map"
    assert np.isnan(energy_share(heat, 0 * others)).all(), "no other object"


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
    def edges(_network, tiling, tiles, _class_id) -> BlockMaps:
        grey = torch.stack([tile.pixels for tile in tiles]).double().mean(dim=1, keepdim=True)
        steps = nn.functional.avg_pool2d(grey.diff(dim=-1, append=grey[..., -1:]).abs(), 8)
        return BlockMaps(steps.expand(-1, len(METHODS), -1, -1).numpy(), np.zeros(len(METHODS)))

    found = judged(measured(engines_of(KnownNetwork(0), edges), 0, count=10))
    for entry in found.values():
        assert entry.randomised["segmentation_head"].mean == pytest.approx(1)
        assert entry.believed is False
    own = np.stack([each.randomized for each in measured(engines_of(KnownNetwork(0)), 0)])
    assert own[..., 0].max() < 0.97, "there is little to randomise in three channels"
    assert (own[..., 0].min(axis=1) < 0.75).all()


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
    for finding in measured(engines_of(KnownNetwork(0)), 0, count=3):
        assert finding.shift_correlation[0] == pytest.approx(1, abs=1e-6)
        assert finding.shift_ratio[0] == pytest.approx(1, abs=1e-6)


def test_a_network_that_minds_its_place_is_less_stable() -> None:
    class Placed(KnownNetwork):
        """Network that brightens its input towards the right."""

        def forward(self, x: Tensor) -> Tensor:
            ramp = torch.linspace(0, 4, x.shape[-1], dtype=x.dtype)
            return super().forward(x * ramp)

    for finding in measured(engines_of(Placed(0)), 0, count=3):
        assert finding.shift_correlation[0] < 0.99
        assert finding.shift_ratio[0] < 0.9


def test_tiles_are_shifted_without_losing_the_object() -> None:
    first = Window(350, 260, 320, 320)

    def part(top: int, left: int, bottom: int, right: int) -> np.ndarray:
        inside = np.zeros((320, 320), bool)
        inside[top:bottom, left:right] = True
        return inside

    roof = part(150, 140, 170, 180)
    windows = list(shifted(roof, first, 80))
    assert [(w.row, w.col) for w in windows] == [(270, 180), (430, 340), (270, 340), (430, 180)]
    for window in windows:
        assert moved(roof, first, window).sum() == roof.sum()
        assert moved(moved(roof, first, window), window, first).tolist() == roof.tolist()
    wide = part(150, 30, 170, 180)  # 30 px from the left edge of the tile
    assert {w.col for w in shifted(wide, first, 80)} == {180}
    assert not list(shifted(part(0, 0, 320, 320), first, 80))


# --- Numbers --------------------------------------------------------------------------------------


def test_estimates_say_what_they_rest_on() -> None:
    nan = float("nan")
    assert Estimate.of(np.array([nan, nan])) == Estimate(0, None, None, None)
    assert Estimate.of(np.array([nan, 2.0])) == Estimate(1, 2.0, None, None)
    # Draws of two have the means 1, 2 and 3, a quarter of them each end.
    assert Estimate.of(np.array([1.0, 3.0, nan])) == Estimate(2, 2.0, 1.0, 3.0)
    values = np.random.default_rng(0).normal(5, 2, 400)
    found = Estimate.of(values)
    assert found == Estimate.of(values), "the seed is fixed"
    assert (found.low, found.high) == pytest.approx(
        (values.mean() - 0.2, values.mean() + 0.2), abs=0.03
    )


def between(low: float, high: float, count: int = 30) -> Estimate:
    return Estimate(count, (low + high) / 2, low, high)


@pytest.mark.parametrize(
    ("random", "distance", "head", "believed", "reason"),
    [
        (between(1.2, 1.6), between(-0.04, 0.1), between(0.1, 0.3), True, "Can be believed"),
        (between(-0.1, 0.0), between(-1.5, -1.2), between(0.1, 0.3), False, "random order"),
        (between(0.1, 0.2), between(-1.5, -1.2), between(0.1, 0.3), False, "distance"),
        (between(1.2, 1.6), between(-0.04, 0.1), between(0.9, 1.0), False, "hardly changes"),
        (between(1.2, 1.6), between(-0.04, 0.1), between(-1, -0.9), False, "hardly changes"),
        (between(1.2, 1.6), between(-0.06, 0.1), between(0.1, 0.3), None, "Too few"),
        (between(-0.1, 0.6), between(-0.04, 0.1), between(0.1, 0.3), None, "Too few"),
        (between(1.2, 1.6), between(-0.04, 0.1), None, None, "Too few"),
        (between(1.2, 1.6, 9), between(0.1, 0.2, 9), between(0, 0.1, 9), None, "Too few"),
    ],
)
def test_maps_are_judged_by_the_rule(random, distance, head, believed, reason) -> None:
    verdict = judge(random, distance, head)
    assert verdict.believed is believed
    assert reason in verdict.reason


def test_the_conclusion_is_one_sentence() -> None:
    yes, no, unknown = (Verdict(believed, "") for believed in (True, False, None))
    assert conclude({"a": yes, "b": no, "c": yes, "d": yes, "e": no}, 30) == (
        "With this network, a, c and d can be believed about objects, but b and e cannot."
    )
    assert conclude({"a": no}, 30) == "With this network, a cannot be believed about objects."
    assert conclude({"a": yes}, 30) == "With this network, a can be believed about objects."
    assert conclude({"a": yes, "b": no, "c": unknown}, 12) == (
        "With this network, a can be believed about objects, but b cannot; 12 detections are too "
        "few to judge c."
    )
    assert conclude({"a": unknown}, 12) == "12 detections are too few to judge a."
    assert "sample of 9 is too small" in conclude({"a": unknown}, 9)


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
    mean = np.mean([entry["gradcam"]["insertion_minus_deletion"] for entry in detections])
    assert found.methods[0].insertion_minus_deletion.mean == pytest.approx(mean)
    table = pd.read_csv(out / "audit.csv")
    methods = ["gradcam", "gradcampp", "guided_gradcam", "object", "integrated_gradients"]
    assert table["method"].tolist() == [*methods, "distance", "random"]
    assert set(table["detections"]) == {4}
    assert table["insertion_minus_deletion_mean"][0] == pytest.approx(mean)
    assert (table["seconds"][: len(methods)] > 0).all()
    assert (out / "audit.png").read_bytes()[:4] == b"\x89PNG"
    assert not [path for path in out.iterdir() if ".tmp" in path.name]
    assert set(methods) <= set(found.to_text().split())
    assert found.to_text().startswith("A sample of 4 is too small")
    assert found.to_text().splitlines()[0] == own["conclusion"]
    kept = [entry["kept"]["1"] for entry in detections]
    assert found.kept["1"].mean == pytest.approx(np.mean(kept))
    numbers = gpd.read_parquet(out / "detections.parquet").set_index("id")["alone"]
    assert kept == pytest.approx(numbers[[entry["id"] for entry in detections]], abs=1e-5)


@pytest.mark.parametrize(
    ("away", "word"),
    [pytest.param(0, "itself", marks=pytest.mark.thorough), (AWAY, "context")],
)
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
    found = audit(tmp_path / "out", AuditSettings(sample=4), model=model)
    for method in found.methods:
        # Faithful either way: what the map points to is what the network needs.
        assert method.above_random.low > 0.5, method


@pytest.mark.thorough
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
    chosen = [each.target for each in sample_detections(path, LO19, 2 * len(classes), 0)]
    assert Counter(detection.class_id for detection in chosen) == dict.fromkeys(classes.index, 2)
    assert all(detection.shape.area % 1 == 0 for detection in chosen), "in whole pixels"
    other = [each.target for each in sample_detections(path, LO19, 2 * len(classes), 1)]
    assert {detection.id for detection in chosen} != {detection.id for detection in other}
    everything = [each.target for each in sample_detections(path, LO19, 10_000, 0)]
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
    table = gpd.read_parquet(out / "detections.parquet")
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
