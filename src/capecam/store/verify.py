"""Checks that the products of a run are what was written. ``capecam verify``."""

from __future__ import annotations

import zipfile
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from xml.etree import ElementTree as ET

from capecam.errors import ImageError
from capecam.imagery.header_reader import DAMAGED
from capecam.imagery.metadata import join_names
from capecam.imagery.opening import open_image
from capecam.io.cog import why_not_cog
from capecam.io.gdal import gdal_settings
from capecam.io.paths import location
from capecam.io.vrt import vrt_sources
from capecam.runtime.files import file_digest
from capecam.store.file_names import CATALOGUE, OBJECTS, PROJECT
from capecam.store.ledger import Ledger
from capecam.store.records import FileFacts, RunRecord
from capecam.store.run_folder import known_run

UNFINISHED = (
    "; the city's layers were not compared, since the last run has not made them: the same run "
    "again, or capecam finish, does"
)


NAMED = 3
"""Number of images that are named where some cannot be opened."""


@dataclass(frozen=True, slots=True)
class BadProduct:
    """A product that is not as it was recorded."""

    path: str
    problem: str
    remedy: str


@dataclass(frozen=True, slots=True)
class Verification:
    """Result of comparing every product of a run."""

    files: int
    """Number of products that were compared."""
    findings: tuple[BadProduct, ...]
    layers: bool = True
    """Whether the city's layers were among them: not after a run that was cut off, or of shards."""

    @property
    def exit_code(self) -> int:
        """3 if a product is bad."""
        return 3 if self.findings else 0

    def to_json(self) -> dict[str, object]:
        """Return the result as ``--json`` prints it."""
        return asdict(self)

    def to_text(self) -> str:
        """Return the result as text."""
        bad = [f"{f.path}: {f.problem}; {f.remedy}" for f in self.findings]
        rest = "" if self.layers else UNFINISHED
        return "\n".join([*bad, f"{self.files} products, {len(self.findings)} of them bad{rest}"])


def verify(out: Path) -> Verification:
    """Compare every product with its recorded size and sha256, and rasters with the rules of COGs;
    open the files that virtual rasters and the project name.

    Raises:
        OutputError: the folder holds no run.
    """
    run = known_run(out)
    findings: list[BadProduct] = []
    compared: set[str] = set()
    for folder, files, remedy in _recorded_files(out, run):
        for name, facts in files.items():
            compared.add(str(folder / name))
            if problem := _problem(folder / name, facts):
                findings.append(BadProduct(str(folder / name), problem, remedy))
    bad = {finding.path for finding in findings}
    with gdal_settings():
        for path in sorted(out.glob("*.vrt")):
            if str(path) in compared - bad:
                findings += _unopenable(path, set(vrt_sources(path)) - compared)
    findings += _project_problems(out / PROJECT)
    return Verification(len(compared), tuple(findings), bool(run.products))


def _unopenable(vrt: Path, names: set[str]) -> Iterator[BadProduct]:
    """Yield a problem if images that a virtual raster names cannot be opened."""
    gone = sorted(name for name in names if not _opens(name))
    if gone:
        problem = f"names {len(gone)} file(s) that cannot be opened: {join_names(gone, NAMED)}"
        yield BadProduct(str(vrt), problem, "bring them back to where they were, or run again")


def _opens(name: str) -> bool:
    try:
        open_image(location(name)).close()
    except (ImageError, *DAMAGED):
        return False
    return True


def _project_problems(path: Path) -> Iterator[BadProduct]:
    """Yield a problem if the QGIS project, which people may edit, names missing files beside it."""
    if not path.exists():
        return
    remedy = f"make it again with capecam finish {path.parent}"
    try:
        with zipfile.ZipFile(path) as archive:
            (inside,) = (name for name in archive.namelist() if name.endswith(".qgs"))
            root = ET.fromstring(archive.read(inside))
    except (OSError, ValueError, zipfile.BadZipFile, zlib.error, ET.ParseError) as error:
        yield BadProduct(str(path), f"cannot be read ({error})", remedy)
        return
    sources = {element.text or "" for element in root.iter("datasource")}
    files = {name.partition("|")[0] for name in sources if name.startswith("./")}
    for name in sorted(file for file in files if not (path.parent / file).exists()):
        yield BadProduct(str(path), f"names {name}, which does not exist", remedy)


def _recorded_files(
    out: Path, run: RunRecord
) -> Iterator[tuple[Path, Mapping[str, FileFacts], str]]:
    """Yield every folder, the files recorded in it, and the remedy where one of them is bad."""
    ledger = Ledger.of(out)
    finish = f"make it again with capecam finish {out}"
    for name in ledger.done():
        folder, record = ledger.folder / name, ledger.read(name)
        files = record.files if record else {}
        yield folder, files, f"remove {folder} and run again"
        if not run.products:
            continue
        # What finish writes into it: explanations of objects, which reach into several cells, and
        # styles, the same for all cells and the city's layer.
        objects = {f"{OBJECTS}.tif": run.objects[name]} if name in run.objects else {}
        styles = {Path(file).with_suffix(".qml").name for file in (*files, *objects)}
        named = {style: run.products[style] for style in styles & run.products.keys()}
        yield folder, objects | named, finish
    yield out, run.products, finish
    yield out / CATALOGUE, run.stac, finish


def _problem(path: Path, recorded: FileFacts) -> str | None:
    try:
        size = path.stat().st_size
        if size != recorded.bytes:
            return f"has {size} bytes, not {recorded.bytes}"
        if file_digest(path) != recorded.sha256:
            return "its content is not what was written"
    except OSError as error:
        return str(error.strerror)
    return why_not_cog(path) if path.suffix == ".tif" else None
