"""``capecam bench``: the engine beside the notebook and the peer libraries."""
