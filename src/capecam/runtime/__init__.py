"""Atomic files, locks, logs, threads and child processes; knows neither rasters nor torch."""
