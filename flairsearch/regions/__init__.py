"""Regions of an image: attention and similarity of its patches to boxes."""
