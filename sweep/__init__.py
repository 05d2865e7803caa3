"""Many trials: grids, the schedule, tracking and the report."""
