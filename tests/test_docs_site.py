"""The documentation as a site: every link leads somewhere, and it works without a network."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]

pytestmark = pytest.mark.thorough


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("site")
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--quiet", "--strict", "--site-dir", folder],
        cwd=ROOT, env={**os.environ, "NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True,
        check=False,
    )  # fmt: skip
    assert built.returncode == 0, built.stdout + built.stderr
    return folder


def test_every_page_is_there_and_asks_for_nothing_elsewhere(site: Path) -> None:
    pages = {path.stem: path.read_text() for path in site.glob("*.html")}
    written = [*(ROOT / "docs").glob("*.md"), *(ROOT / "docs").glob("notebooks/*.ipynb")]
    assert {path.stem for path in written} | {"index"} <= pages.keys()
    for name, text in pages.items():
        assert re.findall(r'<(?:script|link|img)[^>]+(?:src|href)="https?:', text) == [], name
    assert 'id="capecam.api.read_heatmap"' in pages["api"]
    assert "shares of the city" in pages["api"], "docstrings are there"


@pytest.mark.chromium
def test_the_search_works_from_a_disk(browser: Any, site: Path) -> None:
    page = browser.new_context(offline=True).new_page()
    page.goto((site / "index.html").as_uri())
    page.get_by_role("textbox", name="Search").click()
    page.keyboard.type("collar")
    page.locator(".md-search-result__item").first.wait_for()
    assert page.get_by_role("link", name="Glossary").count()
