"""Right or wrong: calibration, samples, verdicts and estimates."""
