"""Values on a pixel grid, as the results of a run return them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pyproj
from affine import Affine
from numpy.typing import NDArray

from capecam.grid import Grid
from capecam.runtime import notebook_html
from capecam.runtime.extras import require_extra

if TYPE_CHECKING:
    import xarray

PICTURE_PX = 400
"""Width of the picture in a notebook."""


@dataclass(frozen=True, slots=True, eq=False)
class Raster:
    """Values on a north-up pixel grid; ``numpy.asarray`` gives them alone."""

    values: NDArray[Any]
    """(rows, columns), or (bands, rows, columns)."""
    grid: Grid
    name: str
    """Name of the values: a heatmap and its class."""
    units: str = ""
    gamma: float = 1.0
    """Exponent with which values are drawn: 0.5 for heatmaps that are stored by the square root."""
    bands: tuple[str, ...] = ()
    """Names of the bands, if there are several."""

    @property
    def transform(self) -> Affine:
        """Affine transform from pixels to map coordinates, as rasterio uses it."""
        return self.grid.transform

    @property
    def crs(self) -> str:
        """CRS as WKT."""
        return self.grid.crs

    @property
    def bounds(self) -> tuple[float, float, float, float]:
        """Left, bottom, right and top in map coordinates."""
        return self.grid.bounds

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of the values."""
        return self.values.shape

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> NDArray[Any]:
        """Return the values, for numpy."""
        return np.array(self.values, dtype=dtype, copy=copy)

    def to_xarray(self) -> xarray.DataArray:
        """Return the values with the coordinates of pixel centres and the CRS.

        ``spatial_ref`` holds the CRS as CF conventions, rioxarray and odc-geo expect it.

        Raises:
            SettingsError: xarray is not installed.
        """
        require_extra("xarray", ("xarray",), "to_xarray needs")
        import xarray  # noqa: PLC0415 optional

        rows, columns = self.shape[-2:]
        transform = self.transform
        x = transform.c + transform.a * (np.arange(columns) + 0.5)
        y = transform.f + transform.e * (np.arange(rows) + 0.5)
        if pyproj.CRS(self.crs).is_geographic:
            about_x = {"standard_name": "longitude", "units": "degrees_east"}
            about_y = {"standard_name": "latitude", "units": "degrees_north"}
        else:
            about_x = {"standard_name": "projection_x_coordinate"}
            about_y = {"standard_name": "projection_y_coordinate"}
        spatial_ref = {
            "crs_wkt": self.crs,
            "spatial_ref": self.crs,
            "GeoTransform": " ".join(map(repr, transform.to_gdal())),
        }
        coordinates: dict[str, Any] = {
            "y": ("y", y, about_y),
            "x": ("x", x, about_x),
            "spatial_ref": ((), 0, spatial_ref),
        }
        if self.bands:
            coordinates["band"] = ("band", list(self.bands))
        array = xarray.DataArray(
            self.values,
            dims=("band", "y", "x") if self.bands else ("y", "x"),
            coords=coordinates,
            name=self.name,
            attrs={"units": self.units} if self.units else {},
        )
        array.encoding["grid_mapping"] = "spatial_ref"
        return array

    def __repr__(self) -> str:
        """Return shape, type and place in a line, without the values."""
        size = " x ".join(map(str, self.shape))
        left, bottom, right, top = self.bounds
        place = f"x {left:.10g} to {right:.10g}, y {bottom:.10g} to {top:.10g}"
        return (
            f"Raster({self.name}: {size} {self.values.dtype}; {self.units or 'no unit'}; {place})"
        )

    def _repr_html_(self) -> str:
        """Return a picture, and what the values are as a table."""
        a, e = self.transform.a, self.transform.e
        left, bottom, right, top = self.bounds
        rows = [
            ("values", f"{' x '.join(map(str, self.shape))}, {self.values.dtype}"),
            ("unit", self.units),
            ("x", f"{left:.10g} to {right:.10g}"),
            ("y", f"{bottom:.10g} to {top:.10g}"),
            ("pixel", f"{a:g} x {-e:g}"),
        ]
        shown = notebook_html.small_picture(self._colors(), self.name, PICTURE_PX)
        return notebook_html.joined(
            notebook_html.table([[self.name]]), shown, notebook_html.table(rows)
        )

    def _colors(self) -> NDArray[np.uint8]:
        """Return the values as they are drawn, (rows, columns, 3 or 4); NaN is grey.

        Of a large raster, each n-th row and column, of which the picture averages 4 x 4 or more.
        """
        step = max(1, self.shape[-1] // (4 * PICTURE_PX))
        shown = self.values[..., ::step, ::step]
        if shown.ndim == 3:
            return np.asarray(shown.transpose(1, 2, 0), np.uint8)
        known = np.isfinite(shown)
        values = np.where(known, shown, 0)
        top = np.nanmax(self.values, initial=0) or 1
        colors = notebook_html.heat_colors((values / top) ** self.gamma)
        return np.where(known[..., None], colors, np.uint8(128))
