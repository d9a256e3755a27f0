"""Whether a model, or the screen itself, tells classes by something that is not the cells."""
