"""A run opened again: its own imagery on its own lattice, and its own network.

For what looks at a run's tiles anew. Nothing is chosen here: all is as the run has recorded it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from capecam.attribution.device import pick_device
from capecam.attribution.engine import Engine
from capecam.errors import CheckpointError, UsageError
from capecam.model.model import Model, load_model
from capecam.mosaic.aoi import AreaOfInterest, read_aoi
from capecam.mosaic.mosaic import Mosaic, Source
from capecam.settings import Settings
from capecam.settings.tree import required
from capecam.store.file_names import DETECTIONS
from capecam.store.ledger import Ledger
from capecam.store.provenance import imagery_of, settings_of
from capecam.store.run_folder import known_run, product
from capecam.store.staleness import ImageHashes


@dataclass(frozen=True, slots=True)
class ReopenedRun:
    """A run, and the imagery that it was made from."""

    out: Path
    record: Mapping[str, Any]
    """``run.json``."""
    settings: Settings
    """Of the run."""
    mosaic: Mosaic
    """On the run's lattice, with all images that can be used now: what limited the work (area of
    interest, shards) does not matter here."""

    @classmethod
    def open(cls, out: Path) -> Self:
        """That of a folder.

        Raises:
            OutputError: it holds no run.
            UsageError: none of its images can be used.
        """
        record = known_run(out)
        settings = settings_of(out, record)
        return cls(out, record, settings, imagery_of(record, settings))

    def detections(self) -> Path:
        """The file of them.

        Raises:
            OutputError: it is not there.
        """
        return product(self.out, DETECTIONS)

    def interest(self) -> AreaOfInterest:
        """What of the mosaic was worked on.

        Raises:
            UsageError: the file that says so cannot be read.
        """
        return read_aoi(self.settings.mosaic, self.mosaic.grid)

    def check_images(self, names: Iterable[str]) -> None:
        """Are the images of some detections still there?

        Raises:
            UsageError: naming those that are not.
        """
        gone = sorted(set(names) - {source.name for source in self.mosaic.sources})
        if gone:
            raise UsageError(
                f"images of these detections are gone or cannot be used: {', '.join(gone)}; bring "
                "them back to where the run found them, or run again without them"
            )

    def check_unchanged(self, images: Sequence[Source], *, whole: bool) -> None:
        """Is a tile what it was when the run saw it?

        Args:
            images: those that touch it, at least one.
            whole: there is imagery everywhere in it, so that none can be missing.

        Raises:
            UsageError: naming an image that has changed, or is gone.
        """
        tiling, contents, named = self.settings.tiling, ImageHashes(), {i.name: i for i in images}
        there = {source.name for source in self.mosaic.sources}
        for cell in Mosaic(self.mosaic.grid, tuple(images)).cells(tiling.tiling, tiling.cell_size):
            image, record = named[cell.image], Ledger.of(self.out).read(cell.name)
            seen: dict[str, Any] = record["images"] if record else {}
            contents.learn(seen)
            if seen and contents.of_neighbour(image)["sha256"] != seen[image.name]["sha256"]:
                raise UsageError(
                    f"{image.header.path}: has changed since the run, which therefore saw "
                    "something else; run again, or bring the old one back"
                )
            gone = sorted(name for name in seen.keys() - there if seen[name]["sha256"])
            if gone and not whole:
                raise UsageError(
                    f"images beside {image.name} are gone, and may have been in the same tile: "
                    f"{', '.join(gone)}; bring them back to where the run found them"
                )

    def model(self, loaded: Model | None = None) -> Model:
        """The run's network; ``loaded``, if it is that.

        Raises:
            CheckpointError: it is another.
        """
        model = loaded or self._load()
        recorded = self.record["checkpoint"]["sha256"]
        if model.sha256 != recorded:
            raise CheckpointError(
                f"{self.settings.checkpoint}: is not the checkpoint of the run: its sha256 is "
                f"{model.sha256}, the run's is {recorded}; bring that one back, or run again"
            )
        return model

    def _load(self) -> Model:
        settings = self.settings
        checkpoint = required(settings.checkpoint, "checkpoint", "--checkpoint FILE to capecam run")
        return load_model(checkpoint, settings.model)

    def engine(self, model: Model, device: str | None = None) -> Engine:
        """Explains tiles as the run did, but all of them and all classes.

        Args:
            model: the network, or what was made of it.
            device: else as the settings say; on one of another kind precision is float32.
        """
        chosen = pick_device(device or self.settings.compute.device)
        explain, record = self.settings.explain, self.record
        return Engine(
            model,
            explain.methods,
            score=explain.score,
            precision=record["precision"] if chosen.type == record["device"] else "fp32",
            device=chosen,
        )
