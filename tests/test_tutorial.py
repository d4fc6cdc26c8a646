"""Every command of the tutorial, typed as it is written, over a smaller city."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from support.commands import typed

TUTORIAL = Path(__file__).parents[1] / "docs/tutorial.md"


@pytest.mark.thorough
@pytest.mark.timeout(600)
def test_the_tutorial_works_as_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    commands = re.findall(r"^    capecam (.+)$", TUTORIAL.read_text(), re.M)
    assert len(commands) > 10
    for command in commands:
        typed(*shlex.split(re.sub(r"--size \d+", "--size 400", command)))
    made = {path.name for path in Path("city").iterdir()} | {
        p.name for p in Path("city/out").iterdir()
    }
    assert {"mine.yaml", "mine.png", "doubtful.html", "report.html", "capecam.qgz"} <= made
    assert {"review.gpkg", "panels", "detections.geojson"} <= made
