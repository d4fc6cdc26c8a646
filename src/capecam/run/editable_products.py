"""The GeoPackage of detections and the QGIS project: city products that people edit."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Self

import pyarrow.parquet as pq

from capecam.detections.assembly import AssemblyRules
from capecam.io.geopackage import holds, is_intact, remove_journals
from capecam.io.vector_writer import crs_of, index_column, write_gpkg
from capecam.runtime.files import atomic_write, file_digest
from capecam.store.edited import is_edited, set_aside
from capecam.store.file_names import DETECTIONS, GEOPACKAGE, LAYER, PROJECT, REJECTED
from capecam.store.records import FileFacts
from capecam.store.run_folder import RunFolder
from capecam.views.qgis.layer_tree import project_of
from capecam.views.qgis.project import write_project
from capecam.views.styles.layers import detections_style, rejected_style
from capecam.views.styles.qml import embed_style

log = logging.getLogger(__name__)

STAYS = "%s was edited, and there is nothing new to write into it: it stays"


@dataclass(frozen=True, slots=True)
class EditableProducts:
    """Both files as they were before the tables of detections are written again.

    An edited file stays as long as there is nothing new; then it is kept as a copy.
    """

    out: Path
    rules: AssemblyRules
    written: Mapping[str, FileFacts]
    """Files of the city as they were last written."""
    geopackage_edited: bool
    """True if somebody has changed objects, columns, layers or styles."""

    @classmethod
    def before(cls, out: Path, rules: AssemblyRules, written: Mapping[str, FileFacts]) -> Self:
        """Compare the GeoPackage with the tables that it was made of."""
        path = out / GEOPACKAGE  # into which QGIS writes when it opens it
        edited = is_edited(path, written) and not holds(path, _tables(out, rules))
        return cls(out, rules, written, edited)

    def write(self, run: RunFolder, counts: Mapping[str, int]) -> dict[str, FileFacts]:
        """Write both files from new tables, unless they stay; return them as last written.

        Args:
            run: the run.
            counts: number of detections by class.
        """
        facts = {
            GEOPACKAGE: self._update_geopackage(),
            PROJECT: self._update_project(run, counts),
        }
        return {name: entry for name, entry in facts.items() if entry is not None}

    def _update_geopackage(self) -> FileFacts | None:
        path = self.out / GEOPACKAGE
        tables = _tables(self.out, self.rules).values()
        if self.geopackage_edited:
            is_new = any(is_edited(table, self.written) for table in tables)
            if not is_new and is_intact(path):
                log.info(STAYS, path)
                _embed_styles(path, self.out, self.rules)
                return self.written.get(GEOPACKAGE)
            set_aside(path)
        write_geopackage(self.out, self.rules)
        return FileFacts.of(path)

    def _update_project(self, run: RunFolder, counts: Mapping[str, int]) -> FileFacts | None:
        path = self.out / PROJECT
        with TemporaryDirectory(dir=self.out, prefix=".project-") as folder:
            new = Path(folder) / PROJECT
            write_project(new, project_of(run, counts))
            if is_edited(path, self.written):
                if not is_edited(new, self.written):
                    log.info(STAYS, path)
                    return self.written.get(PROJECT)
                if file_digest(path) != file_digest(new):
                    set_aside(path)
            os.replace(new, path)
        return FileFacts.of(path)


def write_geopackage(out: Path, rules: AssemblyRules) -> None:
    """Write the finished tables of detections once more, as styled layers of a GeoPackage."""
    with atomic_write(out / GEOPACKAGE) as gpkg:
        write_gpkg(gpkg, _tables(out, rules), crs_of(out / DETECTIONS))
        _embed_styles(gpkg, out, rules)
        index_column(gpkg, LAYER, "review")  # the queue is a few of many
        remove_journals(out / GEOPACKAGE)


def _tables(out: Path, rules: AssemblyRules) -> dict[str, Path]:
    """Return the tables of detections by their layer in the GeoPackage."""
    tables = {LAYER: out / DETECTIONS}
    if rules.settings.keep_rejected:
        tables[REJECTED] = out / f"{REJECTED}.parquet"
    return tables


def _embed_styles(gpkg: Path, out: Path, rules: AssemblyRules) -> None:
    columns = pq.read_schema(out / DETECTIONS).names
    embed_style(gpkg, LAYER, detections_style(rules.classes, columns))
    if rules.settings.keep_rejected:
        embed_style(gpkg, REJECTED, rejected_style())
