"""Pure functions of (N, D) arrays: what an embedding space is like. No file format, no model."""
