"""``capecam export-model``: a file that is checked, or none."""

from __future__ import annotations

import re
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path

import onnx
import onnxruntime
import pytest
import rasterio
import torch
from support.commands import typed

from capecam.analysis import export_model
from capecam.analysis.benchmark.workload import sample_tiles
from capecam.model.model import load_model
from capecam.runtime import extras
from capecam.settings.loading import load

DATA = Path(str(files("capecam.demo") / "data"))
PAGE = Path(__file__).parents[2] / "docs/onnx.md"


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """The sample model's configuration, without images."""
    path = tmp_path / "demo.yaml"
    text = (DATA / "demo.yaml").read_text()
    path.write_text(re.sub(r"^(sources|checkpoint):.*\n", "", text, flags=re.MULTILINE))
    return path


def exported(config: Path, *options: object, code: int = 0) -> tuple[Path, str]:
    """Export the sample model for small tiles; return the file, and what was printed."""
    out = config.with_name("explain.onnx")
    done = typed(
        "export-model", DATA / "sample_model.safetensors", "--config", config, "--out", out,
        "--tile", 96, *options, code=code,
    )  # fmt: skip
    return out, done.stderr if code else done.stdout


def write_tile(path: Path) -> Path:
    """Write an image of four drawn tiles, of which a corner is nodata."""
    pixels = torch.cat([*sample_tiles(4, 96, seed=1)], dim=2).numpy()
    height, width = pixels.shape[1:]
    with rasterio.open(
        path, "w", driver="GTiff", width=width, height=height, count=3, dtype="uint8", nodata=0,
        crs="EPSG:32734", transform=rasterio.Affine(0.08, 0, 0, 0, -0.08, 0),
    ) as dataset:  # fmt: skip
        dataset.write(pixels)
    return path


@pytest.mark.thorough
def test_a_file_in_plain_onnxruntime(
    config: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """As the page says it, with the file that the command writes and checks on an image."""
    image = write_tile(config.with_name("tile.tif"))
    out, text = exported(config, "--methods", "gradcam", "--check", image, "--license", "CC0")
    assert re.search(r"\| gradcam +\| \d\.\de-0[5-9]", text)
    assert "tiles of images" in text
    assert not list(out.parent.glob(".*"))  # nothing temporary
    facts = {entry.key: entry.value for entry in onnx.load(out).metadata_props}
    settings = load(config)
    model = load_model(DATA / "sample_model.safetensors", settings.model)
    assert facts["checkpoint_sha256"] == model.sha256
    assert (facts["score"], facts["license"]) == ("predicted", "CC0")
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    monkeypatch.chdir(out.parent)
    exec(compile(code, "onnx.md", "exec"), {})
    assert "solar panel most probable:" in capsys.readouterr().out
    session = onnxruntime.InferenceSession(out)
    assert [x.name for x in session.get_inputs()] == ["pixels"]  # the other one may be left out
    assert [x.name for x in session.get_outputs()] == ["probability", "gradcam"]


def test_a_file_that_is_off_is_not_kept(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(export_model, "TOLERANCE", 0.0)
    out, text = exported(config, "--layout", "segmentor", code=1)
    assert re.search(r"is not written: .* probability by \d.*; leave these --methods out", text)
    assert [path.name for path in out.parent.iterdir()] == ["demo.yaml"]


def test_a_missing_package_is_one_line(config: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        extras, "find_spec", lambda name: None if name == "onnxruntime" else find_spec(name)
    )
    out, text = exported(config, code=2)
    assert text.strip() == (
        "capecam: onnxruntime is not installed, which ONNX files need; pip install 'capecam[onnx]'"
    )
    assert not out.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--layout", "round"], "layout must be one of maps, segmentor, regressor"),
        (["--methods", "gradcan"], "unknown method"),
        (["--tile", 100], "tile must be a multiple of 32"),
        (["--out", "no/such/folder/explain.onnx"], "there is no such folder"),
    ],
)
def test_bad_calls(config: Path, options: list[object], message: str) -> None:
    assert message in exported(config, *options, code=2)[1]
