"""Licence, attribution, capture date, model, run and software in every product of a run."""

from __future__ import annotations

import hashlib
import io
import json
import logging
import re
import shutil
from pathlib import Path

import pyarrow.parquet as pq
import pyogrio
import pytest
import rasterio
from support.cities import blobs, write_tif
from support.commands import same_products

from capecam import __version__
from capecam.io.cog import copy_with_tags
from capecam.io.parquet_texts import copy_with_texts, rows_digest
from capecam.mosaic.city import open_city
from capecam.pipeline.preparation import warn_of_names
from capecam.run.city_products import finish
from capecam.run.statements import update_statements
from capecam.run.supervisor import run
from capecam.runtime.progress import LINE_S, ProgressLines
from capecam.settings import AboutSettings
from capecam.settings.loading import load
from capecam.store.about import About, model_title
from capecam.store.ledger import Ledger
from capecam.store.records import CellRecord, FileFacts
from capecam.store.run_folder import RunFolder
from capecam.store.verify import verify

ABOUT = {"attribution": "© City of Blobs", "licence": "CC-BY-4.0", "captured": "2023-02"}
SAID = {
    "CAPECAM_ATTRIBUTION": "© City of Blobs",
    "CAPECAM_LICENCE": "CC-BY-4.0",
    "CAPECAM_LICENCE_URL": "https://spdx.org/licenses/CC-BY-4.0.html",
    "CAPECAM_CAPTURED": "2023-02",
}


@pytest.fixture
def out(city, tmp_path) -> Path:
    """A copy of the run with three of its cells."""
    shutil.copytree(city / "out", tmp_path / "out", ignore=shutil.ignore_patterns("[0-26-8]"))
    return tmp_path / "out"


def publish(out: Path, about: dict[str, str], captured: str = "") -> None:
    """Change what the run says of its data, as a run with other settings records it."""
    record = json.loads((out / "run.json").read_text())
    record["settings"]["about"] = about
    images = sorted({json.loads(p.read_text())["image"] for p in out.glob("cells/*/cell.json")})
    record["captured"] = dict.fromkeys(images, captured) if captured else {}
    (out / "run.json").write_text(json.dumps(record))


def tags_of(path: Path) -> dict[str, str]:
    with rasterio.open(path) as dataset:
        return dataset.tags()


def texts_of(path: Path) -> dict[str, str]:
    metadata = pq.read_metadata(path).metadata
    return {key.decode(): text.decode(errors="replace") for key, text in metadata.items()}


def test_products_name_model_run_and_software(city) -> None:
    out = city / "out"
    record = json.loads((out / "run.json").read_text())
    model = {
        "CAPECAM_MODEL": "FPN (resnet18), model.pt",
        "CAPECAM_MODEL_SHA256": record["checkpoint"]["sha256"],
    }
    rasters = [*out.glob("*.tif"), *out.glob("*.vrt"), *out.glob("cells/*/*.tif")]
    found = [tags_of(path) for path in rasters]
    assert all(model.items() <= tags.items() for tags in found)
    assert {tags["TIFFTAG_SOFTWARE"] for tags in found} == {f"capecam {__version__}"}
    tables = [*out.glob("*.parquet"), *out.glob("cells/*/*.parquet")]
    texts = [texts_of(path) for path in tables]
    assert all(model.items() <= entry.items() for entry in texts)
    assert {entry["CAPECAM_SOFTWARE"] for entry in texts} == {f"capecam {__version__}"}
    (run_key,) = {entry["CAPECAM_RUN"] for entry in [*found, *texts]}
    layer = pyogrio.read_info(out / "detections.gpkg", layer="detections")["layer_metadata"]
    assert (layer | model)["CAPECAM_RUN"] == run_key
    assert model.items() <= layer.items()
    assert f"run {run_key}, network FPN (resnet18), model.pt" in (out / "report.html").read_text()
    unknown = {"CAPECAM_LICENCE", "CAPECAM_ATTRIBUTION", "CAPECAM_CAPTURED", "TIFFTAG_COPYRIGHT"}
    assert not any(unknown & entry.keys() for entry in [*found, *texts])
    libraries = {"gdal", "proj", "rasterio", "segmentation_models_pytorch", "timm", "torch"}
    assert libraries <= record["versions"].keys()


def test_cells_say_what_holds_now_and_again_what_they_said(city, out) -> None:
    publish(out, ABOUT, "2023-02")
    heard = io.StringIO()
    with ProgressLines(heard, LINE_S) as progress:
        update_statements(RunFolder.open(out), progress)
        assert (progress.moment.done, progress.moment.total) == (3, 3)
    assert heard.getvalue() == "updating licence and date: 0 of 3 cells\n"
    for path in out.glob("cells/*/*.tif"):
        if path.stem != "objects":  # which finish draws
            assert SAID.items() <= tags_of(path).items()
            copyright = (
                "© City of Blobs; licence: CC-BY-4.0 (https://spdx.org/licenses/CC-BY-4.0.html)"
            )
            assert tags_of(path)["TIFFTAG_COPYRIGHT"] == copyright
    assert all(SAID.items() <= texts_of(p).items() for p in out.glob("cells/*/*.parquet"))
    assert all("/cells/" not in finding.path for finding in verify(out).findings)
    publish(out, {})
    update_statements(RunFolder.open(out))
    for path in out.glob("cells/*/*.*"):
        if path.name != "cell.json":
            assert path.read_bytes() == (city / "out" / path.relative_to(out)).read_bytes()


def test_statements_do_not_change_the_checksum_of_rows(out) -> None:
    path, copy = out / "cells/3/detections.parquet", out / "copy.parquet"
    copy_with_texts(path, copy, {"CAPECAM_LICENCE": "another one"})
    assert copy.read_bytes() != path.read_bytes()
    data = copy.read_bytes()
    rows = data[: -8 - int.from_bytes(data[-8:-4], "little")]
    assert rows_digest(copy) == rows_digest(path) == hashlib.sha256(rows).hexdigest()
    copy.write_bytes(data[:9] + bytes([data[9] ^ 1]) + data[10:])
    assert rows_digest(copy) != rows_digest(path)
    assert rows_digest(out / "none.parquet") is None


def test_a_cell_of_an_earlier_version_gets_what_is_known_of_it(out) -> None:
    """Its version was not recorded."""
    path = out / "cells/3/cell.json"
    record = json.loads(path.read_text())
    about = record.pop("about")
    path.write_text(json.dumps(record))
    before = (out / "cells/4/classes.tif").stat()
    update_statements(RunFolder.open(out))
    tags = tags_of(out / "cells/3/classes.tif")
    assert tags["TIFFTAG_SOFTWARE"] == "capecam"
    assert tags["CAPECAM_MODEL"] == "FPN (resnet18), model.pt"
    assert tags["CAPECAM_RUN"] == about["run"]
    assert (out / "cells/4/classes.tif").stat() == before


def test_all_cells_have_the_name_that_the_same_checkpoint_has_now(out) -> None:
    record = json.loads((out / "run.json").read_text())
    record["settings"]["checkpoint"] = "renamed.pt"
    (out / "run.json").write_text(json.dumps(record))
    path = out / "cells/3/cell.json"
    cell = json.loads(path.read_text())
    cell["about"] |= {"model": "another network", "model_sha256": "0"}
    path.write_text(json.dumps(cell))
    update_statements(RunFolder.open(out))
    names = {n: tags_of(out / f"cells/{n}/classes.tif")["CAPECAM_MODEL"] for n in "34"}
    assert names == {"3": "FPN (resnet18), model.pt", "4": "FPN (resnet18), renamed.pt"}


def test_the_name_of_a_checkpoint_need_not_be_text(out) -> None:
    tags = About(model=model_title("FPN", "mod\udce8le.pt")).tiff_tags()
    copy_with_tags(out / "cells/3/classes.tif", out / "copy.tif", tags)
    assert tags_of(out / "copy.tif")["CAPECAM_MODEL"] == "FPN, mod?le.pt"


def test_a_damaged_raster_is_not_made_to_look_whole(out, caplog) -> None:
    damaged = out / "cells/4/gradcam.tif"
    data = bytearray(damaged.read_bytes())
    data[-9] ^= 255
    damaged.write_bytes(data)
    publish(out, ABOUT, "2023-02")
    with caplog.at_level(logging.WARNING):
        update_statements(RunFolder.open(out))
    assert f"{damaged}: is not as it was written" in caplog.text
    bad = [finding.path for finding in verify(out).findings if "/cells/" in finding.path]
    assert bad == [str(damaged)]
    assert SAID.items() <= tags_of(out / "cells/5/gradcam.tif").items()


def test_an_interruption_between_files_and_record_is_made_good(out, monkeypatch) -> None:
    """A cell of now, and one of version 0.1, whose tables were compressed otherwise."""
    for path in out.glob("cells/[4-9]"):
        shutil.rmtree(path)
    for about in (ABOUT, {}):
        publish(out, about, about.get("captured", ""))
        if not about:
            make_old(out / "cells/3")
        with monkeypatch.context() as patch:
            patch.setattr(CellRecord, "write", interrupt)
            with pytest.raises(KeyboardInterrupt):
                update_statements(RunFolder.open(out))
        record = Ledger.of(out).read("3")
        assert not any(facts.are_of(out / "cells/3" / file) for file, facts in record.files.items())
        update_statements(RunFolder.open(out))
        assert all("/cells/3" not in finding.path for finding in verify(out).findings)
        captured = tags_of(out / "cells/3/classes.tif").get("CAPECAM_CAPTURED")
        assert captured == about.get("captured")
        versions = {file: facts.version for file, facts in record.files.items()}
        files = Ledger.of(out).read("3").files
        assert {file: facts.version for file, facts in files.items()} == versions


def make_old(folder: Path) -> None:
    """Take the statements out of a cell."""
    record = json.loads((folder / "cell.json").read_text())
    del record["about"]
    for file in record["files"]:
        path = folder / file
        if path.suffix == ".tif":
            copy_with_tags(path, folder / "copy", {})
        else:
            table = pq.read_table(path)
            rest = {k: v for k, v in table.schema.metadata.items() if b"CAPECAM_" not in k}
            pq.write_table(table.replace_schema_metadata(rest), folder / "copy")
        (folder / "copy").replace(path)
        record["files"][file] = FileFacts.of(path).to_json()
    (folder / "cell.json").write_text(json.dumps(record))


def interrupt(*_: object) -> None:
    raise KeyboardInterrupt


def test_names_without_a_date_are_counted_in_a_line(tmp_path, caplog) -> None:
    for n, name in enumerate(["2023_a", "b", "c"]):
        write_tif(tmp_path / f"{name}.tif", blobs(50, 60, n), 60 * n)
    images = open_city([str(tmp_path)], None).mosaic.sources
    for pattern in (r"(?P<year>\d{4})_", r"(?P<year>\d{4})?", "^.*(?P<year>)", None):
        warn_of_names(images, AboutSettings(captured_pattern=pattern))
    found = [re.search(r"names of (.*);", line)[1] for line in caplog.messages]
    assert found == ["2 of 3 images, such as b", "2 of 3 images, such as b",
                     "3 of 3 images, such as 2023_a"]  # fmt: skip


@pytest.mark.thorough
def test_another_licence_makes_no_cell_and_the_bytes_of_a_new_run(city, tmp_path) -> None:
    """Results about the detections stay, since these are the same."""
    options = {f"about.{key}": value for key, value in ABOUT.items()}

    def made(out: str, **more: object) -> int:
        given = {"out": tmp_path / out, "run.in_process": True, **more}
        return run(load(city / "city.yaml", given)).tiles

    shutil.copytree(city / "out", tmp_path / "changed")
    record = json.loads((tmp_path / "changed/run.json").read_text())
    record["audit"] = {"kept": True}
    (tmp_path / "changed/run.json").write_text(json.dumps(record))
    assert made("changed", **options) == 0
    assert made("new", **options) > 0
    same_products(tmp_path / "changed", tmp_path / "new")
    for path in (tmp_path / "new/stac").rglob("*.json"):
        other = tmp_path / "changed" / path.relative_to(tmp_path / "new")
        assert other.read_text() == path.read_text()
    record = json.loads((tmp_path / "changed/run.json").read_text())
    assert record["audit"] == {"kept": True}
    layer = pyogrio.read_info(tmp_path / "changed/detections.gpkg", layer="detections")
    assert SAID.items() <= layer["layer_metadata"].items()
    assert "© City of Blobs; licence: <a href=" in (tmp_path / "changed/report.html").read_text()
    assert verify(tmp_path / "changed").exit_code == 0
    before = {p: p.read_bytes() for p in (tmp_path / "changed").rglob("*.parquet")}
    finish(tmp_path / "changed")
    assert before == {p: p.read_bytes() for p in before}
