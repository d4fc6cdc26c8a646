"""Atomic files, locks, logs, threads and child processes; imports neither rasterio nor torch."""
