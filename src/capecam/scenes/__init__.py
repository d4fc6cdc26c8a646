"""The sample city: seeded aerial scenes at 8 cm per pixel with exact truth."""

from capecam.scenes.scene import Scene, SceneObject, draw_scene

__all__ = ["Scene", "SceneObject", "draw_scene"]
