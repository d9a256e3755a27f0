"""From files and packs to batches on the host."""
