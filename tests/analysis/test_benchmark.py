"""The bench: what it says of the engine, the notebook's way and the peers is right."""

from __future__ import annotations

import csv
import dataclasses
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
import torch
from support.networks import images, tiny_model, tiny_network

from capecam.analysis.benchmark import measure
from capecam.analysis.benchmark.run import Extent, bench
from capecam.analysis.benchmark.table import Machine, Row, benchmark_table, write_csv
from capecam.attribution.comparison import map_error
from capecam.attribution.methods import GUIDED
from capecam.model.model import Model

CPU = torch.device("cpu")


def float_model() -> Model:
    """The peers take float32 only."""
    return tiny_model(tiny_network().float())


@pytest.fixture(autouse=True, scope="module")
def small_matrices() -> Iterator[None]:
    """The rate is still measured, of products that take no seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(measure, "matrix_gflops", partial(measure.matrix_gflops, size=256))
        yield


@pytest.fixture(scope="module")
def measured(small_matrices: None) -> tuple[list[Row], Machine]:
    return bench(float_model(), images(5, 64), CPU, Extent((1, 5), rounds=2), say=lambda _: None)


def test_every_way_makes_the_maps_of_the_reference(measured: tuple[list[Row], Machine]) -> None:
    rows, _ = measured
    assert {row.way for row in rows} == {
        "notebook's way", "capecam fp32", "pytorch-grad-cam", "captum", "torch-cam"
    }  # fmt: skip
    for row in rows:
        if row.task == "forward":
            assert row.argmax_agreement == 1
            continue
        assert row.compared > 0
        assert row.corr_gradcam == pytest.approx(1, abs=1e-3), row
        if row.way == "capecam fp32" and row.task == "nine maps":
            assert row.maps == 9
            assert row.corr_gradcampp == pytest.approx(1, abs=1e-6)
            assert row.corr_guided == pytest.approx(1, abs=1e-6)
            assert row.max_difference is not None
            assert row.max_difference < 1e-3


def test_rows_are_complete_and_ratios_those_of_the_same_maps(
    measured: tuple[list[Row], Machine],
) -> None:
    rows, machine = measured
    cases = [(row.way, row.task, row.batch) for row in rows]
    assert len(set(cases)) == len(cases)
    for task in ("forward", "six CAMs", "nine maps"):
        assert ("notebook's way", task, 1) in cases
        assert {("capecam fp32", task, 1), ("capecam fp32", task, 5)} <= set(cases)
    for row in rows:
        assert row.tiles_per_s > 0
        assert row.matrix_share == pytest.approx(row.gflops / machine.matrix_gflops)
        if row.way == "notebook's way":
            assert row.times_notebook == pytest.approx(1)
    by_hand, ours = (
        next(row for row in rows if (row.way, row.task, row.batch) == (way, "nine maps", 1))
        for way in ("notebook's way", "capecam fp32")
    )
    assert by_hand.gflop_per_tile > 3 * ours.gflop_per_tile


def test_what_a_cpu_cannot_hold_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """The system would kill the process, and the rows that were measured with it."""
    said: list[str] = []
    monkeypatch.setattr(measure, "peak_mb", lambda call, _device: 100.0 if call() else None)
    monkeypatch.setattr(measure, "free_mb", lambda: 150.0)
    rows, _ = bench(float_model(), images(5, 64), CPU, Extent((1, 5), rounds=1), said.append)
    assert {row.batch for row in rows} == {1}
    assert "left out: captum, nine maps, 5 tiles: needs about 500 MB of 150" in said
    alone, _ = bench(
        float_model(), images(5, 64), CPU, Extent((5,), rounds=1, with_peers=False), said.append
    )
    assert {row.way for row in alone} == {"notebook's way"}


def test_a_difference_is_seen() -> None:
    torch.manual_seed(0)
    reference = {"gradcam": torch.rand(3, 2, 8, 8), GUIDED: torch.rand(3, 2, 8, 8)}
    same = map_error({"gradcam": 5 * reference["gradcam"][:2] + 1}, reference)
    assert same.maps == 4  # scale and offset do not matter: two tiles, two classes
    assert same.correlation["gradcam"] == pytest.approx(1)
    assert same.max_difference == pytest.approx(0, abs=1e-6)
    found = reference["gradcam"].clone()
    found[1, 1] = found[1, 1].flip(0)
    other = map_error({"gradcam": found}, reference)
    assert other.correlation["gradcam"] < 0.9
    assert other.max_difference is not None
    assert other.max_difference > 0.1
    reference["gradcam"][0] = 0
    assert map_error({"gradcam": found}, reference).maps == 4  # empty ones are left out
    assert map_error({"gradcam": found}, {"gradcam": torch.zeros(3, 2, 8, 8)}).maps == 0


def test_flop_of_a_convolution_and_its_backward() -> None:
    conv = torch.nn.Conv2d(8, 16, 3, padding=1, groups=4)
    x = torch.randn(2, 8, 10, 10, requires_grad=True)
    once = 2 * 2 * 16 * 100 * 2 * 9 / 1e9  # 2 per product; batch, out, pixels, in / groups, kernel
    assert measure.gflop(lambda: conv(x)) == pytest.approx(once)
    assert measure.gflop(lambda: conv(x).sum().backward()) == pytest.approx(3 * once)


def test_table_and_file_say_all(measured: tuple[list[Row], Machine], tmp_path: Path) -> None:
    rows, machine = measured
    text = benchmark_table(rows, machine)
    assert all(word in text for word in ("x notebook", "torch-cam", machine.versions))
    assert len(text.splitlines()) == 1 + len(rows) + 2
    write_csv(tmp_path / "new" / "engine.csv", rows, machine)
    with (tmp_path / "new" / "engine.csv").open(newline="") as stream:
        lines = list(csv.DictReader(stream))
    assert len(lines) == len(rows)
    names = [field.name for kind in (Row, Machine) for field in dataclasses.fields(kind)]
    assert list(lines[0]) == names
    assert {line["way"] for line in lines} == {row.way for row in rows}
