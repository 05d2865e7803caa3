"""Measures of embedding spaces: pure functions of (N, D) arrays. No file format, no model."""
