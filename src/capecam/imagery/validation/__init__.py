"""Checks of an image file before GDAL sees it: hostile, damaged and foreign files are refused."""
