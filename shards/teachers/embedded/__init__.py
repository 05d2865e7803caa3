"""The teacher that ships with the project: a tiny CLIP of handwritten digits (see CARD.md)."""
