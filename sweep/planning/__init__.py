"""Grids, plans and the banks that trials need."""
