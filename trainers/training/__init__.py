"""One training loop and its state."""
