"""From a checkpoint file to a frozen network."""
