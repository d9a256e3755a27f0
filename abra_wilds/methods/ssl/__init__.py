"""Self-supervised pre-training, and the classifier that follows it."""
