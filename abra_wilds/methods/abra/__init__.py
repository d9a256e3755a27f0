"""ABRA: Algorithm 1, its open choices, its perturbation, and whether that does anything."""
