"""Jobs about images, before and around training."""
