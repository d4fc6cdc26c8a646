"""The passes of the engine as one static graph of ATen operations, and what runs it."""
