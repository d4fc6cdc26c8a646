"""Detections: objects made of class pixels, their evidence, and their files."""
