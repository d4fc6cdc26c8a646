"""Statement in every product: model, run, software, capture date, licence and attribution."""

from __future__ import annotations

from typing import Self

from pydantic import BaseModel, ConfigDict

from capecam import __version__
from capecam.settings.about import PREFIX, AboutSettings
from capecam.settings.capture_date import CaptureDate

SOFTWARE = f"capecam {__version__}"


class About(BaseModel):
    """Statement about the origin of a product. What is not known is empty."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    software: str = ""
    """Name and version of what made the pixels; without a version for cells of 0.1."""
    model: str = ""
    """Architecture of the network, and the name of its file."""
    model_sha256: str = ""
    run: str = ""
    """Digest of what the pixels of all cells depend on: see ``CellInputs.run``."""
    captured: str = ""
    """When the images were taken: see ``CaptureDate``."""
    attribution: str = ""
    """Whose images they are."""
    licence: str = ""
    """Identifier of SPDX, or words."""
    licence_url: str = ""

    def published(self, settings: AboutSettings, captured: CaptureDate | None) -> Self:
        """Return the statement with what the publisher says now: all but model, run, software."""
        return self.model_copy(
            update={
                "captured": captured.text if captured else "",
                "attribution": settings.attribution or "",
                "licence": settings.licence or "",
                "licence_url": settings.licence_page or "",
            }
        )

    def texts(self) -> dict[str, str]:
        """Return what is known, by the keys of every format."""
        return {f"{PREFIX}{key.upper()}": text for key, text in self.model_dump().items() if text}

    def tiff_tags(self) -> dict[str, str]:
        """Return the metadata of a raster for GDAL: TIFF has tags of its own for two of them.

        There is no ``TIFFTAG_DATETIME``, the time at which a file was made: the same pixels would
        have other bytes.
        """
        tags = self.texts()
        if software := tags.pop(f"{PREFIX}SOFTWARE", None):
            tags["TIFFTAG_SOFTWARE"] = software
        if self.rights:
            tags["TIFFTAG_COPYRIGHT"] = self.rights
        return tags

    @property
    def rights(self) -> str:
        """Attribution and licence in a line."""
        url = f" ({self.licence_url})" if self.licence_url else ""
        licence = f"licence: {self.licence}{url}" if self.licence else ""
        return "; ".join(filter(None, (self.attribution, licence)))


def model_title(architecture: str, file: str) -> str:
    """Return the name of a network: its architecture, and its file if there is one.

    Tags and XML are UTF-8, which the names of files need not be: other bytes become "?".
    """
    return f"{architecture}, {file.encode(errors='replace').decode()}" if file else architecture
