"""Attention and similarity to boxes."""
