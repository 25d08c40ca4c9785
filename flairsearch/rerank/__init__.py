"""Exact scores of views: numpy, numba, torch, triton."""
