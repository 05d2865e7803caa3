"""The grids that ship with the project."""
