"""An export is all that the page asks for, as files."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from starlette.testclient import TestClient
from support.tracing import LO19

from capecam.errors import OutputError
from capecam.grid import Window
from capecam.viewer.export import MAX_TILES, export_page, finest_level
from capecam.viewer.imagery import TILE_PX


def test_an_export_has_what_the_server_sends(out: Path, client: TestClient, tmp_path: Path) -> None:
    site = tmp_path / "site"
    site.mkdir()
    made = export_page([out], site)
    files = {str(path.relative_to(site)) for path in site.rglob("*") if path.is_file()}
    assert made.files == len(files)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["site"]
    city, of_server = json.loads((site / "city.json").read_text()), client.get("/city.json").json()
    assert city["served"] is False
    (run,) = city["runs"]
    assert "capecam view OUT" in run["explain_problem"]
    (there,) = of_server["runs"]
    assert run == {**there, "explain_problem": run["explain_problem"]}
    named = {"index.html", "city.json", *(run["detections"][n] for n in ("counts", "queue"))}
    named.add(run["detections"]["outlines"])
    for layer in run["layers"]:
        if layer["kind"] == "raster":
            cells = layer["cells"] or ["east", "west"]
            named |= {layer["cell_file"].replace("{cell}", cell) for cell in cells}
            named.add(layer["overview"])
        else:
            for z in range(layer["max_z"] + 1):
                size = TILE_PX << z
                rows, cols = -(-640 // size), -(-1280 // size)
                named |= {
                    layer["url"].format(z=z, row=row, col=col)
                    for row in range(rows) for col in range(cols)
                }  # fmt: skip
    queue = json.loads((site / run["detections"]["queue"]).read_text())
    assert queue == client.get("/run/0/queue.json?limit=1000").json()
    named |= {f"run/0/thumbnails/{row[0]}.jpg" for row in queue["rows"]}
    assert named <= files
    assert not {name for name in files - named if name.startswith("run/")}
    for name in sorted(named - {"city.json", run["detections"]["queue"]}):
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        assert (site / name).read_bytes() == answer.content, name


def test_an_export_overwrites_nothing(out: Path, tmp_path: Path) -> None:
    (tmp_path / "mine.txt").write_text("mine")
    for folder in (tmp_path, tmp_path / "mine.txt", tmp_path / "no/such"):
        with pytest.raises(OutputError, match=r"; (name|make) "):
            export_page([out], folder)
    with pytest.raises(OutputError, match=r"run\.json"):
        export_page([tmp_path], tmp_path / "new")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.txt"]


@pytest.mark.parametrize(
    ("edge", "finest"), [(1, 0), (12_500, 0), (45_000, 0), (60_000, 1), (850_000, 4)]
)
def test_large_cities_are_exported_without_the_finest_levels(edge: int, finest: int) -> None:
    grid = LO19.crop(Window(-5, 7, edge, edge))
    assert finest_level(grid) == finest
    at_finest = (edge / (256 << finest)) ** 2
    assert at_finest < MAX_TILES or finest == 4
