"""Rasters: reading the mosaic, writing products. Only this package opens raster files."""

from capecam.raster.cog import CogSet, CogWriter, Product, write_image
from capecam.raster.header import Header, gdal_settings, open_readonly, read_header
from capecam.raster.mosaic import Mosaic, Reader, Source, build_mosaic
from capecam.raster.vrt import write_vrt

__all__ = [
    "CogSet",
    "CogWriter",
    "Header",
    "Mosaic",
    "Product",
    "Reader",
    "Source",
    "build_mosaic",
    "gdal_settings",
    "open_readonly",
    "read_header",
    "write_image",
    "write_vrt",
]
