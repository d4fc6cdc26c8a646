"""Write the QGIS plugin as a zip, from which QGIS installs it: ``plugin_zip.py [FOLDER]``.

The same sources give the same bytes anywhere: names are sorted, times fixed, nothing compressed.
"""

from __future__ import annotations

import sys
import zipfile
from configparser import ConfigParser
from pathlib import Path

ROOT = Path(__file__).parents[1]
PLUGIN = ROOT / "qgis_plugin" / "capecam_qgis"
SUFFIXES = {".py", ".txt", ".svg"}


def write_zip(folder: Path) -> Path:
    """Write ``capecam_qgis-VERSION.zip`` into a folder, and return its path."""
    metadata = ConfigParser(interpolation=None)
    metadata.read(PLUGIN / "metadata.txt", encoding="utf-8")
    sources = [path for path in sorted(PLUGIN.iterdir()) if path.suffix in SUFFIXES]
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"{PLUGIN.name}-{metadata['general']['version']}.zip"
    temporary = path.with_name(f".{path.name}")
    with zipfile.ZipFile(temporary, "w") as archive:
        for source in [*sources, ROOT / "LICENSE"]:
            entry = zipfile.ZipInfo(f"{PLUGIN.name}/{source.name}")
            entry.create_system, entry.external_attr = 3, 0o644 << 16  # as on Unix
            archive.writestr(entry, source.read_bytes())
    return temporary.replace(path)


if __name__ == "__main__":
    print(write_zip(Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "dist"))
