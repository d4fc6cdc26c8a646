"""State of a run on disk: records, schemas, staleness, verification."""
