"""What figures are made of, computed from saved models."""
