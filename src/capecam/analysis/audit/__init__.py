"""``capecam audit``: tests of whether the explanations of a run are faithful."""
