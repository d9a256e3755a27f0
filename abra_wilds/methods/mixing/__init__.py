"""Methods that mix images, and those with two heads."""
