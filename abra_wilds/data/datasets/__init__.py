"""Data sets, their tables, splits and controls."""
