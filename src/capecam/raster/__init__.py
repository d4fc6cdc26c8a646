"""Rasters: reading the mosaic, writing products. Only this package opens raster files."""

from capecam.raster.cog import CogSet, CogWriter, Product, why_not_cog, write_image
from capecam.raster.collars import Collars
from capecam.raster.coverage import Coverage
from capecam.raster.crs import crs_key
from capecam.raster.fingerprint import files_of, fingerprint
from capecam.raster.ground import ground_m, is_similar, ratio_to_model, unit_m
from capecam.raster.header import Header
from capecam.raster.headers import DAMAGED, HeaderRules, read_header, read_headers
from capecam.raster.imagery import write_imagery
from capecam.raster.locations import Location, VsiPath, location
from capecam.raster.mosaic import GridRules, Mosaic, Source, build_mosaic
from capecam.raster.opening import gdal_settings, open_image, open_readonly
from capecam.raster.overview import write_overview
from capecam.raster.percentiles import find_scale
from capecam.raster.places import LayerReader
from capecam.raster.reader import Reader
from capecam.raster.remarks import Remark, remarks, remarks_on_place
from capecam.raster.vrt import Layer, VrtTile, write_vrt

__all__ = [
    "DAMAGED",
    "CogSet",
    "CogWriter",
    "Collars",
    "Coverage",
    "GridRules",
    "Header",
    "HeaderRules",
    "Layer",
    "LayerReader",
    "Location",
    "Mosaic",
    "Product",
    "Reader",
    "Remark",
    "Source",
    "VrtTile",
    "VsiPath",
    "build_mosaic",
    "crs_key",
    "files_of",
    "find_scale",
    "fingerprint",
    "gdal_settings",
    "ground_m",
    "is_similar",
    "location",
    "open_image",
    "open_readonly",
    "ratio_to_model",
    "read_header",
    "read_headers",
    "remarks",
    "remarks_on_place",
    "unit_m",
    "why_not_cog",
    "write_image",
    "write_imagery",
    "write_overview",
    "write_vrt",
]
