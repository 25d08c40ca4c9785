"""Tokens to bytes and back."""
