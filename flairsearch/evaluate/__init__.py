"""Data sets, mosaics and metrics."""
