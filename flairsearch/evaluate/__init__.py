"""Measure retrieval, regions, segmentation and codecs: data sets, mosaics and metrics."""
