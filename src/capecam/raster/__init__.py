"""Rasters: reading the mosaic, writing products. Only this package opens raster files."""
