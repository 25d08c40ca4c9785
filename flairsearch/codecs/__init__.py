"""Convert tokens to bytes and back."""
