"""Pure functions of tensors: statistics, losses, calibration, precision."""
