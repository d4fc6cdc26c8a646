"""Many images as one raster on one pixel grid; area of interest; reading windows."""
