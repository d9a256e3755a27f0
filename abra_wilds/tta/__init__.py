"""Test-time adaptation: whose batch-norm statistics predict an image."""
