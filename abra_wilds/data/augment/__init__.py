"""Augmentation, views and mixing of whole batches."""
