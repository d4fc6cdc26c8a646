"""Checks that the products of a run are what was written. ``capecam verify``."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

from capecam.io.cog import why_not_cog
from capecam.runtime.files import file_digest
from capecam.store.ledger import Ledger
from capecam.store.records import FileFacts, RunRecord
from capecam.store.run_folder import known_run

UNFINISHED = (
    "; the city's layers were not compared, since the last run has not made them: the same run "
    "again, or capecam finish, does"
)


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
    """Compare every product with its recorded size and sha256, and rasters with the rules of COGs.

    Raises:
        OutputError: the folder holds no run.
    """
    run = known_run(out)
    findings: list[BadProduct] = []
    count = 0
    for folder, files, remedy in _recorded_files(out, run):
        for name, facts in files.items():
            count += 1
            if problem := _problem(folder / name, facts):
                findings.append(BadProduct(str(folder / name), problem, remedy))
    return Verification(count, tuple(findings), bool(run.products))


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
        # A style is no part of a cell: finish writes it, the same for all and the city's layer.
        styles = {Path(file).with_suffix(".qml").name for file in files}
        yield folder, {style: run.products[style] for style in styles & run.products.keys()}, finish
    yield out, run.products, finish


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
