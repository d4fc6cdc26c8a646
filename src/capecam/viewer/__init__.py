"""The viewer: a run in the browser, with a server that explains and takes verdicts."""
