"""Pure functions of tensors: statistics, losses, precision."""
