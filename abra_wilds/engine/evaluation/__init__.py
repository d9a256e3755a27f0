"""Predictions, their scores, their records, and what they cost."""
