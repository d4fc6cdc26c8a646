"""``report.html``: the run as one page that opens without a network connection."""
