"""From class pixels to objects, their evidence, and their files."""
