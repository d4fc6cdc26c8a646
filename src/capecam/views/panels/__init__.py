"""Panels: a tile as the network saw it, with its prediction and heatmaps."""
