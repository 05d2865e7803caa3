"""Statistics over the trials of a run: samples, differences, power, claims and their verdicts."""
