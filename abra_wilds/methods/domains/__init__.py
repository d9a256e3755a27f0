"""Methods that compare bio-batches."""
