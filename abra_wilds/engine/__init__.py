"""Training: one linear loop, one step, schedules, checkpoints and logs."""
