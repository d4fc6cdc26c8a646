"""Products in and out: COG, VRT, overview, GeoParquet, GeoPackage and other vector files."""
