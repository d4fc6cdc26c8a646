"""Rasters: reading the mosaic, writing products. Only this package opens raster files."""

from capecam.raster.cog import CogSet, CogWriter, Product, why_not_cog, write_image
from capecam.raster.coverage import Coverage
from capecam.raster.fingerprint import files_of, fingerprint
from capecam.raster.header import Header
from capecam.raster.headers import Rules, read_header, read_headers
from capecam.raster.imagery import write_imagery
from capecam.raster.locations import Location, VsiPath, location
from capecam.raster.mosaic import Mosaic, Source, build_mosaic
from capecam.raster.opening import gdal_settings, open_image, open_readonly
from capecam.raster.overview import write_overview
from capecam.raster.places import LayerReader
from capecam.raster.reader import Reader
from capecam.raster.vrt import Layer, VrtTile, write_vrt

__all__ = [
    "CogSet",
    "CogWriter",
    "Coverage",
    "Header",
    "Layer",
    "LayerReader",
    "Location",
    "Mosaic",
    "Product",
    "Reader",
    "Rules",
    "Source",
    "VrtTile",
    "VsiPath",
    "build_mosaic",
    "files_of",
    "fingerprint",
    "gdal_settings",
    "location",
    "open_image",
    "open_readonly",
    "read_header",
    "read_headers",
    "why_not_cog",
    "write_image",
    "write_imagery",
    "write_overview",
    "write_vrt",
]
