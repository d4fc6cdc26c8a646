"""Pictures of heatmaps, drawn into axes of matplotlib."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike

from capecam.api.raster import Raster
from capecam.errors import UsageError

if TYPE_CHECKING:
    from matplotlib.axes import Axes

TICKS = 4
"""Maximum number of steps along an axis, whose numbers are long."""


def plot_heatmap(
    heat: Raster | ArrayLike,
    image: Raster | ArrayLike | None = None,
    *,
    top: float | None = None,
    axes: Axes | None = None,
) -> Axes:
    """Draw a heatmap, over an image in grey if there is one.

    >>> bbox = (-51_000, -3_763_050, -50_950, -3_763_000)
    >>> plot_heatmap(results.heatmap("gradcam", "solar panel", bbox), results.imagery(bbox))
    >>> plot_heatmap(maps.heat["gradcam"][0, 0], pixels[0])

    A colour bar is ``axes.figure.colorbar(axes.images[-1], ax=axes)``.

    Args:
        heat: (h, w) of a :class:`Raster`, a tensor or an array; not negative, NaN is not drawn.
        image: (3 or 4, H, W) of 0..255, of the same place.
        top: value with the brightest colour; None: the highest.
        axes: where to draw; None: in a new figure.

    Raises:
        UsageError: these are not the shapes.
    """
    from matplotlib import pyplot as plt  # noqa: PLC0415 slow to import
    from matplotlib.colors import PowerNorm  # noqa: PLC0415

    from capecam.views.panels.tile_drawing import COLORMAPS, GREY, LUMA  # noqa: PLC0415

    values = _array(heat, 2, "heat must be (h, w)")
    axes = axes or plt.subplots(layout="constrained")[1]
    extent = under = _extent(heat if image is None or isinstance(heat, Raster) else image)
    if image is not None:
        pixels = _array(image, 3, "image must be (3 or 4, H, W)").transpose(1, 2, 0) / 255
        grey = (pixels[..., :3] @ LUMA * GREY)[..., None].repeat(3, axis=2)
        if isinstance(image, Raster):
            under = _extent(image)
        axes.imshow(np.dstack([grey, pixels[..., 3:]]), extent=under)
    highest = float(np.nanmax(values, initial=0.0)) if top is None else top
    gamma = heat.gamma if isinstance(heat, Raster) else 1.0
    norm = PowerNorm(gamma, 0, highest or 1.0, clip=True)
    shown = np.ma.masked_invalid(values)
    ramp = COLORMAPS["inferno"]
    opacity = 1.0 if image is None else ramp.opacity(norm(shown).filled(0))
    axes.imshow(
        shown, cmap=ramp.name, norm=norm, alpha=opacity, extent=extent, interpolation="bilinear"
    )
    if isinstance(heat, Raster):
        axes.set_title(heat.name)
        axes.ticklabel_format(useOffset=False, style="plain")
        axes.locator_params(nbins=TICKS)
    else:
        axes.set_axis_off()
    axes.set(xlim=under[:2], ylim=under[2:])
    return axes


def _array(values: Raster | ArrayLike, dimensions: int, rule: str) -> Any:
    """Return values as an array, also those of a tensor on a GPU."""
    tensor = getattr(values, "detach", None)
    array = np.asarray(values if tensor is None else tensor().float().cpu())
    if array.ndim != dimensions:
        raise UsageError(f"{rule}, got {array.shape}; select one tile and class")
    return array


def _extent(values: Raster | ArrayLike) -> tuple[float, float, float, float]:
    """Return left, right, bottom and top: map coordinates, or pixels."""
    if isinstance(values, Raster):
        left, bottom, right, top = values.bounds
        return left, right, bottom, top
    height, width = np.shape(values)[-2:]
    return 0, width, height, 0
