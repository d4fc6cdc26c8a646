"""Cities in which the reason for every detection is known, and what explanations say about them."""
