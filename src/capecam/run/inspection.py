"""``capecam inspect``: description of a checkpoint or an image."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from capecam.errors import ImageError
from capecam.imagery.header_reader import read_header
from capecam.io.paths import location, names_checkpoint
from capecam.mosaic.diagnostics import Diagnostic, image_diagnostics
from capecam.run.text_table import key_value_table, text_table
from capecam.settings import Settings

COLUMNS = "unusual", "what a run does"


@dataclass(frozen=True, slots=True)
class Inspection:
    """Result of inspecting a file."""

    facts: Mapping[str, object]
    diagnostics: tuple[Diagnostic, ...] | None = None
    """None of a checkpoint, and of an image that cannot be used."""
    refusal: str | None = None
    """Why an image cannot be used, and the remedy."""

    @property
    def exit_code(self) -> int:
        """0, or 2 for an image that cannot be used."""
        return 0 if self.refusal is None else ImageError.exit_code

    def to_json(self) -> dict[str, object]:
        """Return the result as ``--json`` prints it."""
        tree = dict(self.facts)
        if self.diagnostics is not None:
            tree["remarks"] = [entry.to_json() for entry in self.diagnostics]
        return tree if self.refusal is None else tree | {"refused": self.refusal}

    def to_text(self) -> str:
        """Return the result as text."""
        parts = [key_value_table([(name, str(value)) for name, value in self.facts.items()])]
        if self.diagnostics is not None:
            rows = [(entry.finding, entry.action) for entry in self.diagnostics]
            parts += ["", text_table(COLUMNS, rows) if rows else "nothing unusual"]
        return "\n".join(parts)


def inspect_path(name: str, settings: Settings) -> Inspection:
    """Inspect a checkpoint or an image.

    Args:
        name: a path, or ``/vsi...``.
        settings: how a run would read it.

    Raises:
        CheckpointError: it is a checkpoint that cannot be used.
    """
    path = location(name)
    if names_checkpoint(path):
        from capecam.run.checkpoint_inspection import inspect_checkpoint  # noqa: PLC0415 torch is slow to import

        return Inspection(inspect_checkpoint(path, settings.model))
    try:
        header = read_header(path, settings.imagery, apart=True, align=settings.mosaic.align)
    except ImageError as error:
        return Inspection({"raster": str(path), **error.facts}, refusal=str(error))
    width, height = header.placement.ground_m
    facts = {"raster": str(path), **dict(header.metadata.to_rows())}
    facts["on the ground"] = f"{width:.3g} x {height:.3g} m a pixel"
    return Inspection(facts, image_diagnostics(header, settings))
