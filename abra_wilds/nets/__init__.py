"""Backbones as named stages."""
