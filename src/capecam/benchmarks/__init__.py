"""The engine beside the notebook's way and the peer libraries: speed with accuracy in the row."""
