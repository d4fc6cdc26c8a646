"""Load a checkpoint file as a frozen network."""
