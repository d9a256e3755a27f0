"""What a run writes: its folder, checkpoints, logs and curves."""
