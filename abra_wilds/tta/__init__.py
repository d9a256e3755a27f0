"""Test-time adaptation: whose batch-norm statistics predict an image, and what the predictions are worth."""
