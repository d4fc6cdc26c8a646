"""Panels: figures of one tile with its prediction and heatmaps."""
