"""Approximate scores of all views: the score predictor and FAISS."""
